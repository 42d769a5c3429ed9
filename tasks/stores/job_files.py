"""The files of asynchronous jobs: what was uploaded, row by row, and the answers so far.

`<folder>/<job>/input.jsonl` has one line per uploaded row and goes when the job ends; `answers.jsonl` grows by whole
lines, so after a kill its whole lines say how far the job got, and a half-written one is cut off.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from tasks.core.errors import DataError
from tasks.core.scorable import find_flaw
from tasks.stores.jobs import Jobs
from tasks.stores.score_files import ScoreFile

MAX_NAME = 200  # characters of an id or a group
MAX_MESSAGE = 500
ROWS_PER_PART = 1000
INPUT, ANSWERS = "input.jsonl", "answers.jsonl"
SUFFIXES = {  # of uploads, by media type
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "text/csv": ".csv",
}


@dataclass(frozen=True)
class JobRow:
    """One uploaded row; `flaw` says why it cannot be answered."""

    number: int  # from 1
    text: str
    group: str | None
    id: str | int | None
    flaw: str | None


@dataclass(frozen=True)
class Accepted:
    """What an upload holds; `first_row` is the first that can be answered."""

    n_rows: int
    n_valid: int
    first_row: int


class JobFiles:
    """The jobs' files below one folder. Its methods block: call them in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open_place(self) -> str:
        """Return the folder's own name, made once: other services that share the database have other files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "place"
        if not file.exists():
            partial = self.folder / f"place.{uuid.uuid4().hex}"
            partial.write_text(uuid.uuid4().hex, encoding="utf-8")
            try:
                file.hardlink_to(partial)  # fails where another process was first
            except FileExistsError:
                pass
            finally:
                partial.unlink()
        return file.read_text(encoding="utf-8")

    def new_upload(self, job_id: str, suffix: str) -> Path:
        """Return where to write what a caller sends."""
        folder = self.folder / job_id
        folder.mkdir(parents=True)
        return folder / f"upload{suffix}"

    def accept(self, upload: Path, text_column: str, max_chars: int, max_texts: int) -> Accepted:
        """Turn an upload into the job's input; raises DataError when it cannot be read or holds too much or nothing."""
        try:
            return _write_input(upload, text_column, max_chars, max_texts)
        except DataError as error:
            message = str(error).replace(str(upload), "the file").replace("--text-column", "?text_column=")
            raise DataError(message[:MAX_MESSAGE]) from error
        finally:
            upload.unlink()

    def rows(self, job_id: str, start: int) -> Iterator[JobRow]:
        """Yield a job's rows after the first `start`; raises DataError when the input is not there."""
        try:
            with (self.folder / job_id / INPUT).open("rb") as lines:
                for number, line in enumerate(islice(lines, start, None), start=start + 1):
                    yield JobRow(number, **orjson.loads(line))
        except FileNotFoundError as error:
            raise DataError("the job's input is gone") from error

    def open_answers(self, job_id: str) -> "Answers":
        """Return a job's answers to go on with."""
        return Answers(self.folder / job_id / ANSWERS)

    def answers_of(self, job_id: str) -> Path:
        """Return where a job's answers are, if they still are."""
        return self.folder / job_id / ANSWERS

    def finish(self, job_id: str) -> None:
        """Delete what was uploaded."""
        (self.folder / job_id / INPUT).unlink(missing_ok=True)

    def remove(self, job_id: str) -> None:
        """Delete all of a job's files."""
        shutil.rmtree(self.folder / job_id, ignore_errors=True)

    def list_ids(self) -> list[str]:
        """Return the jobs that have files."""
        return [entry.name for entry in self.folder.iterdir() if entry.is_dir()] if self.folder.is_dir() else []


def erase_jobs(jobs: Jobs, files: JobFiles, key_id: str, now: datetime) -> int:
    """End a key's jobs and delete their files; return how many had any. What they counted for stays."""
    erased = jobs.of_key(key_id)
    for job in erased:
        jobs.end(job.job_id, "cancelled", now, reason="its texts were erased")
        files.remove(job.job_id)
        jobs.mark_removed(job.job_id, now)
    return len(erased)


class Answers:
    """A file of answers that only ever holds whole lines; `n_rows` says how many."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("a+b")
        self._file.seek(0)
        whole = 0
        self.n_rows = 0
        for line in self._file:
            if line.endswith(b"\n"):
                whole += len(line)
                self.n_rows += 1
        self._file.truncate(whole)
        self._file.seek(0, 2)

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write rows; they outlive a kill of the process once this returns."""
        self._file.write(b"".join(orjson.dumps(line) + b"\n" for line in lines))
        self._file.flush()
        self.n_rows += len(lines)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _write_input(upload: Path, text_column: str, max_chars: int, max_texts: int) -> Accepted:
    n_rows = n_valid = first_row = 0
    with upload.with_name(INPUT).open("wb") as lines:
        for part in ScoreFile(upload, text_column).parts(ROWS_PER_PART):
            for number, row in zip(part.numbers, part.rows, strict=True):
                if number > max_texts:
                    raise DataError(f"the file has more than {max_texts:,} rows; send it in parts")
                read = read_row(number, row, text_column, max_chars)
                values = asdict(read)
                del values["number"]
                lines.write(orjson.dumps(values) + b"\n")
                n_rows = number
                if read.flaw is None:
                    n_valid += 1
                    first_row = first_row or number
    if not n_valid:
        raise DataError(f"the file has no text that can be answered among its {n_rows} rows")
    return Accepted(n_rows, n_valid, first_row)


def read_row(number: int, row: dict[str, Any] | None, text_column: str, max_chars: int) -> JobRow:
    """Return a row of an upload as it will be answered; beside the text stand optionally `group` and `id`."""
    if row is None:
        return JobRow(number, "", None, None, "not a record")
    known, group = row.get("id"), row.get("group")
    has_id = isinstance(known, str) and not find_flaw(known, MAX_NAME)
    has_id = has_id or (type(known) is int and abs(known) < 2**53)
    name = known if has_id else None
    group = None if group is None or group == "" or group != group else group
    flaw = find_flaw(row.get(text_column), max_chars)
    if flaw is None and group is not None:
        problem = find_flaw(group, MAX_NAME)
        flaw = problem and f"group: {problem}"
    return JobRow(number, "" if flaw else row[text_column], None if flaw else group, name, flaw)
