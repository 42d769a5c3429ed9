"""Windows that are drawn: reviews against other reviews, where every alarm is false, and against what has shifted.

A reference is `REFERENCE_GROUPS` reviews, a window other reviews or rows of another genre; no review is on both sides.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from tests.bench.drift.corpora import LINES, Corpus, join

REFERENCE_GROUPS = 60
MIXED = 0.3  # share of the window that is new in a mixture
PRIORS = {"negative": 0.6, "neutral": 0.2, "positive": 0.2}  # of a window whose classes shifted; reviews: 33, 21, 46 %
GENRES = ("tweets", "films", "editorials")

Random = np.random.Generator
Pair = tuple[Corpus, Corpus]
Draw = Callable[[Mapping[str, Corpus], int, Random], Pair]


def draw_null(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews against other reviews."""
    reference, left = _draw_reference(corpora, random)
    return reference, take_groups(corpora["reviews"], left, n)


def draw_singles(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews against single sentences of other reviews: live texts that form no groups."""
    reference, left = _draw_reference(corpora, random)
    groups = np.asarray(corpora["reviews"].groups)
    ones = [random.choice(np.flatnonzero(groups == group)) for group in left[:n]]
    return reference, corpora["reviews"].take(np.array(ones))


def draw_ungrouped(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return what a test that permutes rows would be given."""
    reference, current = draw_null(corpora, n, random)
    return _ungroup(reference), _ungroup(current)


def draw_genre(genre: str) -> Draw:
    """Return how to draw reviews against another genre."""

    def draw(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
        return _draw_reference(corpora, random)[0], _take_some(corpora[genre], n, random)

    return draw


def draw_mixture(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews against reviews with 30 % tweets."""
    reference, left = _draw_reference(corpora, random)
    num_new = round(MIXED * n)
    old = take_groups(corpora["reviews"], left, n - num_new)
    return reference, join(old, _take_some(corpora["tweets"], num_new, random))


def draw_priors(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews against sentences of other reviews, drawn so that classes have other shares."""
    reference, left = _draw_reference(corpora, random)
    rest = take_groups(corpora["reviews"], left)
    labels = rest.rows["label"].to_numpy()
    places: list[int] = []
    for label, share in PRIORS.items():
        found = np.flatnonzero(labels == label)
        places += found[: round(share * n)].tolist()  # group by group, as reviews come
    return reference, rest.take(np.sort(np.array(places)))


def draw_typos(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews against other reviews with one word in ten mistyped."""
    reference, left = _draw_reference(corpora, random)
    return reference, take_groups(corpora["typos"], left, n)


def draw_line(corpora: Mapping[str, Corpus], n: int, random: Random) -> Pair:
    """Return reviews of four product lines against reviews of a single one."""
    reference, left = _draw_reference(corpora, random)
    line = random.choice(list(LINES))
    lines = dict(zip(corpora["reviews"].groups, corpora["reviews"].rows["line"], strict=True))
    return reference, take_groups(corpora["reviews"], [group for group in left if lines[group] == line], n)


NULLS: dict[str, Draw] = {
    "false_alarm": draw_null,
    "false_alarm_single_texts": draw_singles,
    "rows_permuted_instead": draw_ungrouped,
}
SHIFTS: dict[str, Draw] = {
    **{genre: draw_genre(genre) for genre in GENRES},
    "30 % tweets": draw_mixture,
    "class priors": draw_priors,
    "typos": draw_typos,
    "one product line": draw_line,
}


def sizes_of(name: str) -> tuple[int, ...]:
    """Return the sizes of window that the corpora allow."""
    if name == "false_alarm_single_texts":
        return (50, 100)  # 150 reviews give no 200 single sentences
    return (50, 100, 200, 500) if name in ("false_alarm", "30 % tweets") else (50, 100, 200)


def take_groups(corpus: Corpus, groups: Iterable[str], num_rows: int | None = None) -> Corpus:
    """Return the rows of these groups, in their order; the last group is cut at num_rows."""
    places = corpus.rows.groupby("group", sort=False).indices
    taken: list[int] = []
    for group in groups:
        taken += places[group].tolist()
        if num_rows is not None and len(taken) >= num_rows:
            break
    return corpus.take(np.array(taken[:num_rows], dtype=np.int64))


def _draw_reference(corpora: Mapping[str, Corpus], random: Random) -> tuple[Corpus, list[str]]:
    groups = random.permutation(corpora["reviews"].rows["group"].unique()).tolist()
    return take_groups(corpora["reviews"], groups[:REFERENCE_GROUPS]), groups[REFERENCE_GROUPS:]


def _take_some(corpus: Corpus, num_rows: int, random: Random) -> Corpus:
    return take_groups(corpus, random.permutation(corpus.rows["group"].unique()), num_rows)


def _ungroup(corpus: Corpus) -> Corpus:
    return replace(corpus, rows=corpus.rows.assign(group=[f"row-{row}" for row in range(len(corpus.rows))]))
