"""Parts of the test rows that are scored by themselves: cut by source, attribute, length, pattern or age."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from configs.schema import Slice
from tasks.core.metrics import (
    Floats,
    Ints,
    accuracy_of_counts,
    count_answers,
    f1_of_counts,
    interval,
    number_groups,
    resample_sums,
    share_interval,
)
from tasks.core.paired import Difference, summarise_difference

MAX_VALUES = 20  # of one column: the most frequent ones


@dataclass(frozen=True)
class Cut:
    """The rows of one slice."""

    name: str
    rule: str  # what puts a row into it, in words
    rows: npt.NDArray[np.bool_]
    is_newest: bool = False
    note: str = ""  # why it is empty or smaller than asked for


@dataclass(frozen=True)
class SliceScores:
    """What both models reached on one slice; None where there are no rows, or no champion."""

    name: str
    rule: str
    is_newest: bool
    note: str
    n: int
    n_groups: int
    accuracy: float | None = None
    accuracy_ci: tuple[float, float] | None = None
    macro_f1: float | None = None  # over the classes that the slice has
    macro_f1_ci: tuple[float, float] | None = None
    champion_accuracy: float | None = None
    champion_macro_f1: float | None = None
    difference: Difference | None = None


def cut_slices(test: pd.DataFrame, slices: Sequence[Slice]) -> list[Cut]:
    """Return the rows of every slice, in the order of the YAML; a column gives one slice per value."""
    cuts: list[Cut] = []
    for one in slices:
        if one.column is not None:
            cuts += _cut_by_column(test, one.name, one.column)
        elif one.words is not None:
            fewest, most = one.words
            n_words = test["text"].str.split().str.len().to_numpy()
            cuts.append(Cut(one.name, f"{fewest} to {most} words", (n_words >= fewest) & (n_words <= most)))
        elif one.pattern is not None:
            found = re.compile(one.pattern)
            matches = np.array([found.search(text) is not None for text in test["text"]], dtype=np.bool_)
            cuts.append(Cut(one.name, f"matches {one.pattern}", matches))
        elif one.newest is not None:
            cuts.append(_cut_newest(test, one.name, one.newest))
    return cuts


def score_slices(
    cuts: Sequence[Cut],
    gold: Ints,
    challenger: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating] | None,
    groups: Sequence[str],
    resamples: int,
    confidence: float,
    seed: int = 0,
) -> tuple[SliceScores, ...]:
    """Score each slice by its own groups; probabilities are [N, C]."""
    names = np.asarray(groups, dtype=object)
    sides = (challenger.argmax(1), None if champion is None else champion.argmax(1))
    scored = []
    for cut in cuts:
        if not cut.rows.any():
            scored.append(SliceScores(cut.name, cut.rule, cut.is_newest, cut.note, 0, 0))
            continue
        of_slice = [None if side is None else side[cut.rows] for side in sides]
        scored.append(_score_slice(cut, gold[cut.rows], of_slice, names[cut.rows], challenger.shape[1], resamples,
                                   confidence, seed))  # fmt: skip
    return tuple(scored)


def _score_slice(
    cut: Cut,
    gold: Ints,
    sides: Sequence[Ints | None],
    groups: npt.NDArray[np.object_],
    num_classes: int,
    resamples: int,
    confidence: float,
    seed: int,
) -> SliceScores:
    codes, num_groups = number_groups(groups.tolist())
    counts = [count_answers(gold, side, codes, num_groups, num_classes) for side in sides if side is not None]
    present = np.unique(gold)
    totals = [np.asarray(one.sum(1)) for one in counts]
    sums_KR = resample_sums(sparse.csr_array(sparse.vstack(counts)), resamples, seed)  # one draw: the sides stay paired
    of_side = np.split(sums_KR, len(counts))
    accuracies = [accuracy_of_counts(sums, num_classes) for sums in of_side]
    f1_R = f1_of_counts(of_side[0], num_classes)[present].mean(0)
    challenger, champion = sides
    difference = None
    if challenger is not None and champion is not None:
        by_row = (challenger == gold).astype(np.int64) - (champion == gold)
        difference = summarise_difference(by_row, codes, num_groups, accuracies[0] - accuracies[1], confidence)
    return SliceScores(
        cut.name,
        cut.rule,
        cut.is_newest,
        cut.note,
        len(gold),
        num_groups,
        accuracy=float(accuracy_of_counts(totals[0], num_classes)),
        accuracy_ci=share_interval(accuracies[0], 0.95, num_groups),
        macro_f1=_macro_f1(totals[0], num_classes, present),
        macro_f1_ci=interval(f1_R, 0.95, num_groups),
        champion_accuracy=float(accuracy_of_counts(totals[1], num_classes)) if len(totals) > 1 else None,
        champion_macro_f1=_macro_f1(totals[1], num_classes, present) if len(totals) > 1 else None,
        difference=difference,
    )


def _macro_f1(totals: Floats, num_classes: int, present: Ints) -> float:
    return float(f1_of_counts(totals, num_classes)[present].mean())


def _cut_by_column(test: pd.DataFrame, name: str, column: str) -> list[Cut]:
    values = test["source"].tolist() if column == "source" else _read_attribute(test, column)
    frequent = Counter(value for value in values if value).most_common()
    if not frequent:
        empty = np.zeros(len(test), dtype=np.bool_)
        return [Cut(name, f"by {column}", empty, note=f"no test row has the attribute {column}")]
    note = f"the {MAX_VALUES} most frequent of {len(frequent)} values" if len(frequent) > MAX_VALUES else ""
    column_values = np.asarray(values, dtype=object)
    return [
        Cut(f"{name}={value}", f"{column} is {value}", (column_values == value).astype(np.bool_), note=note)
        for value, _ in sorted(frequent[:MAX_VALUES])
    ]


def _read_attribute(test: pd.DataFrame, column: str) -> list[str]:
    if "attributes" not in test.columns:  # snapshots of an earlier format
        return [""] * len(test)
    read = [json.loads(text) if text else {} for text in test["attributes"]]
    return [str(of_row.get(column) or "") for of_row in read]


def _cut_newest(test: pd.DataFrame, name: str, share: float) -> Cut:
    """Return the newest share of groups. Undated groups are the oldest, and never among the newest."""
    rule = f"newest {share:.0%} of groups"
    dates = test.groupby("group")["observed_at"].max().dropna()
    wanted = round(share * test["group"].nunique())
    if dates.empty or not wanted:
        note = "no test row has a date" if dates.empty else "the share is less than one group"
        return Cut(name, rule, np.zeros(len(test), dtype=np.bool_), is_newest=True, note=note)
    newest = dates.reset_index().sort_values(["observed_at", "group"], kind="stable").tail(wanted)
    note = f"only {len(dates)} groups have a date" if len(dates) < wanted else ""
    rule += f", since {newest['observed_at'].min():%Y-%m-%d}"
    return Cut(name, rule, test["group"].isin(newest["group"]).to_numpy(dtype=np.bool_), is_newest=True, note=note)
