"""Checks of delimited and JSON-lines files that name the first bad line."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import DataError


def check_delimited(
    path: Path, place: str, delimiter: str, quoting: int, names: list[str] | None
) -> tuple[list[str], int]:
    """Return the header and the number of records, once every record has as many fields as the header.

    pandas would fill short records with blanks and, with surplus fields, shift columns silently.
    """
    header, n_records = names, 0
    for line, fields in _records(path, place, delimiter, quoting):
        if header is None:
            header = _unique(fields, place, line)
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{place}:{line}: {len(fields)} fields, expected {len(header)} ({', '.join(header)}). "
                f"Quote fields that hold the delimiter {delimiter!r} or line breaks"
            )
        n_records += 1
    if header is None or not n_records:
        found = "the file is empty" if header is None else f"no rows, only the columns {header}"
        raise DataError(f"{place}: {found}. Put a header line and labelled rows into it")
    return header, n_records


def _records(path: Path, place: str, delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(sys.maxsize)
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
            for fields in reader:
                line = reader.line_num
                if any("\0" in field for field in fields):  # pandas would cut the field off there
                    raise DataError(f"{place}:{line}: holds a NUL character: cut off, or UTF-16? Save it as UTF-8")
                if len(fields) > 1 or "".join(fields).strip():
                    yield line, fields
    except UnicodeDecodeError as error:
        raise not_utf8(path, place) from error
    except csv.Error as error:
        raise DataError(
            f"{place}:{line + 1}: malformed record: {error}. Double the quotes inside quoted fields"
        ) from error


def _unique(header: list[str], place: str, line: int) -> list[str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{place}:{line}: the header names {twice} more than once; found {header}. Rename one of them")
    return header


def not_utf8(path: Path, place: str) -> DataError:
    """Return the error that names the first line that is not UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return DataError(
                    f"{place}:{number}: not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1}). "
                    "Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8"
                )
    return DataError(f"{place}: not UTF-8")


def explain_jsonl(path: Path, place: str) -> DataError | None:
    """Return the error that names the first bad line, or None when every line alone is fine."""
    kinds: dict[str, type] = {}
    empty = True
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            empty = False
            problem = _line_problem(raw, kinds)
            if problem == "not UTF-8":
                return not_utf8(path, place)
            if problem:
                return DataError(f"{place}:{number}: {problem}. Each line must be one JSON object with plain values")
    return DataError(f"{place}: the file is empty. Put one JSON object per line into it") if empty else None


def _line_problem(raw: bytes, kinds: dict[str, type]) -> str | None:
    try:
        record = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return "not UTF-8"
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}"
    if re.search(r"[\ud800-\udfff]", json.dumps(record, ensure_ascii=False)):
        return "holds half of a surrogate pair, which is no character"
    if not isinstance(record, dict):
        return f"{type(record).__name__}, not an object"
    for key, value in record.items():
        kind = float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
        if value is not None and kinds.setdefault(key, kind) is not kind:
            return f"'{key}' is {_JSON_WORDS.get(kind, kind.__name__)}, but {_JSON_WORDS[kinds[key]]} in lines before"
    return None


_JSON_WORDS = {str: "text", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
