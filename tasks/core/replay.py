"""Which rows a model that goes on from the champion learns: those it does not know, and old ones against forgetting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.rows import normalise_text

_SAME = ["row_id", "text", "label"]  # a row whose text or label was mended is new


@dataclass(frozen=True)
class Mixture:
    """New rows with the old ones that are replayed beside them."""

    rows: pd.DataFrame
    n_new: int
    n_old: int


def mix_replay(train: pd.DataFrame, known: pd.DataFrame, old_per_new: float, seed: int) -> Mixture:
    """Return the training rows that are not among `known`, with about `old_per_new` old rows for each of them.

    Old rows come in whole groups, drawn so that their labels keep the shares that they have among all old rows; all of
    them come where fewer are there than asked for. The order of `train` is kept.
    """
    is_old = _keys(train).isin(set(_keys(known)))
    old = train[is_old]
    n_new = int((~is_old).sum())
    chosen = _draw_groups(old, min(1.0, old_per_new * n_new / max(1, len(old))), seed)
    rows = train[~is_old | train["row_id"].isin(chosen)]
    return Mixture(rows, n_new, len(rows) - n_new)


def list_learned(version: str, tags: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the fingerprints of all snapshots that a version learned: its own, and those of whom it went on from."""
    learned: dict[str, str] = {}  # by version; versions only ever go on from earlier ones
    while version in tags and version not in learned:
        learned[version] = tags[version].get("snapshot", "none")
        version = tags[version].get("started_from", "")
    return list(dict.fromkeys(learned.values()))


def count_learned(test: pd.DataFrame, learned: Sequence[pd.DataFrame]) -> int:
    """Return how many test rows, by their name or by their text, are among training rows of the past."""
    texts = test["text"].map(normalise_text)
    is_learned = np.zeros(len(test), dtype=bool)
    for train in learned:
        is_learned |= test["row_id"].isin(train["row_id"]).to_numpy()
        is_learned |= texts.isin(set(train["text"].map(normalise_text))).to_numpy()
    return int(is_learned.sum())


def _keys(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(list(rows[_SAME].itertuples(index=False, name=None)), index=rows.index, dtype="object")


def _draw_groups(rows: pd.DataFrame, share: float, seed: int) -> set[str]:
    """Return the ids of about this share of the rows of every label; a group goes with its most frequent label."""
    if share >= 1:
        return set(rows["row_id"])
    counts = rows.groupby(["group", "label"]).size().unstack(fill_value=0)
    if counts.empty or share <= 0:
        return set()
    order = counts.index[np.random.default_rng(seed).permutation(len(counts))]
    main, sizes = counts.idxmax(axis=1)[order], counts.sum(axis=1)[order]
    # A group is taken while the rows before it fall short of its label's quota by more than half of the group.
    before = sizes.groupby(main).cumsum() - sizes
    quota = main.map(sizes.groupby(main).sum()) * share
    taken = order[(before + sizes / 2 <= quota).to_numpy()]
    return set(rows.loc[rows["group"].isin(taken), "row_id"])
