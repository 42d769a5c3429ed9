"""One monitored window: whether it can be judged, what the drift tests say, and how good the answers seem."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from configs.schema import Monitoring
from tasks.core.drift import DriftTest, Floats, Sample, ShareShift, can_fire, compare, sample_groups, shift_shares
from tasks.core.errors import DataError
from tasks.core.performance import EstimatedAccuracy, MeasuredAccuracy, estimate_accuracy, measure_accuracy
from tasks.core.predictor import UNKNOWN
from tasks.core.verdict import Verdict, Vote, count_rows_for_vote, judge

Embed = Callable[[Sequence[str]], Floats]  # texts to vectors [N, D], as those of the reference were made


@dataclass(frozen=True)
class WindowCheck:
    """What was found in one window of the champion's answers; `oldest` and `newest` are None when it is empty."""

    at: datetime
    version: str
    n: int
    n_groups: int
    oldest: datetime | None
    newest: datetime | None
    is_vote: bool
    verdict: Verdict
    tests: tuple[DriftTest, ...]
    shares: tuple[ShareShift, ...]
    measured: MeasuredAccuracy | None
    estimated: EstimatedAccuracy | None

    @property
    def fires(self) -> bool:
        """Say whether a drift test fires."""
        return any(test.fires for test in self.tests)


def check(
    *,
    current: pd.DataFrame,
    reference: pd.DataFrame,
    earlier: Sequence[Vote],
    rules: Monitoring,
    labels: Sequence[str],
    version: str,
    now: datetime,
    embed: Embed,
) -> WindowCheck:
    """Judge a window of the prediction log (oldest row first) against the reference of the version that answered it.

    `earlier` are the votes of this version so far, newest first.
    """
    n_fresh = int((current["at"] > earlier[0].newest_row_at).sum()) if earlier else len(current)
    shortage = find_shortage(current, reference, rules)
    needed = count_rows_for_vote(len(current), rules.window.min_rows)
    counts = shortage is None and (not earlier or n_fresh >= needed)
    tests = _test_drift(current, reference, rules, embed) if shortage is None else ()
    oldest, newest = _span(current)
    verdict = Verdict("too few", shortage or "")
    if shortage is None and newest is not None:
        vote = Vote(now, newest, any(test.fires for test in tests))
        verdict = judge(newest=vote, earlier=earlier if counts else earlier[1:], k=rules.k, n=rules.n)
    if shortage is None and not counts:
        again = f"{n_fresh} new texts since the last window, {needed} make a window of its own"
        verdict = replace(verdict, reason=f"{verdict.reason}; {again}")
    return WindowCheck(
        at=now,
        version=version,
        n=len(current),
        n_groups=current["group"].nunique(),
        oldest=oldest,
        newest=newest,
        is_vote=counts,
        verdict=verdict,
        tests=tests,
        shares=tuple(
            shift_shares(
                reference=reference["predicted"], current=current["label"], labels=_answers(reference, current, labels)
            )
        ),
        measured=_measure(current),
        estimated=_estimate(current, reference),
    )


def find_shortage(current: pd.DataFrame, reference: pd.DataFrame, rules: Monitoring) -> str | None:
    """Say why a window cannot be judged, or None."""
    if len(current) < rules.window.min_rows:
        return f"{len(current)} texts of this version, {rules.window.min_rows} needed"
    groups = current["group"].nunique()
    if can_fire(num_reference_groups=reference["group"].nunique(), num_current_groups=groups, alpha=rules.alpha):
        return None
    return f"{len(current)} texts, but of {groups} groups only: too few to tell drift from one loud group"


def _span(current: pd.DataFrame) -> tuple[datetime | None, datetime | None]:
    if current.empty:
        return None, None
    return current["at"].min().to_pydatetime(), current["at"].max().to_pydatetime()


def _test_drift(
    current: pd.DataFrame, reference: pd.DataFrame, rules: Monitoring, embed: Embed
) -> tuple[DriftTest, ...]:
    current, reference = (side.iloc[sample_groups(side["group"].tolist(), rules.max_tested_rows)]
                          for side in (current, reference))  # fmt: skip
    columns = [column for column in reference.columns if column.startswith("p_")]
    missing = [column for column in columns if column not in current.columns]
    if missing:
        raise DataError(f"the logged window has no column {', '.join(missing)}: its labels are not the reference's")
    known, seen = np.stack(reference["embedding"].to_list()), embed(current["text"].tolist())
    if known.shape[1] != seen.shape[1]:
        raise DataError(
            f"the reference has embeddings of {known.shape[1]} dimensions, the base model now gives {seen.shape[1]}: "
            "set training.base_model to the one that the champion was trained from"
        )
    return compare(
        reference=Sample(reference[columns].to_numpy(), known, reference["group"].tolist()),
        current=Sample(current[columns].to_numpy(), seen, current["group"].tolist()),
        alpha=rules.alpha,
        permutations=rules.permutations,
    )


def _answers(reference: pd.DataFrame, current: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return the labels, and UNKNOWN where it was answered."""
    was_unknown = UNKNOWN not in labels and any(
        (answers == UNKNOWN).any() for answers in (reference["predicted"], current["label"])
    )
    return [*labels, UNKNOWN] if was_unknown else list(labels)


def _measure(current: pd.DataFrame) -> MeasuredAccuracy | None:
    labelled = current[current["gold"].notna()]
    return measure_accuracy(
        predicted=labelled["label"].tolist(), gold=labelled["gold"].tolist(), groups=labelled["group"].tolist()
    )


def _estimate(current: pd.DataFrame, reference: pd.DataFrame) -> EstimatedAccuracy | None:
    reference, current = reference[reference["predicted"] != UNKNOWN], current[current["label"] != UNKNOWN]
    return estimate_accuracy(  # of the labels that were given: whether `unknown` was right, no score can say
        reference_scores=reference["score"].to_numpy(),
        reference_correct=(reference["label"] == reference["predicted"]).to_numpy(dtype=bool),
        current_scores=current["score"].to_numpy(),
    )
