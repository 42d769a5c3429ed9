"""What settled labels mean for training rows and for a monitored window."""

from collections.abc import Iterable

import pandas as pd

from configs.schema import Splits
from tasks.core.feedback_trust import Settled
from tasks.core.splits import place, split_at

PREFIX = "feedback:"  # of the row id; the prediction id follows


def admit_rows(rows: pd.DataFrame, settled: Iterable[Settled], splits: Splits) -> pd.DataFrame:
    """Return the raw rows of feedback that may be learned from or judge, with their settled labels.

    Held back and contested ones are left out. So are those that would judge a model while no reviewer has looked at
    them; they never train instead, as they may become test rows yet.
    """
    by_row = {PREFIX + one.prediction_id: one for one in settled}
    found = [by_row.get(row_id) for row_id in rows["row_id"]]
    judges = find_test_rows(rows, splits)
    kept = [one is not None and one.label is not None and (one.is_reviewed or row_id not in judges)
            for row_id, one in zip(rows["row_id"], found, strict=True)]  # fmt: skip
    admitted = rows[pd.Series(kept, index=rows.index, dtype=bool)].copy()  # an empty list would choose columns
    labels = [one.label for one, is_kept in zip(found, kept, strict=True) if is_kept and one is not None]
    admitted["label"] = pd.Series(labels, index=admitted.index, dtype="str")
    return admitted


def find_test_rows(rows: pd.DataFrame, splits: Splits) -> set[str]:
    """Return the ids of the rows whose group belongs to the test split."""
    in_test = {group: split_at(place(splits.key, group), splits) == "test" for group in rows["group"].unique()}
    return set(rows["row_id"][rows["group"].map(in_test).astype(bool)])


def settle_window(window: pd.DataFrame, settled: Iterable[Settled]) -> pd.DataFrame:
    """Return a window of the prediction log with settled labels; one that is held back is no label at all.

    A label that no believed customer gave came from people, for the reason that they were asked.
    """
    known = {one.prediction_id: one for one in settled}
    gold: list[str | None] = []
    picked: list[str | None] = []
    has_label = window["gold"].notna()
    for prediction_id, asked, is_labelled in zip(window["prediction_id"], window["asked"], has_label, strict=True):
        one = known.get(prediction_id) if is_labelled else None
        label = one.label if one is not None else None
        gold.append(label)
        picked.append(None if one is None or label is None else "given" if one.is_given else asked)
    as_objects = {
        name: pd.Series(values, window.index, object) for name, values in (("gold", gold), ("picked", picked))
    }
    return window.assign(**as_objects)
