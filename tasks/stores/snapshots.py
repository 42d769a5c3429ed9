"""Immutable, validated, split data sets, kept in a folder or under any fsspec URL.

`<loop>/<fingerprint>/` holds train, validation, test and quarantine as Parquet, `validation.html`, and `manifest.json`:
written last, it is what makes a snapshot. A refused set leaves its page and quarantine there with `refused.json`,
so that its rows can be mended. `suspects.parquet`, `.html` and `.json` are added when somebody asks which labels look
wrong. `<loop>/mended.parquet` holds what people mended.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import fsspec
import pandas as pd

from configs.schema import Loop
from tasks.core.errors import DataError, TransientError
from tasks.core.rows import RAW_COLUMNS, SPLITS, with_row_columns
from tasks.core.screening import Screened
from tasks.core.validation_page import cross_table

SNAPSHOT_FORMAT = 2  # raised when the same rows and config would give another snapshot
MEND_COLUMNS = ["row_id", "text", "label"]
KEPT_FETCHED = 4  # splits kept on this machine from a store elsewhere


@dataclass(frozen=True)
class Snapshot:
    """One committed snapshot; `url` is its folder."""

    loop: str
    fingerprint: str
    url: str
    made_at: datetime
    train: int
    validation: int
    test: int
    quarantined: int
    duplicates: int
    leaks: int

    @property
    def counts(self) -> dict[str, int]:
        """Return rows per split and in quarantine."""
        return {split: getattr(self, split) for split in (*SPLITS, "quarantined")}


def fingerprint_rows(raw: pd.DataFrame, loop: Loop) -> str:
    """Return the 16 hexadecimal digits of raw rows under a loop's data section and labels.

    The rows come in the order of `order_rows`, so the order within a source does not matter.
    """
    hashed = hashlib.sha256(f"{SNAPSHOT_FORMAT}\n{loop.data.model_dump_json()}\n{json.dumps(loop.labels)}\n".encode())
    for column in RAW_COLUMNS:
        values = raw[column].astype("int64") if column == "observed_at" else raw[column]
        hashed.update(json.dumps([column, values.tolist()]).encode())
    return hashed.hexdigest()[:16]


class SnapshotStore:
    """Snapshots of all loops under one URL. Raises TransientError when the store does not answer."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise DataError(f"EVERTUNE_SNAPSHOTS_URL '{url}' cannot be opened: {error}") from error
        self._root: str = root.rstrip("/")
        self._is_local = isinstance(self._fs, fsspec.implementations.local.LocalFileSystem)

    def find(self, loop: str, fingerprint: str) -> Snapshot | None:
        """Return a committed snapshot, or None when there is none of this fingerprint."""
        content = self._read(f"{loop}/{fingerprint}/manifest.json")
        return None if content is None else self._snapshot(json.loads(content))

    def newest(self, loop: str) -> Snapshot | None:
        """Return the snapshot that was made last, or None before the first."""
        manifests = self._records(loop, "manifest.json")
        return self._snapshot(max(manifests, key=lambda m: str(m["made_at"]))) if manifests else None

    def write(self, loop: Loop, fingerprint: str, screened: Screened, page: str, made_at: datetime) -> Snapshot:
        """Keep a snapshot and return it; one of this fingerprint that exists is returned as it is."""
        kept = self.find(loop.name, fingerprint)
        if kept is not None:
            return kept
        frames = {split: screened.rows[screened.rows["split"] == split] for split in SPLITS}
        frames["quarantine"] = screened.quarantine
        files = {f"{name}.parquet": _parquet(frame) for name, frame in frames.items()}
        files["validation.html"] = page.encode()
        manifest = _manifest(loop, fingerprint, screened, made_at)
        manifest["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        self._write_folder(f"{loop.name}/{fingerprint}", files, "manifest.json", manifest)
        return self._snapshot(manifest)

    def refuse(self, loop: Loop, fingerprint: str, screened: Screened, page: str, made_at: datetime) -> str:
        """Keep page and quarantine of a set that must not be trained on; return where the page is."""
        files = {"quarantine.parquet": _parquet(screened.quarantine), "validation.html": page.encode()}
        folder = f"{loop.name}/{fingerprint}"
        self._write_folder(folder, files, "refused.json", _manifest(loop, fingerprint, screened, made_at))
        return self._url(f"{folder}/validation.html")

    def read_split(self, snapshot: Snapshot, split: str) -> pd.DataFrame:
        """Return the rows of train, validation or test; raises DataError when the file is not what was written."""
        if split not in SPLITS:
            raise DataError(f"no split '{split}'; there are {', '.join(SPLITS)}")
        return with_row_columns(self._read_frame(snapshot, f"{split}.parquet"))

    def open_split(self, snapshot: Snapshot, split: str, cache: Path) -> Path:
        """Return the split's Parquet file on this machine's disk, fetched into `cache` from a store elsewhere.

        Raises DataError when the file is not what was written. For sets too large for memory.
        """
        name = f"{split}.parquet"
        place = f"{snapshot.loop}/{snapshot.fingerprint}/{name}"
        if self._is_local:
            path = Path(f"{self._root}/{place}")
            self._check(snapshot, name, _hash_file(path))
            return path
        path = cache / place
        if path.is_file():
            try:
                self._check(snapshot, name, _hash_file(path))
            except DataError:  # fetched from a snapshot that was made again since, or damaged here
                path.unlink(missing_ok=True)
            else:
                path.touch()  # used now: the oldest go first
                return path
        self._fetch(place, path)
        try:
            self._check(snapshot, name, _hash_file(path))
        except DataError:
            path.unlink(missing_ok=True)
            raise
        newest_first = sorted(cache.glob("*/*/*.parquet"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[KEPT_FETCHED:]:
            old.unlink(missing_ok=True)  # who still reads it keeps it until it closes
        return path

    def _fetch(self, place: str, path: Path) -> None:
        """Copy a file of the store to this machine, if it is there."""
        partial = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(f"{self._root}/{place}", str(partial))
            partial.replace(path)
        except FileNotFoundError:
            return
        except OSError as error:
            raise TransientError(f"{self._url(place)} cannot be read: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def read_quarantine(self, snapshot: Snapshot) -> pd.DataFrame:
        """Return the rows set aside: row_id, reason, source, text, label."""
        return self._read_frame(snapshot, "quarantine.parquet")

    def newest_quarantine(self, loop: str) -> pd.DataFrame | None:
        """Return what the last screening set aside, be its set kept or refused; None before the first."""
        attempts = [*self._records(loop, "manifest.json"), *self._records(loop, "refused.json")]
        if not attempts:
            return None
        last = max(attempts, key=lambda record: str(record["made_at"]))
        content = self._read(f"{loop}/{last['fingerprint']}/quarantine.parquet")
        return None if content is None else pd.read_parquet(io.BytesIO(content))

    def read_manifest(self, snapshot: Snapshot) -> dict[str, Any]:
        """Return everything the manifest says: counts, the suite's results, hashes, the data config."""
        content = self._read(f"{snapshot.loop}/{snapshot.fingerprint}/manifest.json")
        if content is None:
            raise DataError(f"{snapshot.url}: the snapshot is gone; the next retrain takes it again")
        manifest: dict[str, Any] = json.loads(content)
        return manifest

    def read_page(
        self, loop: str, fingerprint: str, kind: Literal["validation", "suspects"] = "validation"
    ) -> str | None:
        """Return a page of a snapshot or refused set, or None when there is none."""
        if not re.fullmatch(r"[a-z][a-z0-9-]*/[0-9a-f]{16}", f"{loop}/{fingerprint}"):
            return None
        content = self._read(f"{loop}/{fingerprint}/{kind}.html")
        return None if content is None else content.decode()

    def write_suspects(self, snapshot: Snapshot, suspects: pd.DataFrame, page: str, recipe: str) -> str:
        """Keep which rows of a snapshot look wrongly labelled, and how they were found; return where the page is.

        Raises DataError when the snapshot was erased meanwhile: its rows must not come back with the suspects.
        """
        folder = f"{snapshot.loop}/{snapshot.fingerprint}"
        self.read_manifest(snapshot)
        files = {"suspects.parquet": _parquet(suspects), "suspects.html": page.encode()}
        self._write_folder(folder, files, "suspects.json", {"recipe": recipe, "rows": len(suspects)})
        try:
            self.read_manifest(snapshot)
        except DataError:  # erased while we wrote, which made the folder again
            self._delete_folder(folder)
            raise
        return self._url(f"{folder}/suspects.html")

    def read_suspects(self, snapshot: Snapshot, recipe: str | None = None) -> pd.DataFrame | None:
        """Return the kept suspects, or None when none were sought, or not by this recipe."""
        folder = f"{snapshot.loop}/{snapshot.fingerprint}"
        mark = self._read(f"{folder}/suspects.json")
        if mark is None or recipe not in (None, json.loads(mark)["recipe"]):
            return None
        content = self._read(f"{folder}/suspects.parquet")
        return None if content is None else pd.read_parquet(io.BytesIO(content))

    def read_mended(self, loop: str) -> pd.DataFrame:
        """Return what people mended: row_id, text, label, one line per row."""
        content = self._read(f"{loop}/mended.parquet")
        if content is None:
            return pd.DataFrame({name: pd.Series(dtype="str") for name in MEND_COLUMNS})
        return pd.read_parquet(io.BytesIO(content))

    def write_mended(self, loop: str, mended: pd.DataFrame) -> None:
        """Keep mended rows; they take effect in the next snapshot."""
        self._write(f"{loop}/mended.parquet", _parquet(mended[MEND_COLUMNS]))

    def list_loops(self) -> list[str]:
        """Return the loops that have rows here."""
        return sorted({path.split("/")[-3] for path in self._glob("*/*/*.parquet")})

    def erase_rows(
        self,
        loop: str,
        row_ids: Collection[str],
        group: str | None = None,
        before: Callable[[dict[str, list[str]]], None] | None = None,
    ) -> list[str]:
        """Delete every snapshot, refused set and mended row that holds one of the rows; return the fingerprints gone.

        `before` is told which will go, and in which of their splits the rows are, while they still exist: an erasure
        that is cut short must not lose which versions learnt what it deleted.

        With `group`, rows that came back as feedback and belong to it are among the rows, also those that the
        prediction log keeps no more. A snapshot is never rewritten, so it goes whole; the next retrain takes one
        without these rows. Folders without a record, of a write that was cut short, go like any other.
        """
        wanted, fingerprints = set(row_ids), sorted({path.split("/")[-2] for path in self._glob(f"{loop}/*/*.parquet")})
        if group is not None:
            for fingerprint in fingerprints:
                wanted |= self._feedback_of(loop, fingerprint, group)
        held = {fingerprint: self._holding(loop, fingerprint, wanted) for fingerprint in fingerprints}
        gone = [fingerprint for fingerprint, names in held.items() if names]
        if before is not None:
            splits = {fingerprint: [name for name in held[fingerprint] if name in SPLITS] for fingerprint in gone}
            before({fingerprint: names for fingerprint, names in splits.items() if names})
        for fingerprint in gone:
            self._delete_folder(f"{loop}/{fingerprint}")
        mended = self.read_mended(loop)
        if mended["row_id"].isin(list(wanted)).any():
            self.write_mended(loop, mended[~mended["row_id"].isin(list(wanted))])
        return gone

    def _holding(self, loop: str, fingerprint: str, row_ids: Collection[str]) -> list[str]:
        """Return the names of the files of a snapshot that hold one of the rows."""
        return [
            name
            for name in (*SPLITS, "quarantine", "suspects")
            for frame in self._read_columns(loop, fingerprint, (name,), ["row_id"])
            if frame["row_id"].isin(list(row_ids)).any()
        ]

    def _feedback_of(self, loop: str, fingerprint: str, group: str) -> set[str]:
        frames = self._read_columns(loop, fingerprint, SPLITS, ["row_id", "source", "group"])
        chosen = (frame[(frame["source"] == "feedback") & (frame["group"] == group)] for frame in frames)
        return {row_id for frame in chosen for row_id in frame["row_id"]}

    def _read_columns(
        self, loop: str, fingerprint: str, names: Sequence[str], columns: list[str]
    ) -> Iterator[pd.DataFrame]:
        contents = (self._read(f"{loop}/{fingerprint}/{name}.parquet") for name in names)
        return (pd.read_parquet(io.BytesIO(content), columns=columns) for content in contents if content is not None)

    def _delete_folder(self, folder: str) -> None:
        try:
            self._fs.rm(f"{self._root}/{folder}", recursive=True)
        except OSError as error:
            raise TransientError(f"{self._url(folder)} cannot be deleted: {error}") from error

    def _read_frame(self, snapshot: Snapshot, name: str) -> pd.DataFrame:
        content = self._read(f"{snapshot.loop}/{snapshot.fingerprint}/{name}")
        self._check(snapshot, name, hashlib.sha256(content).hexdigest() if content is not None else None)
        return pd.read_parquet(io.BytesIO(content or b""))

    def _check(self, snapshot: Snapshot, name: str, found: str | None) -> None:
        if found != self.read_manifest(snapshot)["files"][name]:
            state = "is missing" if found is None else "was changed after it was written"
            raise DataError(
                f"{snapshot.url}/{name} {state}. Delete the snapshot's folder; the next retrain makes it again"
            )

    def _glob(self, pattern: str) -> list[str]:
        try:
            self._fs.invalidate_cache()
            return [str(path) for path in self._fs.glob(f"{self._root}/{pattern}")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TransientError(f"{self._url(pattern)} cannot be listed: {error}") from error

    def _records(self, loop: str, name: str) -> list[dict[str, Any]]:
        paths = sorted(self._glob(f"{loop}/*/{name}"))
        try:
            return [json.loads(self._fs.cat_file(path)) for path in paths]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise TransientError(f"snapshots under {self._url(loop)} cannot be read: {error}") from error

    def _snapshot(self, manifest: dict[str, Any]) -> Snapshot:
        loop, fingerprint = manifest["loop"], manifest["fingerprint"]
        made_at = datetime.fromisoformat(manifest["made_at"])
        return Snapshot(loop, fingerprint, self._url(f"{loop}/{fingerprint}"), made_at, **manifest["rows"])

    def _url(self, path: str) -> str:
        full = f"{self._root}/{path}"
        return full if self._is_local else str(self._fs.unstrip_protocol(full))

    def _read(self, path: str) -> bytes | None:
        try:
            content: bytes = self._fs.cat_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransientError(f"{self._url(path)} cannot be read: {error}") from error
        return content

    def _write_folder(self, folder: str, files: dict[str, bytes], mark: str, record: dict[str, Any]) -> None:
        for name, content in files.items():
            self._write(f"{folder}/{name}", content)
        self._write(f"{folder}/{mark}", json.dumps(record, indent=1, ensure_ascii=False).encode())

    def _write(self, path: str, content: bytes) -> None:
        full = f"{self._root}/{path}"
        try:
            if self._is_local:
                _write_local(Path(full), content)
            else:
                self._fs.makedirs(full.rsplit("/", 1)[0], exist_ok=True)
                self._fs.pipe_file(full, content)
        except OSError as error:
            raise TransientError(f"{self._url(path)} cannot be written: {error}") from error


def _hash_file(path: Path) -> str | None:
    """Return a file's SHA-256, or None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransientError(f"{path} cannot be read: {error}") from error


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _parquet(frame: pd.DataFrame) -> bytes:
    content: bytes = frame.reset_index(drop=True).to_parquet(None, engine="pyarrow")
    return content


def _manifest(loop: Loop, fingerprint: str, screened: Screened, made_at: datetime) -> dict[str, Any]:
    rows = {split: screened.count(split) for split in SPLITS}
    rows |= {"quarantined": len(screened.quarantine), "duplicates": screened.n_duplicates, "leaks": screened.n_leaks}
    return {
        "format": SNAPSHOT_FORMAT,
        "loop": loop.name,
        "fingerprint": fingerprint,
        "made_at": made_at.isoformat(),
        "rows_read": screened.n_raw,
        "rows": rows,
        "splits": [*SPLITS, "all"],
        "by_label": cross_table(screened.rows, "label", loop.labels),
        "by_source": cross_table(screened.rows, "source", sorted(screened.rows["source"].unique())),
        "expectations": [
            {
                **{k: v for k, v in vars(result).items() if k != "unexpected_ids"},
                "unexpected": len(result.unexpected_ids),
            }
            for result in screened.results
        ],
        "problems": screened.problems,
        "labels": loop.labels,
        "data": loop.data.model_dump(mode="json"),
    }
