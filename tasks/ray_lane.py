"""Trials as tasks of a Ray cluster: each may run on another machine, which has evertune and sees the rows' folder."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

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
from tasks.ray_training import connect

SECONDS_BETWEEN_LOOKS = 0.1
REPORTS, STOP = "reports.jsonl", "stop"


@contextmanager
def open_ray_lanes(address: str, count: int) -> Iterator[Sequence[RunTrial]]:
    """Yield lanes of a cluster, `local` for one that is started here; a trial takes a GPU where the cluster has any."""
    connect(address, count)
    import ray

    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        yield [partial(_run, gpus)] * count
    finally:
        ray.shutdown()


def _run(gpus: int, job: Job, tell: Tell) -> Outcome:
    """Run a trial as a task; its reports and the word to stop go through files of its folder, which both sides see."""
    import ray
    from ray.exceptions import RayError

    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / REPORTS, folder / STOP):
        old.unlink(missing_ok=True)
    remote = ray.remote(_run_remote).options(num_cpus=1, num_gpus=gpus, max_retries=0)
    task = remote.remote(job.to_record())
    offset, is_done = 0, False
    try:
        while not is_done:
            is_done = bool(ray.wait([task], timeout=SECONDS_BETWEEN_LOOKS)[0])
            offset = _relay(folder, offset, tell)
        message = ray.get(task)
    except RayError as error:
        raise TrialFailedError(f"its Ray task ended: {str(error).strip().splitlines()[0]}") from error
    except BaseException:
        ray.cancel(task, force=True)
        raise
    if "failed" in message:
        raise TrialFailedError(message["failed"])
    if "stopped" in message:
        raise TrialStoppedError
    return Outcome(**message["outcome"])


def _relay(folder: Path, offset: int, tell: Tell) -> int:
    """Pass on what was reported since the offset, and say stop where `tell` does; return the next offset."""
    if not (folder / REPORTS).is_file():
        return offset
    with (folder / REPORTS).open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        if not tell(Report(**json.loads(line))):
            (folder / STOP).touch()
    return offset + len(whole)


def _run_remote(record: dict[str, Any]) -> dict[str, Any]:
    job = Job.from_record(record)
    folder = Path(job.folder)

    def tell(report: Report) -> bool:
        with (folder / REPORTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")
        return not (folder / STOP).exists()

    try:
        return {"outcome": asdict(run_and_name_failure(job, tell))}
    except TrialStoppedError:
        return {"stopped": True}
    except TrialFailedError as error:
        return {"failed": str(error)}
