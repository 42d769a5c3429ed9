"""One process of a training run: `python -m tasks.core.training_worker FOLDER`, started once per process by a launcher.

The *job folder* is all that launcher and workers share, so it may lie on another machine's disk: `job.json` and the
rows go in; `progress.jsonl`, `error-RANK.json` and at last `result/` come out.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import torch

from configs.schema import Training
from tasks.core.base_models import PACKAGE, resolve_base_model
from tasks.core.classifier import load_classifier, load_tokenizer, save_classifier
from tasks.core.encoding import Rows
from tasks.core.errors import DataError
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.processes import is_lost_peer, rank, wait_for_all
from tasks.core.trainer import Progress

HOURS_TO_WAIT_FOR_RANK_ZERO = 24  # it may tokenise for long; that a process died is noticed by the launcher
NUMBERS = ("seconds", "steps", "resumed_from", "device", "precision", "validation_macro_f1")


@dataclass(frozen=True)
class TrainingJob:
    """The arguments of `fine_tune`, as a file holds them."""

    train: str
    validation: str
    labels: list[str]
    training: dict[str, Any]
    base_model: str
    checkpoints: str
    start: str | None
    cache: str | None


def write_job(
    folder: Path,
    train: Rows,
    validation: Rows,
    labels: Sequence[str],
    training: Training,
    base_model: str,
    checkpoints: Path,
    start: Path | None = None,
    cache: Path | None = None,
    is_shared: bool = False,
) -> None:
    """Write what the workers need; what an earlier job left in the folder goes.

    A shared job is worked on by other machines, so that files from elsewhere on this one are copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("error-*.json"), folder / "progress.jsonl", folder / "workers.log"]:
        old.unlink(missing_ok=True)
    shutil.rmtree(folder / "result", ignore_errors=True)
    if is_shared and start:
        start = Path(shutil.copytree(start, folder / "start", dirs_exist_ok=True))
    job = TrainingJob(
        train=_place(train, folder / "train.parquet", is_shared),
        validation=_place(validation, folder / "validation.parquet", is_shared),
        labels=list(labels),
        training=training.model_dump(mode="json", by_alias=True),
        base_model=base_model,
        checkpoints=str(checkpoints.absolute()),
        start=str(start.absolute()) if start else None,
        cache=str(cache.absolute()) if cache else None,
    )
    (folder / "job.json").write_text(json.dumps(asdict(job), indent=1), encoding="utf-8")


def run_job(folder: Path) -> None:
    """Take this process's part in the job; an error is written down before it is raised."""
    try:
        _join_the_others()
        job = TrainingJob(**json.loads((folder / "job.json").read_text(encoding="utf-8")))
        training = Training.model_validate(job.training)
        is_packaged = training.base_model.startswith(PACKAGE)  # its place differs between machines
        tuned = fine_tune(
            Path(job.train),
            Path(job.validation),
            job.labels,
            training,
            resolve_base_model(training.base_model) if is_packaged else job.base_model,
            Path(job.checkpoints),
            _progress_writer(folder / "progress.jsonl"),
            Path(job.start) if job.start else None,
            Path(job.cache) if job.cache else None,
        )
        if rank() == 0:
            _write_result(tuned, folder)
        wait_for_all()
    except Exception as error:
        if not is_lost_peer(error):
            text = json.dumps({"kind": type(error).__name__, "message": str(error)})
            (folder / f"error-{rank()}.json").write_text(text, encoding="utf-8")
        raise


def read_result(folder: Path) -> FineTuned:
    """Return what the job gave."""
    numbers = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result = folder / "result"
    return FineTuned(classifier=load_classifier(result), tokenizer=load_tokenizer(str(result / "encoder")), **numbers)


def clear_job(folder: Path) -> None:
    """Delete the rows and the weights that were passed on: snapshots and versions keep them, and can erase them."""
    for name in ("train.parquet", "validation.parquet"):
        (folder / name).unlink(missing_ok=True)
    for name in ("start", "cache", "result"):
        shutil.rmtree(folder / name, ignore_errors=True)


def read_progress(folder: Path, offset: int) -> tuple[list[Progress], int]:
    """Return what rank 0 reported since the offset, and the next offset; a half-written line waits."""
    path = folder / "progress.jsonl"
    if not path.is_file():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [Progress(**json.loads(line)) for line in whole.splitlines()], offset + len(whole)


def has_workers_error(job: Path) -> bool:
    """Return whether a worker failed of itself."""
    return any(job.glob("error-*.json"))


def raise_workers_error(job: Path) -> None:
    """Raise the first worker's error, if one wrote any: it would only come again."""
    written = sorted(job.glob("error-*.json"), key=lambda path: path.stat().st_mtime)
    if not written:
        return
    error = json.loads(written[0].read_text(encoding="utf-8"))
    worker = written[0].stem.removeprefix("error-")
    if error["kind"] == "DataError":
        raise DataError(error["message"])
    raise RuntimeError(f"fine-tuning: worker {worker} failed: {error['kind']}: {error['message']}")


def _place(rows: Rows, path: Path, is_shared: bool) -> str:
    if isinstance(rows, pd.DataFrame):
        rows.reset_index(drop=True).to_parquet(path, engine="pyarrow")
        return str(path.absolute())
    return str((Path(shutil.copy(rows, path)) if is_shared else rows).absolute())


def _join_the_others() -> None:
    from accelerate import PartialState

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(hours=HOURS_TO_WAIT_FOR_RANK_ZERO))


def _progress_writer(path: Path) -> Callable[[Progress], None]:
    def write(progress: Progress) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(progress)) + "\n")

    return write


def _write_result(tuned: FineTuned, folder: Path) -> None:
    result = folder / f"result-{uuid4().hex}"
    save_classifier(tuned.classifier, tuned.tokenizer, result)
    shutil.rmtree(folder / "result", ignore_errors=True)  # of a run that was killed right here
    result.replace(folder / "result")
    numbers = {name: getattr(tuned, name) for name in NUMBERS}
    (folder / "result.json").write_text(json.dumps(numbers), encoding="utf-8")


def _end_with_the_launcher() -> None:
    """End this process when the launcher's end of standard input closes: no worker outlives a killed launcher."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read: its lock would abort an interpreter that ends meanwhile
    os._exit(1)


def main() -> None:
    """Run the job of the folder that the command line names."""
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    run_job(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
