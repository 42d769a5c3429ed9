"""Encoding: the same rows from a frame, a file and the cache; nothing is lost between pieces, and old files go."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.core import encoding
from tasks.core.classifier import load_tokenizer
from tasks.core.encoding import Collator, encode_rows, read_rows
from tasks.core.errors import DataError
from tests.support.tiny_base import make_rows, write_tiny_base

LABELS = ["negative", "positive"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> object:
    return load_tokenizer(str(write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")))


@pytest.fixture
def rows() -> pd.DataFrame:
    frame = make_rows(107, seed=1)
    frame["soft_labels"] = ["[0.25, 0.75]" if number % 5 == 0 else "" for number in range(len(frame))]
    frame["weight"] = np.linspace(0, 1, len(frame))
    frame.loc[3, "rating"] = np.nan
    return frame


def same(left: encoding.EncodedRows, right: encoding.EncodedRows) -> bool:
    assert len(left) == len(right)
    pairs = [(left[number], right[number]) for number in range(len(left))]
    return all(
        list(a) == list(b) and all(np.array_equal(a[name], b[name], equal_nan=name == "ratings") for name in a)
        for a, b in pairs
    )


def test_a_file_and_its_cache_give_what_the_frame_gives(
    rows: pd.DataFrame, tokenizer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_frame = encode_rows(rows, tokenizer, LABELS, 8)
    monkeypatch.setattr(encoding, "ROWS_PER_BATCH", 10)
    monkeypatch.setattr(encoding, "ROWS_IN_MEMORY", 50)
    file = tmp_path / "rows.parquet"
    rows.to_parquet(file, row_group_size=33)  # pieces end within row groups
    first = encode_rows(file, tokenizer, LABELS, 8, tmp_path / "cache")
    (written,) = (tmp_path / "cache").iterdir()
    before = written.stat().st_ino
    again = encode_rows(file, tokenizer, LABELS, 8, tmp_path / "cache")
    assert written.stat().st_ino == before, "the second run found what the first one wrote"
    monkeypatch.setattr(encoding, "ROWS_PER_BATCH", 10_000)
    in_one = encode_rows(rows, tokenizer, LABELS, 8)
    assert same(in_one, from_frame)
    monkeypatch.setattr(encoding, "ROWS_PER_BATCH", 10)
    assert same(first, again)
    assert same(first, encode_rows(rows, tokenizer, LABELS, 8))
    assert first.lengths.max() == 8
    assert first.labels.tolist() == [LABELS.index(label) for label in rows["label"]]
    pd.testing.assert_frame_equal(read_rows(file)[["text", "label"]], rows[["text", "label"]])


def test_other_content_labels_or_lengths_are_encoded_anew_and_old_files_go(
    rows: pd.DataFrame, tokenizer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ROWS_IN_MEMORY", 50)
    cache = tmp_path / "cache"
    relabelled = rows.assign(label="negative")
    for frame, labels, tokens in [
        (rows, LABELS, 8), (relabelled, LABELS, 8), (rows, LABELS[::-1], 8), (rows, LABELS, 9), (rows, LABELS, 8),
    ]:  # fmt: skip
        encode_rows(frame, tokenizer, labels, tokens, cache)
    assert len(list(cache.iterdir())) == 4
    for tokens in range(10, 20):
        encode_rows(rows, tokenizer, LABELS, tokens, cache)
    assert len(list(cache.iterdir())) == encoding.KEPT_FILES


def test_a_batch_holds_the_targets_that_any_row_has(rows: pd.DataFrame, tokenizer: object) -> None:
    encoded = encode_rows(rows, tokenizer, LABELS, 16)
    batch = Collator(0)([encoded[0], encoded[1], encoded[3]])
    own = float(rows.loc[1, "label"] == "positive")
    assert batch["shares"][:2].tolist() == [[0.25, 0.75], [1 - own, own]]
    assert batch["ratings"].isnan().tolist() == [False, False, True]
    assert batch["weights"][0] == 0
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    plain = encode_rows(rows[["text", "label"]], tokenizer, LABELS, 16)
    assert set(Collator(0)([plain[0]])) == {"input_ids", "attention_mask", "labels"}


def test_a_label_that_the_loop_does_not_know_is_named(rows: pd.DataFrame, tokenizer: object) -> None:
    with pytest.raises(DataError, match=r"rows have the labels \['odd'\]; the loop's are"):
        encode_rows(rows.assign(label="odd"), tokenizer, LABELS, 8)
