"""One monitored window: whether it can be judged, what the drift tests say, and how good the answers seem."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from configs.schema import Monitoring
from tasks.core.audit import LabelCounts, MeasuredAccuracy, count_labels, measure_accuracy
from tasks.core.drift import DriftTest, ShareShift, shift_shares
from tasks.core.performance import Answers, EstimatedAccuracy, estimate_accuracy
from tasks.core.permutations import can_fire, sample_groups
from tasks.core.predictor import UNKNOWN
from tasks.core.readers import Describe, Embed, Readers
from tasks.core.seasons import Season
from tasks.core.verdict import Verdict, Vote, count_rows_for_vote, judge
from tasks.core.window_drift import ReadSeason, look_for_season, run_tests

NO_LABELS = LabelCounts()


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
    labelled: LabelCounts = NO_LABELS
    season: Season | None = None  # what earlier weeks said, where a test fired and there were some

    @property
    def fires(self) -> bool:
        """Say whether a drift test fires for another reason than the day of the week."""
        return any(test.fires for test in self.tests) and not (self.season and self.season.recurs)


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
    represent: Embed | None = None,
    describe: Describe | None = None,
    read_season: ReadSeason | None = None,
    complete_keys: Sequence[str] = (),
    judged: pd.DataFrame | None = None,
) -> WindowCheck:
    """Judge a window of the prediction log (oldest row first) against the reference of the version that answered it.

    `earlier` are the votes of this version so far, newest first; `judged` the labelled rows that accuracy is estimated
    by, where the reference has no labels (an acknowledged window). `represent` and `describe` read texts for tests
    that are left out without them, `read_season` the log of earlier weeks.
    """
    readers = Readers(embed, represent, describe)
    shortage = find_shortage(current, reference, rules)
    tests = run_tests(current=current, reference=reference, rules=rules, readers=readers) if shortage is None else ()
    fired = [test for test in tests if test.fires]
    season = None
    if fired and read_season is not None:
        season = look_for_season(
            current=current, fired=fired, votes=earlier, rules=rules, readers=readers, read_season=read_season,
            version=version,
        )  # fmt: skip
    is_vote, verdict = _judge(current, earlier, rules, now, shortage, tests, season)
    oldest, newest = _span(current)
    return WindowCheck(
        at=now,
        version=version,
        n=len(current),
        n_groups=current["group"].nunique(),
        oldest=oldest,
        newest=newest,
        is_vote=is_vote,
        verdict=verdict,
        tests=tests,
        shares=tuple(
            shift_shares(
                reference=reference["predicted"], current=current["label"], labels=_answers(reference, current, labels)
            )
        ),
        measured=measure_accuracy(current, complete_keys=complete_keys),
        labelled=count_labels(current),
        estimated=_estimate(current, reference if judged is None else judged, embed, rules.max_tested_rows),
        season=season,
    )


def _judge(
    current: pd.DataFrame,
    earlier: Sequence[Vote],
    rules: Monitoring,
    now: datetime,
    shortage: str | None,
    tests: Sequence[DriftTest],
    season: Season | None,
) -> tuple[bool, Verdict]:
    """Return whether the window is a vote of its own, and the verdict."""
    newest = _span(current)[1]
    if shortage is not None or newest is None:
        return False, Verdict("too few", shortage or "no texts")
    n_fresh = int((current["at"] > earlier[0].newest_row_at).sum()) if earlier else len(current)
    needed = count_rows_for_vote(len(current), rules.window.min_rows)
    is_vote = not earlier or n_fresh >= needed
    vote = Vote(now, newest, any(test.fires for test in tests) and not (season and season.recurs))
    verdict = judge(newest=vote, earlier=earlier if is_vote else earlier[1:], k=rules.k, n=rules.n)
    reasons = [season.reason if season and season.recurs else verdict.reason]
    if season and not season.recurs:
        reasons.append(season.reason)
    trivial = [f"{test.name} {test.effect:.2f} of {test.min_effect:g}" for test in tests
               if test.p_value <= rules.alpha and not test.fires]  # fmt: skip
    if trivial:
        reasons.append(f"significant, but too small to matter: {', '.join(trivial)}")
    if not is_vote:
        reasons.append(f"{n_fresh} new texts since the last window, {needed} make a window of its own")
    return is_vote, replace(verdict, reason="; ".join(reasons))


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


def _answers(reference: pd.DataFrame, current: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return the labels, and UNKNOWN where it was answered."""
    was_unknown = UNKNOWN not in labels and any(
        (answers == UNKNOWN).any() for answers in (reference["predicted"], current["label"])
    )
    return [*labels, UNKNOWN] if was_unknown else list(labels)


def _estimate(current: pd.DataFrame, reference: pd.DataFrame, embed: Embed, max_rows: int) -> EstimatedAccuracy | None:
    """Return the estimate for the labels that were given: whether `unknown` was right, nothing here can say."""
    current = current.iloc[sample_groups(current["group"].tolist(), max_rows)]
    current = current[current["label"] != UNKNOWN]
    reference = reference[reference["predicted"] != UNKNOWN]
    if reference.empty or current.empty:
        return None
    known, seen = np.stack(reference["embedding"].to_list()), embed(current["text"].tolist())
    has_vectors = known.shape[1] == seen.shape[1]
    return estimate_accuracy(
        reference=Answers(
            reference["predicted"].tolist(),
            reference["score"].to_numpy(),
            reference["group"].tolist(),
            known if has_vectors else None,
            reference["label"].tolist(),
        ),
        current=Answers(
            current["label"].tolist(),
            current["score"].to_numpy(),
            current["group"].tolist(),
            seen if has_vectors else None,
        ),
    )
