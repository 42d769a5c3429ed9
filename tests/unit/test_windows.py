import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tasks.core.predictor import Predictor, read_manifest, write_manifest
from tasks.core.windows import Pieces, cut, join_closeness, join_probabilities
from tests.support.tiny_bundle import limit_scope, write_tiny_bundle

LONG = "good " * 15 + "bad " * 17  # the tiny bundle reads 16 tokens at once


def tokenizer(max_tokens: int, overlap: int) -> Tokenizer:
    """One number per word, between the marks 0 and 1."""
    made = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, **{f"w{n}": n for n in range(2, 40)}}, unk_token="w2"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    made.enable_truncation(max_tokens, stride=overlap)
    return made


def test_a_long_text_becomes_windows_that_overlap_and_every_token_counts_once() -> None:
    texts = ["w3", " ".join(f"w{n}" for n in range(10, 22)), "w4 w5"]
    pieces = cut(tokenizer(8, 2).encode_batch(texts), 2, 2)
    assert pieces.ids == [
        [0, 3, 1],
        [0, 10, 11, 12, 13, 14, 15, 1],
        [0, 14, 15, 16, 17, 18, 19, 1],
        [0, 18, 19, 20, 21, 1],
        [0, 4, 5, 1],
    ]
    assert pieces.owners is not None
    assert pieces.owners.tolist() == [0, 1, 1, 1, 2]
    assert pieces.n_tokens.tolist() == [3, 14, 4]
    assert pieces.truncated.tolist() == [False, False, False]


def test_without_windows_the_beginning_is_read_and_said_to_be_cut() -> None:
    pieces = cut(tokenizer(8, 0).encode_batch(["w3", "w3 " * 30]), None, 2)
    assert [len(ids) for ids in pieces.ids] == pieces.n_tokens.tolist() == [3, 8]
    assert pieces.owners is None
    assert pieces.truncated.tolist() == [False, True]
    assert cut([], 2, 2).ids == []


def pieces_of(lengths: list[int], owners: list[int]) -> Pieces:
    num_texts = max(owners) + 1
    no = np.zeros(num_texts, dtype=bool)
    return Pieces([[0] * n for n in lengths], np.array(owners), no.astype(np.int64), no)


def test_windows_count_by_their_tokens() -> None:
    pieces = pieces_of([8, 4, 6], [0, 0, 1])
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]], dtype=np.float32)
    joined = join_probabilities(probabilities, pieces)
    assert joined[0] == pytest.approx([0.7, 0.3])
    assert joined[1] == pytest.approx([0.5, 0.5])
    assert joined.dtype == np.float32


@pytest.mark.parametrize(
    ("lengths", "closeness", "expected"),
    [
        ([8, 8, 8], [-1.0, -900.0, -2.0], -2.0),  # one strange window decides nothing
        ([8, 2], [-5.0, -1.0], -5.0),
        ([8, 8], [-5.0, -1.0], -5.0),
        ([2, 2, 8], [-9.0, -8.0, -1.0], -1.0),
    ],
)
def test_a_text_is_as_close_as_half_of_it(lengths: list[int], closeness: list[float], expected: float) -> None:
    pieces = pieces_of(lengths, [0] * len(lengths))
    assert join_closeness(np.array(closeness, dtype=np.float32), pieces).tolist() == [expected]


def windowing(folder: Path, overlap: int = 4) -> Path:
    manifest = dataclasses.replace(read_manifest(folder), long_texts="window", window_overlap=overlap)
    write_manifest(folder, manifest)
    return folder


def test_the_end_of_a_long_text_counts_with_windows_and_not_without(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    cut_off = Predictor.load(folder, 1).predict([LONG, "good"])
    assert cut_off.answers == ["positive", "positive"]
    assert (cut_off.truncated.tolist(), cut_off.n_tokens.tolist()) == ([True, False], [16, 1])
    predictor = Predictor.load(windowing(folder), 1)
    whole = predictor.predict([LONG, "good"])
    assert whole.answers == ["negative", "positive"]
    assert (whole.truncated.tolist(), whole.n_tokens.tolist()) == ([False, False], [32, 1])
    assert whole.probabilities.sum(1) == pytest.approx([1, 1])
    beginning = predictor.reading(long_texts="truncate").predict([LONG, "good"])
    assert beginning.probabilities == pytest.approx(cut_off.probabilities)
    assert predictor.predict([LONG]).answers == ["negative"]  # its twin did not change how it reads


def test_a_text_is_unknown_where_most_of_its_windows_are(tmp_path: Path) -> None:
    predictor = Predictor.load(limit_scope(windowing(write_tiny_bundle(tmp_path / "bundle")), 0.8), 1)
    texts = ["good " * 16 + "what " * 60, "what " * 16 + "good " * 60, "what"]
    assert predictor.predict(texts).unknown.tolist() == [True, False, True]
    assert (predictor.measure_closeness(texts) < 0.8).tolist() == [True, False, True]
