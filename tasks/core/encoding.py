"""From rows to the numbers that a network is given: token ids, targets, and batches padded to their longest text.

Encoded rows are Arrow record batches: in memory for what fits there easily, else in a memory-mapped file that is named
after its content, so that the next run on the same rows finds it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tasks.core.errors import DataError

ENCODING_FORMAT = 1  # raised when the same rows would give another file
ROWS_PER_BATCH = 10_000  # texts in memory at a time; a tokenizer spreads them over all cores by itself
ROWS_IN_MEMORY = 100_000  # above it, encoded rows go to a file (where a cache folder is given)
KEPT_FILES = 6  # train and validation of the last three runs
TARGETS = ("ratings", "shares", "weights")
COLUMNS = ("text", "label", "rating", "soft_labels", "weight")  # of a row, as far as there are any

Rows: TypeAlias = pd.DataFrame | Path  # a frame, or a Parquet file that is read piece by piece


class EncodedRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as a network is given them; a row has input_ids (int32, no padding), labels, and what targets there are."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._pieces = [_Piece(batch) for batch in batches]
        self.lengths: npt.NDArray[np.int32] = np.concatenate([np.diff(piece.starts) for piece in self._pieces])
        self.labels: npt.NDArray[np.int64] = np.concatenate([piece.labels for piece in self._pieces])
        self._targets = [name for name in TARGETS if any(piece.has(name) for piece in self._pieces)]

    @property
    def has_ratings(self) -> bool:
        """Return whether any row has a rating."""
        return "ratings" in self._targets

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> dict[str, Any]:
        piece, row = self._pieces[number // ROWS_PER_BATCH], number % ROWS_PER_BATCH
        return {
            "input_ids": piece.ids[piece.starts[row] : piece.starts[row + 1]],
            "labels": int(piece.labels[row]),
            **{name: piece.target(name, row) for name in self._targets},
        }


class _Piece:
    """One record batch as arrays, without a copy."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        columns = {name: batch.column(name) for name in batch.schema.names}
        self.starts: npt.NDArray[np.int32] = columns["input_ids"].offsets.to_numpy()
        self.ids: npt.NDArray[np.int32] = columns["input_ids"].values.to_numpy()
        self.labels: npt.NDArray[np.int64] = columns["labels"].to_numpy()
        self._values = {name: columns[name].to_numpy() for name in ("ratings", "weights")}
        self._share_starts = columns["shares"].offsets.to_numpy()
        self._shares = columns["shares"].values.to_numpy()
        self._num_labels = int(batch.schema.metadata[b"num_labels"])

    def has(self, name: str) -> bool:
        """Return whether any row has this target."""
        if name == "shares":
            return len(self._shares) > 0
        values = self._values[name]
        return bool((values != 1).any() if name == "weights" else (~np.isnan(values)).any())

    def target(self, name: str, row: int) -> Any:
        """Return a row's rating (NaN where unknown), weight, or shares: those given, else all for its label."""
        if name != "shares":
            return self._values[name][row]
        given = self._shares[self._share_starts[row] : self._share_starts[row + 1]]
        return given if len(given) else np.eye(self._num_labels, dtype=np.float32)[self.labels[row]]


def encode_rows(
    rows: Rows, tokenizer: Any, labels: Sequence[str], max_tokens: int, cache: Path | None = None
) -> EncodedRows:
    """Return the rows encoded; what is large goes through a file in `cache`, and needs no more memory than a piece.

    Rows have `text` and `label`; they may have `rating`, `soft_labels` (a JSON list of shares, "" for none), `weight`.
    """
    encoder = _Encoder(tokenizer, tuple(labels), max_tokens)
    num_rows = len(rows) if isinstance(rows, pd.DataFrame) else pq.ParquetFile(rows).metadata.num_rows
    if num_rows == 0:
        raise DataError("there are no rows to encode")
    if cache is None or num_rows <= ROWS_IN_MEMORY:
        return EncodedRows([encoder.encode(frame) for frame in _frames(rows)])
    return EncodedRows(_read(_write_once(rows, encoder, cache)))


def read_rows(rows: Rows) -> pd.DataFrame:
    """Return rows as a frame, for what needs all of them at once."""
    return rows if isinstance(rows, pd.DataFrame) else pd.concat(_frames(rows), ignore_index=True)


