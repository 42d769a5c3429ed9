"""Rows on their way to a person and back: exported as csv, edited, replayed into the next snapshot.

They are those in quarantine, and training rows whose label looks wrong.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from configs.schema import Loop
from tasks.core.errors import DataError
from tasks.stores.snapshots import MEND_COLUMNS, SnapshotStore
from tasks.stores.text_files import not_utf8

EXPORT_COLUMNS = ["row_id", "reason", "source", "text", "label"]
SUSPECT_EXPORT_COLUMNS = ["row_id", "score", "suggested", "source", "text", "label"]


@dataclass(frozen=True)
class Replay:
    """What a replay took: rows that a person changed; rows left as they were stay as they are."""

    taken: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.taken} mended rows taken, {self.unchanged} unchanged rows left aside"


def export_quarantine(store: SnapshotStore, loop: str, file: Path) -> int:
    """Write the rows that the last screening set aside as csv; return how many. Edit text or label, then replay.

    Raises DataError before the first snapshot, and when the file cannot be written.
    """
    parked = _parked(store, loop)
    _write_csv(parked[EXPORT_COLUMNS].fillna(""), file)
    return len(parked)


def export_suspects(suspects: pd.DataFrame, file: Path) -> None:
    """Write rows whose label looks wrong as csv, the worst first. Edit the label, delete lines that are right, replay.

    Raises DataError when the file cannot be written.
    """
    _write_csv(suspects[SUSPECT_EXPORT_COLUMNS], file)


def _write_csv(rows: pd.DataFrame, file: Path) -> None:
    try:
        with file.open("w", encoding="utf-8", newline="") as target:
            writer = csv.writer(target)
            writer.writerow(rows.columns)
            writer.writerows(rows.itertuples(index=False, name=None))
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}. Name another file") from error


def replay_quarantine(store: SnapshotStore, loop: Loop, file: Path) -> Replay:
    """Keep the rows of an exported file whose text or label was changed; the next snapshot takes them instead.

    All of the file is taken or none of it: raises DataError with one line per problem.
    """
    before = _parked(store, loop.name).set_index("row_id")
    before = pd.concat([before, _suspects(store, loop.name).set_index("row_id")])
    before = before[~before.index.duplicated()]
    rows, problems = _edited_rows(file, before, loop.labels)
    if problems:
        raise DataError("\n".join(problems))
    changed = [row for row in rows if _text_and_label(before, row[0]) != row[1:]]
    if changed:
        fresh = pd.DataFrame(changed, columns=MEND_COLUMNS, dtype="str")
        kept = pd.concat([store.read_mended(loop.name), fresh], ignore_index=True)
        store.write_mended(loop.name, kept.drop_duplicates("row_id", keep="last"))
    return Replay(taken=len(changed), unchanged=len(rows) - len(changed))


def _parked(store: SnapshotStore, loop: str) -> pd.DataFrame:
    parked = store.newest_quarantine(loop)
    if parked is None:
        raise DataError(f"loop '{loop}' has no snapshot yet, so nothing is in quarantine. Run: evertune retrain {loop}")
    return parked


def _suspects(store: SnapshotStore, loop: str) -> pd.DataFrame:
    """Return the rows of the newest snapshot whose label looks wrong, as their export shows them."""
    newest = store.newest(loop)
    found = store.read_suspects(newest) if newest is not None else None
    return pd.DataFrame(columns=["row_id", "text", "label"], dtype="str") if found is None else found


def _text_and_label(parked: pd.DataFrame, row_id: str) -> tuple[str, str]:
    text, label = parked.loc[row_id, ["text", "label"]].fillna("")
    return str(text), str(label)


def _edited_rows(file: Path, parked: pd.DataFrame, labels: list[str]) -> tuple[list[tuple[str, str, str]], list[str]]:
    rows: list[tuple[str, str, str]] = []
    problems: list[str] = []
    for line, record in _records(file):
        row_id, text, label = (record.get(name) or "" for name in MEND_COLUMNS)
        is_changed = row_id in parked.index and _text_and_label(parked, row_id) != (text, label.strip())
        if row_id not in parked.index:
            problems.append(
                f"{file}:{line}: row '{row_id}' is not in quarantine, nor suspicious. Export the quarantine afresh"
            )
        elif is_changed and not text.strip():
            problems.append(f"{file}:{line}: the text is empty. Write one, or delete the line to leave the row aside")
        elif is_changed and label.strip() not in labels:
            problems.append(f"{file}:{line}: label '{label}' is none of {', '.join(labels)}")
        rows.append((row_id, text, label.strip()))
    return rows, problems


def _records(file: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as source:
            reader = csv.DictReader(source, strict=True)
            missing = [name for name in MEND_COLUMNS if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{file}:1: no column {missing}; found {list(reader.fieldnames or [])}. Export afresh")
            return [(reader.line_num, record) for record in reader]
    except UnicodeDecodeError as error:
        raise not_utf8(file, str(file)) from error
    except csv.Error as error:
        raise DataError(f"{file}: malformed csv: {error}. Double the quotes inside quoted fields") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
