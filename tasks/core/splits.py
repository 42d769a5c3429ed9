"""Which rows train, validate and test: decided once per group, by a keyed hash, for as long as the loop lives."""

import hashlib

import pandas as pd

from configs.schema import Splits
from tasks.core.rows import SPLITS


def place(key: str, group: str) -> float:
    """Return where a group lies in [0, 1): uniform over groups, and always the same under one key."""
    secret = hashlib.sha256(key.encode("utf-8")).digest()
    hashed = hashlib.blake2b(group.encode("utf-8", "surrogatepass"), key=secret, digest_size=8).digest()
    return (int.from_bytes(hashed, "big") >> 11) / 2**53


def split_at(position: float, splits: Splits) -> str:
    """Return the split of a place: test first, then validation, the rest trains."""
    if position < splits.test:
        return "test"
    return "validation" if position < splits.test + splits.validation else "train"


def assign_splits(rows: pd.DataFrame, splits: Splits) -> pd.DataFrame:
    """Return raw rows with a column `split`: the row's own one where it names one, else its group's.

    A row's split depends on nothing but the row, so it never changes as data grows.
    """
    of_group = {group: split_at(place(splits.key, group), splits) for group in rows["group"].unique()}
    hashed = rows["group"].map(of_group).astype("str")
    return rows.assign(split=rows["own_split"].where(rows["own_split"] != "", hashed))


def drop_leaks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those whose normalised text also stands in a split that judges them.

    Test wins over validation, and both over train, so copies of a text never straddle splits.
    """
    rank = rows["split"].map({split: position for position, split in enumerate(SPLITS)})
    return rows[rank == rank.groupby(rows["normalised"]).transform("max")]
