"""Batch scoring: every row of a file answered by the champion, in parts, with progress."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from configs.schema import Loop
from configs.settings import Settings
from tasks.core.errors import DataError
from tasks.core.predictor import Predictor
from tasks.core.scorable import find_flaw, name_answer_columns
from tasks.stores.model_registry import open_registry
from tasks.stores.score_files import Part, ScoreFile, Writer, open_rejects

ROWS_PER_PART = 512
SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class ScoreOutcome:
    """What a file's scoring gave; `rejected` is None when every row was scored."""

    loop: str
    version: str
    output: str
    rejected: str | None
    n_scored: int
    n_rejected: int
    labels: dict[str, int]
    seconds: float


@task(task_run_name="score {input_path}", persist_result=False, cache_policy=NO_CACHE)
def score_file(config: Loop, input_path: Path, output_path: Path | None, text_column: str) -> ScoreOutcome:
    """Write the file with label, score and one p_<label> column per class beside it, or to `output_path`.

    Rows that cannot be scored are left out and listed with their number and reason. Nothing is left half-written.
    Raises DataError when the loop has no champion or the file cannot be read.
    """
    started = time.perf_counter()
    file = ScoreFile(input_path, text_column)
    version, predictor = load_champion(config.name)
    output, rejects = place_output(input_path, output_path)
    progress = _Progress(file.n_rows)
    names = name_answer_columns(file.columns, predictor.labels)
    tally = _Tally(predictor, names, text_column, config.serving.max_chars)
    with _writing(file, output, rejects, list(tally.names.values())) as (scored, rejected):
        for part in file.parts(ROWS_PER_PART):
            tally.score(part, scored, rejected)
            progress.advance(tally.n_scored + tally.n_rejected)
    progress.finish()
    listed = str(rejects) if tally.n_rejected else None
    seconds = time.perf_counter() - started
    outcome = ScoreOutcome(
        config.name, version, str(output), listed, tally.n_scored, tally.n_rejected, tally.labels, seconds
    )
    get_run_logger().info("scored %d rows with version %s into %s", outcome.n_scored, version, output)
    if listed:
        get_run_logger().warning("%d rows were rejected, see %s", outcome.n_rejected, listed)
    return outcome


def load_champion(loop: str, version: str | None = None) -> tuple[str, Predictor]:
    """Return the number and predictor of the champion, or of a version; raises DataError when there is none."""
    settings = Settings()
    registry = open_registry(settings)
    chosen = registry.find(loop, "champion") if version is None else registry.get(loop, version)
    if chosen is None:
        raise DataError(f"{loop} has no champion yet; train one: evertune retrain {loop}")
    bundle = registry.fetch_bundle(chosen, settings.root / "models")
    return chosen.version, Predictor.load(bundle, settings.serving_threads)


def place_output(input_path: Path, output_path: Path | None) -> tuple[Path, Path]:
    """Return where scored and rejected rows go; raises DataError when one would overwrite other rows."""
    output = output_path or input_path.with_name(f"{input_path.stem}.scored{input_path.suffix}")
    if output.suffix.lower() != input_path.suffix.lower():
        raise DataError(f"{output}: the output keeps the input's format, so its name must end in {input_path.suffix}")
    rejects = output.with_name(f"{output.stem}.rejected.csv")
    if _is_same_file(output, input_path):
        raise DataError(f"{output}: would overwrite the input; give another name")
    if _is_same_file(rejects, input_path) or _is_same_file(rejects, output):
        told = "input" if _is_same_file(rejects, input_path) else "output"
        raise DataError(f"{rejects}: the list of rejected rows would overwrite the {told}; name the output otherwise")
    if not output.parent.is_dir():
        raise DataError(f"{output.parent}: no such folder")
    return output, rejects


def _is_same_file(one: Path, other: Path) -> bool:
    """Say whether two paths lead to one file, through links too."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


class _Tally:
    """Scores part after part and counts."""

    def __init__(self, predictor: Predictor, names: dict[str, str], text_column: str, max_chars: int) -> None:
        self.names = names
        self.n_scored = 0
        self.n_rejected = 0
        self.labels = dict.fromkeys(predictor.all_answers, 0)
        self._predictor = predictor
        self._text_column = text_column
        self._max_chars = max_chars

    def score(self, part: Part, scored: Writer, rejected: Writer) -> None:
        good: list[dict[str, Any]] = []
        for number, row in zip(part.numbers, part.rows, strict=True):
            flaw = self._find_flaw(row)
            if flaw is None and row is not None:
                good.append(row)
            else:
                rejected.write([{"row": number, "reason": flaw}])
        scored.write(self._answer(good))
        self.n_scored += len(good)
        self.n_rejected += len(part.rows) - len(good)

    def _find_flaw(self, row: dict[str, Any] | None) -> str | None:
        if row is None:
            return "not a record with the file's columns"
        if self._text_column not in row:
            return f"no field '{self._text_column}'"
        return find_flaw(row[self._text_column], self._max_chars)

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        prediction = self._predictor.predict([row[self._text_column] for row in rows])
        answered = []
        for row, p, label in zip(rows, prediction.probabilities, prediction.answers, strict=True):
            self.labels[label] += 1
            answers = {"label": label, "score": round(float(p.max()), 6)}
            answers |= {f"p_{name}": round(float(p[i]), 6) for i, name in enumerate(self._predictor.labels)}
            answered.append(row | {self.names[key]: value for key, value in answers.items()})
        return answered


class _Progress:
    """The progress bar of the run page, and a log line every few seconds."""

    def __init__(self, n_rows: int) -> None:
        self._n_rows = max(n_rows, 1)
        self._started = self._said = time.monotonic()
        self._artifact: Any = create_progress_artifact(0.0, key="score-progress", description=f"{n_rows} rows to score")

    def advance(self, n_done: int) -> None:
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        share = min(n_done / self._n_rows, 1.0)
        left = (now - self._started) * (1 - share) / share
        update_progress_artifact(self._artifact, progress=round(100 * share, 1))
        get_run_logger().info("%d of %d rows scored, about %.0f s left", n_done, self._n_rows, left)

    def finish(self) -> None:
        update_progress_artifact(self._artifact, progress=100.0)


@contextmanager
def _writing(file: ScoreFile, output: Path, rejects: Path, added: list[str]) -> Iterator[tuple[Writer, Writer]]:
    """Yield writers whose files appear under their names only when all went well; no rejected row, no list of them."""
    run = uuid.uuid4().hex[:8]  # nobody else's file has the name of a partial one
    partial, partial_rejects = (path.with_name(f".{path.name}.{run}.partial") for path in (output, rejects))
    try:
        scored, rejected = file.open_writer(partial, added), _Rejects(partial_rejects)
        with _closing(scored, rejected):
            yield scored, rejected
        if rejected.is_open:
            partial_rejects.replace(rejects)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
        partial_rejects.unlink(missing_ok=True)


class _Rejects:
    """The list of rejected rows: a file from the first one on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Writer | None = None

    @property
    def is_open(self) -> bool:
        """Say whether a row was rejected."""
        return self._writer is not None

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""
        self._writer = self._writer or open_rejects(self._path)
        self._writer.write(rows)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


@contextmanager
def _closing(*writers: Writer) -> Iterator[None]:
    try:
        yield
    finally:
        for writer in writers:
            writer.close()