@dataclass(frozen=True)
class _Encoder:
    tokenizer: Any
    labels: tuple[str, ...]
    max_tokens: int

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of encoded rows."""
        ids, shares = pa.list_(pa.int32()), pa.list_(pa.float32())
        columns = {"input_ids": ids, "labels": pa.int64(), "ratings": pa.float32(), "weights": pa.float32()}
        return pa.schema({**columns, "shares": shares}, metadata={"num_labels": str(len(self.labels))})

    def encode(self, frame: pd.DataFrame) -> pa.RecordBatch:
        """Return one piece of rows encoded."""
        number_of = {label: number for number, label in enumerate(self.labels)}
        unknown = sorted(set(frame["label"]) - set(number_of))
        if unknown:
            raise DataError(f"rows have the labels {unknown[:5]}; the loop's are {list(self.labels)}")
        ids = [np.asarray(row, dtype=np.int32) for row in self._tokenize(frame["text"].tolist())]
        given = frame["soft_labels"].fillna("") if "soft_labels" in frame else [""] * len(frame)
        shares = [np.asarray(json.loads(text) if text else [], dtype=np.float32) for text in given]
        columns = {
            "input_ids": _list_array(ids, np.int32),
            "labels": pa.array([number_of[label] for label in frame["label"]], pa.int64()),
            "ratings": _floats(frame, "rating", np.nan),
            "weights": _floats(frame, "weight", 1.0),
            "shares": _list_array(shares, np.float32),
        }
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
            return ids
        self._set(backend)
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]

    def _set(self, backend: Any) -> None:
        """Set the tokenizer as the predictor does; transformers' wrapper would take three times as long per text."""
        backend.no_padding()
        backend.enable_truncation(self.max_tokens)

    def key(self, rows: Rows) -> str:
        """Return the name of what these rows become."""
        digest = hashlib.sha256(json.dumps([ENCODING_FORMAT, self.labels, self.max_tokens]).encode())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            self._set(backend)  # the text below tells how it is set, and it may come from another use
        digest.update((backend.to_str() if backend else repr(self.tokenizer)).encode())
        if isinstance(rows, Path):
            with rows.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            known = rows[[name for name in COLUMNS if name in rows]]
            digest.update(json.dumps(list(known)).encode())
            digest.update(pd.util.hash_pandas_object(known, index=False).to_numpy().tobytes())
        return digest.hexdigest()[:32]


def _frames(rows: Rows) -> Iterator[pd.DataFrame]:
    """Return the rows in pieces of ROWS_PER_BATCH; only the last one may be smaller."""
    if isinstance(rows, pd.DataFrame):
        for start in range(0, len(rows), ROWS_PER_BATCH):
            yield rows.iloc[start : start + ROWS_PER_BATCH]
        return
    file = pq.ParquetFile(rows)
    columns = [name for name in COLUMNS if name in file.schema_arrow.names]
    waiting: list[pd.DataFrame] = []  # a row group's last batch may be small
    for batch in file.iter_batches(ROWS_PER_BATCH, columns=columns):
        waiting.append(batch.to_pandas())
        if sum(map(len, waiting)) >= ROWS_PER_BATCH:
            joined = pd.concat(waiting, ignore_index=True)
            yield joined.iloc[:ROWS_PER_BATCH]
            waiting = [joined.iloc[ROWS_PER_BATCH:]]
    rest = pd.concat(waiting, ignore_index=True)
    if len(rest):
        yield rest


def _write_once(rows: Rows, encoder: _Encoder, cache: Path) -> Path:
    """Return the file of these rows, written now unless an earlier run did."""
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{encoder.key(rows)}.arrow"
    if path.is_file():
        path.touch()  # used now: the oldest go first
        return path
    partial = cache / f".{path.stem}.{uuid4().hex}"
    try:
        with pa.ipc.new_file(str(partial), encoder.schema) as writer:
            for frame in _frames(rows):
                writer.write_batch(encoder.encode(frame))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    newest_first = sorted(cache.glob("*.arrow"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in newest_first[KEPT_FILES:]:
        old.unlink(missing_ok=True)  # who still reads it keeps it until it closes
    return path


def _read(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _list_array(rows: Sequence[npt.NDArray[Any]], kind: type) -> pa.ListArray:
    starts = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return pa.ListArray.from_arrays(starts, np.concatenate([*rows, np.empty(0, kind)]))


def _floats(frame: pd.DataFrame, name: str, default: float) -> pa.Array:
    values = frame[name].to_numpy(dtype=np.float32) if name in frame else np.full(len(frame), default, np.float32)
    return pa.array(values, pa.float32(), from_pandas=False)


@dataclass(frozen=True)
class Collator:
    """Pads rows to the longest of their batch; int64 [B, T], one target per row."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one batch."""
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = np.full((len(rows), longest), self.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), longest), dtype=np.int64)
        for position, row in enumerate(rows):
            input_ids[position, : len(row["input_ids"])] = row["input_ids"]
            attention_mask[position, : len(row["input_ids"])] = 1
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }
        for name in TARGETS:
            if name in rows[0]:
                batch[name] = torch.from_numpy(np.array([row[name] for row in rows], dtype=np.float32))
        return batch
