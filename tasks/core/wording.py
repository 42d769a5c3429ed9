"""Which words came and which went.

A word counts once per text. Words that fewer than MIN_GROUPS groups use are never named: they may be somebody's own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from tasks.core.grouped_shares import compare_shares, find_sure, share_by_group

MIN_GROUPS = 5
MAX_WORDS = 12  # named in each direction
TELLING_Z = 2.5  # by which a word names a topic: a name is no test
COMMON = 0.01  # added to both shares before their ratio ranks words: half a per mille against none says little

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")  # of one letter, none says anything
# Scripts written without spaces: overlapping pairs of characters stand for their words.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]+")


@dataclass(frozen=True)
class WordShift:
    """A word with the share of texts that use it on both sides."""

    word: str
    reference: float
    current: float


@dataclass(frozen=True)
class Usage:
    """Who uses which word: `marks` [N, V] is 1 where text n has word v."""

    words: tuple[str, ...]
    marks: Any


def list_words(text: str) -> set[str]:
    """Return the different words of a text, case folded; numbers are none."""
    found: set[str] = set()
    for word in _WORD.findall(text.casefold()):
        runs = _UNSPACED.findall(word)
        for run in runs:
            found |= {run[place : place + 2] for place in range(len(run) - 1)}
        found |= set(_UNSPACED.split(word)) if runs else {word}
    return {word for word in found if len(word) > 1}


def count_words(texts: Sequence[str]) -> Usage:
    """Return the words of all texts, in alphabetical order, and which text uses which."""
    by_text = [list_words(text) for text in texts]
    words = sorted(set().union(*by_text))
    places = {word: place for place, word in enumerate(words)}
    columns = np.array([places[word] for used in by_text for word in sorted(used)], dtype=np.int64)
    ends = np.cumsum([0, *(len(used) for used in by_text)])
    marks = sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape=(len(texts), len(words)))
    return Usage(tuple(words), marks)


def find_word_shifts(
    usage: Usage, is_current_N: npt.NDArray[np.bool_], groups: Sequence[str]
) -> tuple[tuple[WordShift, ...], tuple[WordShift, ...]]:
    """Return the words that more texts use now than in the reference, and those that fewer do, the clearest first.

    Only differences that groups cannot explain by chance, over all words together, are named.
    """
    compared = _compare(usage, is_current_N, groups)
    sure = compared[find_sure(compared["z"].to_numpy())]
    came, went = sure[sure["z"] > 0], sure[sure["z"] < 0]
    return tuple(_shifts(came)[:MAX_WORDS]), tuple(_shifts(went)[:MAX_WORDS])


def name_by_words(usage: Usage, is_inside_N: npt.NDArray[np.bool_], groups: Sequence[str], limit: int) -> list[str]:
    """Return the words that tell some texts from the others, the most telling first; perhaps none."""
    if not is_inside_N.any() or is_inside_N.all():
        return []
    compared = _compare(usage, is_inside_N, groups)
    return [shift.word for shift in _shifts(compared[compared["z"] > TELLING_Z])[:limit]]


def _compare(usage: Usage, is_current_N: npt.NDArray[np.bool_], groups: Sequence[str]) -> pd.DataFrame:
    """Return the words that enough groups use, the largest change of their share first: word, shares, z."""
    named = np.asarray(groups, dtype=object)
    reference, current = (
        share_by_group(usage.marks[side], named[side].tolist()) for side in (~is_current_N, is_current_N)
    )
    ratio_V = np.log((current.shares + COMMON) / (reference.shares + COMMON))
    found = pd.DataFrame(
        {
            "word": usage.words,
            "reference": reference.shares,
            "current": current.shares,
            "z": compare_shares(reference, current),
            "change": np.abs(ratio_V),
        }
    )
    num_groups = share_by_group(usage.marks, groups).num_groups  # once each: a group may be on both sides
    return found[num_groups >= MIN_GROUPS].sort_values("change", ascending=False, kind="stable")


def _shifts(compared: pd.DataFrame) -> list[WordShift]:
    columns = (compared[name].tolist() for name in ("word", "reference", "current"))
    return [WordShift(*row) for row in zip(*columns, strict=True)]
