"""From raw rows to those of a snapshot: what is set aside, what is dropped, and whether the rest is fit to train on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from configs.schema import Data
from tasks.core.expectations import ExpectationResult, validate
from tasks.core.rows import (
    ROW_COLUMNS,
    SPLITS,
    derive_columns,
    drop_duplicates,
    find_contradictions,
    normalise_text,
)
from tasks.core.splits import assign_splits, drop_leaks

QUARANTINE_COLUMNS = ["row_id", "reason", "source", "text", "label"]


@dataclass(frozen=True)
class Screened:
    """What screening found. `problems` says why no snapshot may be made of it; empty where one may."""

    rows: pd.DataFrame  # the kept rows, with `split`
    quarantine: pd.DataFrame  # row_id, reason, source, text, label
    results: list[ExpectationResult]
    n_raw: int
    n_duplicates: int
    n_leaks: int
    problems: list[str]

    def count(self, split: str) -> int:
        """Return how many rows a split has."""
        return int((self.rows["split"] == split).sum())


def screen(raw: pd.DataFrame, data: Data, labels: Sequence[str]) -> Screened:
    """Judge raw rows and split those that are good.

    In this order: defects, row expectations, unknown labels and contradictions send rows to quarantine; expectations
    on the whole set see all good rows; then splits are assigned, and leaks and duplicates dropped.
    """
    rows = derive_columns(raw)
    sound = rows[rows["defect"] == ""]
    by_row = validate(sound, data.expectations.rows)
    reasons = _reasons(rows, sound, by_row, labels)
    good = rows[~rows["row_id"].isin(reasons.keys())]
    good = good.assign(normalised=[normalise_text(text) for text in good["text"]])
    contradictions = find_contradictions(good)
    good = good[~good["row_id"].isin(contradictions.keys())]
    on_set = validate(good, data.expectations.whole)
    split = assign_splits(good, data.splits)
    free = drop_leaks(split)
    kept = drop_duplicates(free)[[*ROW_COLUMNS, "split"]].reset_index(drop=True)
    quarantine = _quarantine(rows, reasons | contradictions)
    problems = [
        *_set_problems(on_set),
        *_share_problems(quarantine, len(rows), data.max_quarantined_share),
        *_class_problems(kept, labels),
    ]
    return Screened(
        kept, quarantine, [*by_row, *on_set], len(rows), len(free) - len(kept), len(split) - len(free), problems
    )


def count_reasons(quarantine: pd.DataFrame) -> dict[str, int]:
    """Return how many rows each reason sent to quarantine, most frequent first; ids inside reasons do not count."""
    kinds = Counter(part.partition(":")[0] for reason in quarantine["reason"] for part in reason.split("; "))
    return dict(kinds.most_common())


def _reasons(
    rows: pd.DataFrame, sound: pd.DataFrame, results: Sequence[ExpectationResult], labels: Sequence[str]
) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for row_id, defect in rows.loc[rows["defect"] != "", ["row_id", "defect"]].itertuples(index=False):
        found.setdefault(row_id, []).append(defect)
    for result in results:
        for row_id in result.unexpected_ids:
            found.setdefault(row_id, []).append(result.reason)
    for row_id in sound.loc[~sound["label"].isin(list(labels)), "row_id"]:
        found.setdefault(row_id, [f"label is none of {', '.join(labels)}"])  # also without an expectation on labels
    return {row_id: "; ".join(parts) for row_id, parts in found.items()}


def _quarantine(rows: pd.DataFrame, reasons: dict[str, str]) -> pd.DataFrame:
    parked = rows[rows["row_id"].isin(reasons.keys())]
    parked = parked.assign(reason=parked["row_id"].map(reasons).astype("str"))
    return parked[QUARANTINE_COLUMNS].reset_index(drop=True)


def _set_problems(results: Sequence[ExpectationResult]) -> list[str]:
    return [
        f"{result.reason} ({result.type} observed {result.observed or 'a failure'})"
        for result in results
        if result.severity == "critical" and not result.success
    ]


def _share_problems(quarantine: pd.DataFrame, n_rows: int, limit: float) -> list[str]:
    share = len(quarantine) / n_rows if n_rows else 0.0
    if share <= limit:
        return []
    reasons = ", ".join(f"{reason}: {n:,}" for reason, n in count_reasons(quarantine).items())
    return [
        f"{len(quarantine):,} of {n_rows:,} rows ({share:.1%}) are quarantined, more than max_quarantined_share "
        f"{limit:.1%} ({reasons})"
    ]


def _class_problems(rows: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """Every label must be learnable and judgeable: in train and in test. Validation may lack one."""
    counts = Counter(zip(rows["split"], rows["label"], strict=True))
    return [
        f"no {split} row has the label '{label}'; a loop needs every label in train and in test, and has "
        f"{', '.join(f'{counts[split, name]:,} {name}' for name in labels)} in {split}"
        for split in SPLITS
        if split != "validation"
        for label in labels
        if not counts[split, label]
    ]
