"""Soft labels: how several people, or a model, spread one row over the labels (votes or shares)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

BROKEN = "are not all numbers of 0 or more with one above 0"
TIED = "tie for the largest share"


@dataclass(frozen=True)
class SoftLabels:
    """What a table's columns of votes say, row by row; `shares` is "" where a row has none."""

    shares: pd.Series  # JSON list of shares in the order of the loop's labels; they sum to 1
    largest: pd.Series  # the label with the largest share; missing without shares and where several tie
    defects: pd.Series  # BROKEN, TIED or ""


def soft_labels_of(table: pd.DataFrame, column_by_label: Mapping[str, str] | None, labels: Sequence[str]) -> SoftLabels:
    """Return the soft labels of a table whose `column_by_label` names a column for every label.

    A row that is empty in all of these columns has none; one that is empty in some is broken: nobody knows whether
    zero was meant.
    """
    index = table.index
    shares, largest = pd.Series("", index=index, dtype="str"), pd.Series(None, index=index, dtype="str")
    defects = pd.Series("", index=index, dtype="str")
    if column_by_label is None or table.empty:
        return SoftLabels(shares, largest, defects)
    given = pd.DataFrame({label: table[column_by_label[label]] for label in labels}, index=index)
    is_empty = (given.isna() | (given.astype("str").fillna("") == "")).all(axis=1).to_numpy()
    votes_NC = given.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    totals_N = votes_NC.sum(axis=1)
    sound = np.isfinite(votes_NC).all(axis=1) & (votes_NC >= 0).all(axis=1) & (totals_N > 0) & np.isfinite(totals_N)
    parts_NC = votes_NC[sound] / totals_N[sound, None]
    shares.loc[sound] = [json.dumps(row) for row in parts_NC.tolist()]
    defects.loc[~sound & ~is_empty] = BROKEN
    tied = np.zeros(len(table), dtype=bool)
    if sound.any():
        top = parts_NC.max(axis=1, keepdims=True)
        tied[sound] = (parts_NC == top).sum(axis=1) > 1
        largest.loc[sound] = [labels[position] for position in parts_NC.argmax(axis=1)]
    largest.loc[tied] = None
    defects.loc[tied] = TIED
    return SoftLabels(shares, largest, defects)
