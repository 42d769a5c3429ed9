"""Reads and writes files to be scored, in parts: csv, jsonl and parquet, each as it came plus new columns."""

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import DataError

FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


@dataclass(frozen=True)
class Part:
    """Some rows of a file: their numbers, from 1, and their fields; a row that is no record is None."""

    numbers: list[int]
    rows: list[dict[str, Any] | None]


class Writer(Protocol):
    """Takes rows as they come."""

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the file."""


class ScoreFile:
    """A file to be scored. Raises DataError at once when it is unreadable, not UTF-8, or lacks the text column."""

    def __init__(self, path: Path, text_column: str) -> None:
        self.path = path
        self.format = _format_of(path)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        self.n_rows = count_rows(path, self.format)
        self.columns = _read_columns(path, self.format)
        if text_column not in self.columns:
            place = f"{path}:1" if self.format != "parquet" else str(path)
            raise DataError(
                f"{place}: no column '{text_column}'; found {self.columns}. Name the text's column with --text-column."
            )

    def parts(self, size: int) -> Iterator[Part]:
        """Yield the rows in order, at most `size` at a time."""
        readers = {"csv": _csv_rows, "jsonl": _jsonl_rows, "parquet": _parquet_rows}
        numbers: list[int] = []
        rows: list[dict[str, Any] | None] = []
        for number, row in enumerate(readers[self.format](self.path), start=1):
            numbers.append(number)
            rows.append(row)
            if len(rows) == size:
                yield Part(numbers, rows)
                numbers, rows = [], []
        if rows:
            yield Part(numbers, rows)

    def open_writer(self, path: Path, added: list[str]) -> Writer:
        """Return a writer of the same format whose rows have the added columns at the end."""
        if self.format == "parquet":
            return _ParquetWriter(path, pq.read_schema(self.path), added)
        return _CsvWriter(path, [*self.columns, *added]) if self.format == "csv" else _JsonlWriter(path)


def count_rows(path: Path, file_format: str) -> int:
    """Return about how many rows a file has, for progress; raises DataError naming the first line that is not UTF-8."""
    if file_format == "parquet":
        return int(_open_parquet(path).metadata.num_rows)
    n_lines = 0
    with path.open("rb") as lines:
        for n_lines, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}:{n_lines}: not UTF-8 (byte {error.start} of the line); save it as UTF-8"
                ) from error
    return n_lines - 1 if file_format == "csv" else n_lines


def open_rejects(path: Path) -> Writer:
    """Return the writer of a list of rejected rows."""
    return _CsvWriter(path, ["row", "reason"])


class _CsvWriter:
    def __init__(self, path: Path, columns: list[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.writerows(rows)

    def close(self) -> None:
        self._file.close()


class _JsonlWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    def __init__(self, path: Path, schema: pa.Schema, added: list[str]) -> None:
        types = [pa.string(), *[pa.float64()] * (len(added) - 1)]
        self._schema = pa.schema([*schema, *(pa.field(name, kind) for name, kind in zip(added, types, strict=True))])
        self._writer = pq.ParquetWriter(path, self._schema)

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _format_of(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise DataError(f"{path}: the name must end in {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def _read_columns(path: Path, file_format: str) -> list[str]:
    if file_format == "parquet":
        return list(_open_parquet(path).schema_arrow.names)
    if file_format == "csv":
        with path.open(encoding="utf-8-sig", newline="") as lines:
            columns = next(csv.reader(lines), [])
        if len(set(columns)) != len(columns):
            raise DataError(f"{path}:1: a column name stands twice: {columns}")
        return columns
    first = next((row for row in _jsonl_rows(path) if row is not None), {})
    return list(first)


def _csv_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    csv.field_size_limit(2**31 - 1)  # a too long text is one rejected row, not the end of the run
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines)
        columns = next(reader, [])
        try:
            for row in reader:
                if row:
                    yield dict(zip(columns, row, strict=True)) if len(row) == len(columns) else None
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not csv: {error}") from error


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open(encoding="utf-8-sig") as lines:
        for line in lines:
            if not line.strip():
                continue
            row = None
            with suppress(ValueError, RecursionError):  # also a number of thousands of digits, thousands of brackets
                row = json.loads(line)
            yield row if isinstance(row, dict) else None


def _parquet_rows(path: Path) -> Iterator[dict[str, Any] | None]:
    for batch in _open_parquet(path).iter_batches(batch_size=2048):
        yield from batch.to_pylist()


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a parquet file: {error}") from error
