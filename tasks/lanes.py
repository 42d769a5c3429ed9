"""Where trials run: in this process, in worker processes of this machine (one GPU each), or as tasks of a Ray cluster.

A lane runs one trial at a time; a search has as many as `EVERTUNE_TUNING_PROCESSES` says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from configs.settings import Settings
from tasks.core.trials import (
    Job,
    Outcome,
    Report,
    RunTrial,
    Tell,
    TrialFailedError,
    TrialStoppedError,
    run_and_name_failure,
)

SECONDS_TO_STOP = 15.0


@contextmanager
def open_lanes(settings: Settings, folder: Path) -> Iterator[Sequence[RunTrial]]:
    """Yield what runs trials, one callable per lane; worker processes write their words to `folder`."""
    import torch

    gpus = torch.cuda.device_count()
    count = settings.tuning_processes or max(1, gpus)
    with ExitStack() as stack:
        if settings.ray_address is not None:
            from tasks.ray_lane import open_ray_lanes

            yield stack.enter_context(open_ray_lanes(settings.ray_address, count))
        elif count == 1:
            yield [run_and_name_failure]
        else:
            lanes = [
                _ProcessLane(folder / f"worker-{number}.log", _environment(number, count)) for number in range(count)
            ]
            for lane in lanes:
                stack.callback(lane.close)
            yield [lane.run for lane in lanes]


class _ProcessLane:
    """Runs trials in a process of its own, which is started again when one killed it."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self._log = log
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def run(self, job: Job, tell: Tell) -> Outcome:
        """Run a trial; as `run_and_name_failure`, and a process that dies is a failure too."""
        process = self._start()
        try:
            return _converse(process, job, tell)
        except (EOFError, BrokenPipeError) as error:
            self.close()
            raise TrialFailedError(self._describe_end(process.returncode)) from error
        except TrialStoppedError:
            raise
        except BaseException:
            self.close()  # a trial that failed may leave memory taken; the next one gets a fresh process
            raise

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is None:
            with self._log.open("wb") as words:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tasks.core.trial_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=words,
                    text=True,
                    encoding="utf-8",
                    env=self._environment,
                )
        return self._process

    def _describe_end(self, code: int) -> str:
        if code < 0:
            hint = "; was memory short?" if code == -9 else ""
            return f"its process was killed by signal {-code}{hint}"
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {words[-1] if words else 'no message'}"


def _converse(process: "subprocess.Popen[str]", job: Job, tell: Tell) -> Outcome:
    assert process.stdin is not None
    assert process.stdout is not None
    _write(process, job.to_record())
    while line := process.stdout.readline():
        message = json.loads(line)
        if "report" in message:
            _write(process, tell(Report(**message["report"])))
        elif "outcome" in message:
            return Outcome(**message["outcome"])
        elif "failed" in message:
            raise TrialFailedError(message["failed"])
        else:
            raise TrialStoppedError
    raise EOFError


def _write(process: "subprocess.Popen[str]", message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def _environment(number: int, count: int) -> dict[str, str]:
    """Return a worker's environment: its GPU where there are any, else its share of the cores; no spinning threads."""
    import torch

    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    gpus = torch.cuda.device_count()
    if gpus:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = named.split(",") if named else [str(gpu) for gpu in range(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = visible[number % gpus]
    else:
        environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    root = str(Path(__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return environment
