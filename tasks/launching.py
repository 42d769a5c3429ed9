"""Decides where a training run happens, and starts its processes: here, one per GPU with torchrun, or on a Ray cluster.

The same `fine_tune` runs in all cases; settings name the places (EVERTUNE_TRAINING_PROCESSES, EVERTUNE_RAY_ADDRESS).
"""

import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from configs.schema import Training
from configs.settings import Settings
from tasks.core.checkpoints import newest_step
from tasks.core.encoding import Rows
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.trainer import Progress
from tasks.core.training_worker import clear_job, raise_workers_error, read_progress, read_result, write_job

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_STOP = 15.0
RESTARTS_WITHOUT_PROGRESS = 2  # a run may lose processes for ever, as long as it saves checkpoints between

logger = logging.getLogger(__name__)


def fine_tune_somewhere(
    settings: Settings,
    folder: Path,
    train: Rows,
    validation: Rows,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    on_progress: Callable[[Progress], None],
    start: Path | None = None,
) -> FineTuned:
    """Return what `fine_tune` gives, from as many processes and machines as the settings say.

    `folder` is the run's own; a run that was killed goes on from the checkpoints in it. An error of `on_progress` ends
    the run. Raises DataError or RuntimeError with the worker's own words.
    """
    checkpoints, cache = folder / "trainer", settings.root / "cache" / "encoded"
    processes = settings.training_processes or max(1, torch.cuda.device_count())
    if settings.ray_address is None and processes == 1:
        return fine_tune(
            train, validation, labels, training, base_model, checkpoints, on_progress, start=start, cache=cache
        )
    job = folder / "job"
    if settings.ray_address is not None and settings.ray_storage is not None:
        job = settings.ray_storage / folder.parent.name / folder.name
        checkpoints, cache = job / "trainer", job / "cache"  # on the disk that all machines share
    write_job(
        job,
        train,
        validation,
        labels,
        training,
        base_model,
        checkpoints,
        start,
        cache,
        is_shared=settings.ray_address is not None,
    )
    if settings.ray_address is not None:
        from tasks.ray_training import run_on_ray

        logger.info("fine-tuning in %s workers of the Ray cluster %s", processes, settings.ray_address)
        run_on_ray(job, settings.ray_address, processes, on_progress)
    else:
        logger.info("fine-tuning in %s processes of this machine", processes)
        run_with_torchrun(job, checkpoints, processes, on_progress)
    tuned = read_result(job)
    if job.is_relative_to(folder):
        clear_job(job)  # the rest goes with the run's own folder
    else:
        shutil.rmtree(job, ignore_errors=True)  # nobody else looks after it
    return tuned


def run_with_torchrun(job: Path, checkpoints: Path, processes: int, on_progress: Callable[[Progress], None]) -> None:
    """Run the job in several processes of this machine; those a signal kills are started again from the checkpoint."""
    restarts, last_step = 0, newest_step(checkpoints)
    while True:
        exit_code, words = _run_once(job, processes, on_progress)
        if exit_code == 0:
            return
        raise_workers_error(job)
        step = newest_step(checkpoints)
        restarts, last_step = (1, step) if step > last_step else (restarts + 1, last_step)
        if restarts > RESTARTS_WITHOUT_PROGRESS:
            raise RuntimeError(f"fine-tuning: {_cause(words)}, {restarts} times without a new checkpoint")
        logger.warning("fine-tuning: %s; starting again from step %s", _cause(words), max(step, 0))


def _run_once(job: Path, processes: int, on_progress: Callable[[Progress], None]) -> tuple[int, str]:
    """Return torchrun's exit code and what it and the workers said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", str(processes), "-m", "tasks.core.training_worker", str(job.absolute())]
    log = job / "workers.log"
    offset, said = _size(job / "progress.jsonl"), _size(log)
    with log.open("ab") as output:
        # Workers end when this pipe closes, which it does however this process ends.
        launcher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=_environment(processes)
        )
        try:
            while launcher.poll() is None:
                time.sleep(SECONDS_BETWEEN_LOOKS)
                offset = _relay(job, offset, on_progress)
        finally:
            _stop(launcher)
    _relay(job, offset, on_progress)
    return launcher.returncode, log.read_bytes()[said:].decode(errors="replace")


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """Leave no process behind: the workers first, so that the launcher can gather them."""
    assert launcher.stdin is not None
    launcher.stdin.close()
    try:
        launcher.wait(SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()


def _relay(job: Path, offset: int, on_progress: Callable[[Progress], None]) -> int:
    reports, offset = read_progress(job, offset)
    for report in reports:
        on_progress(report)
    return offset


def _cause(words: str) -> str:
    """Return which worker ended and how, from torchrun's report."""
    found = re.search(r"Root Cause.*?rank\s+: (\d+).*?exitcode\s+: (-?\d+)", words, re.DOTALL)
    if not found:
        return f"torchrun failed: {(words.strip().splitlines() or ['no message'])[-1]}"
    worker, code = int(found[1]), int(found[2])
    return f"worker {worker} was killed by signal {-code}" if code < 0 else f"worker {worker} ended with code {code}"


def _environment(processes: int) -> dict[str, str]:
    """Return the workers' environment: cores shared out, no spinning threads, no traffic beyond this machine."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    here = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": loopback}
    path = os.pathsep.join(entry for entry in (str(Path.cwd()), os.environ.get("PYTHONPATH", "")) if entry)
    return {**os.environ, **here, "NCCL_SOCKET_IFNAME": loopback, "PYTHONPATH": path}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
