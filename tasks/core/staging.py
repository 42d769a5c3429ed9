"""Decides about a version on its way through shadow and canary: wait, advance, or take back.

The new version is the candidate, the one that serves meanwhile the champion. Both answer the same texts: in shadow the
champion answers the caller and the candidate answers beside it. In canary some groups are answered by the candidate and
the champion answers beside it; an equal share of the others is answered the other way round, so that people who send
feedback only about answers that they saw do not favour either.
"""

import hashlib
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from configs.serving_schema import StageName, Stages
from tasks.core.approval import Entry
from tasks.core.champions import NO_MOVE
from tasks.core.sequential import (
    Pairs,
    bound_difference,
    is_distance_above,
    is_no_worse,
    is_share_above,
    is_worse,
)

Route = Literal["champion", "canary", "shadow"]  # who answers: champion, candidate, or the champion with a shadow
BINS = 50  # of a score's histogram
NUM_LIMITS = 5  # that share the error rate
SHOWN_RATIOS = 2000  # newest timings, whose median is shown


@dataclass(frozen=True)
class Compared:
    """One text that both versions were asked; a candidate that could not answer has no label.

    The times are those of this text alone, first one and then the other, for some texts only.
    """

    group: str
    stage: StageName
    candidate_label: str | None
    candidate_score: float | None
    champion_label: str
    champion_score: float
    candidate_ms: float | None = None
    champion_ms: float | None = None
    counts: bool = True  # towards the texts of its stage: in canary, what the candidate answered


@dataclass
class Tally:
    """What was counted of a release so far; the first text of each group stands for all of it."""

    max_latency_ratio: float
    texts: dict[str, int] = field(default_factory=dict)  # per stage
    num_asked: int = 0
    num_failed: int = 0
    num_groups: int = 0
    num_disagreed: int = 0
    num_timed: int = 0
    num_slow: int = 0
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=SHOWN_RATIOS))
    _candidate: list[int] = field(default_factory=lambda: [0] * BINS)
    _champion: list[int] = field(default_factory=lambda: [0] * BINS)
    _known: set[str] = field(default_factory=set)

    def add(self, row: Compared) -> None:
        """Count one text."""
        self.num_asked += 1
        if row.candidate_label is None or row.candidate_score is None:
            self.num_failed += 1
            return
        self.texts[row.stage] = self.texts.get(row.stage, 0) + row.counts
        if row.candidate_ms is not None and row.champion_ms is not None:
            self.num_timed += 1
            self.num_slow += row.candidate_ms > self.max_latency_ratio * row.champion_ms
            self._ratios.append(row.candidate_ms / max(row.champion_ms, 1e-6))
        if row.group in self._known:
            return
        self._known.add(row.group)
        self.num_groups += 1
        self.num_disagreed += row.candidate_label != row.champion_label
        self._candidate[_bin(row.candidate_score)] += 1
        self._champion[_bin(row.champion_score)] += 1

    @property
    def latency_ratio(self) -> float | None:
        """Return the median of the newest timings: the candidate's time over the champion's."""
        return statistics.median(self._ratios) if self._ratios else None

    @property
    def score_distance(self) -> float:
        """Return the largest difference between the distribution functions of both versions' scores."""
        largest, difference = 0, 0
        for candidate, champion in zip(self._candidate, self._champion, strict=True):
            difference += candidate - champion
            largest = max(largest, abs(difference))
        return largest / self.num_groups if self.num_groups else 0.0


@dataclass(frozen=True)
class Limit:
    """One limit: holds, is not held yet by what was measured (but that may be chance), or is broken beyond chance."""

    name: str
    state: Literal["ok", "open", "broken"]
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What becomes of a release now."""

    action: Literal["wait", "advance", "take back"]
    reason: str
    limits: tuple[Limit, ...]


def judge(stage: StageName, entered_at: datetime, tally: Tally, pairs: Pairs, stages: Stages, now: datetime) -> Verdict:
    """Say whether a release waits in its stage, advances to the next one, or is taken back.

    A broken limit takes it back at once; it advances when time and texts suffice and every limit is held.
    """
    goes_live = next_stage(stage, stages) == "stable"
    limits = (
        _judge_errors(tally, stages),
        _judge_latency(tally, stages),
        _judge_disagreement(tally, stages),
        _judge_scores(tally, stages),
        _judge_labels(pairs, stages, stages.needs_proof and goes_live),
    )
    broken = [limit for limit in limits if limit.state == "broken"]
    if broken:
        return Verdict("take back", "; ".join(limit.reason for limit in broken), limits)
    lacking = _list_lacking(stage, entered_at, tally, stages, now)
    lacking += [limit.reason for limit in limits if limit.state == "open"]
    if lacking:
        return Verdict("wait", "; ".join(lacking), limits)
    return Verdict("advance", f"{tally.texts.get(stage, 0)} texts compared, every limit holds", limits)


def next_stage(stage: StageName | None, stages: Stages) -> Literal["shadow", "canary", "stable"]:
    """Return where a release goes from a stage, or where it begins; stages that the loop does not ask for are left out.

    Raises ValueError for a stage that is no longer asked for.
    """
    left = stages.names if stage is None else stages.names[stages.names.index(stage) + 1 :]
    return left[0] if left else "stable"


@dataclass(frozen=True)
class Standing:
    """Whether a release may go on at all; else how it ends."""

    action: Literal["go on", "complete", "withdraw", "lapse"]
    reason: str


def judge_standing(
    stage: str,
    version: str,
    judged: str | None,
    started_at: datetime,
    *,
    champion: str | None,
    stages: Stages,
    now: datetime,
) -> Standing:
    """Say whether a release still stands: against the same champion, in a stage of the YAML, within its days.

    `judged` is the champion that it is compared with. A champion that is the version itself was moved there by a
    process that died before it could say so: then the release is complete.
    """
    if champion == version:
        return Standing("complete", "it is champion already")
    if champion != judged:
        then, today = (f"version {one}" if one else "no champion" for one in (judged, champion))
        return Standing("withdraw", f"it was compared with {then}, and now {today} serves")
    if stage not in stages.names:
        return Standing("withdraw", f"release.stages.{stage} is null in the loop's YAML that the service read")
    if now - started_at > timedelta(days=stages.max_days):
        return Standing("lapse", f"it is not stable after {stages.max_days:g} days")
    return Standing("go on", "")


def draw(release_id: str, who: str) -> float:
    """Return a number in 0-1 that is always the same for one group or key within a release."""
    digest = hashlib.blake2b(f"{release_id}\0{who}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def route(stage: StageName, share: float, release_id: str, group: str | None, key_id: str, prediction_id: str) -> Route:
    """Return who answers a text.

    A shadow is drawn by group, else by text. A canary is drawn by group, else by key: one caller always gets one
    version. The groups drawn right after the canary's share are shadowed, as many as there are in canary.
    """
    if stage == "shadow":
        return "shadow" if draw(release_id, group or prediction_id) < share else "champion"
    drawn = draw(release_id, group or key_id)
    if drawn < share:
        return "canary"
    return "shadow" if drawn < 2 * share else "champion"


@dataclass(frozen=True)
class ServedThen:
    """What served a loop at a time, as the audit log tells; `candidate` was on its way through a stage."""

    version: str | None
    since: datetime | None
    who: str = ""
    why: str = ""
    candidate: str | None = None
    stage: StageName | None = None
    stage_since: datetime | None = None


def find_served(entries: Iterable[Entry], at: datetime | None = None) -> ServedThen:
    """Return what served at a time, or serves now; entries are the audit log, oldest first."""
    champion: Entry | None = None
    staged: Entry | None = None
    for entry in entries:
        if at is not None and entry.at > at:
            break
        if entry.action in ("shadow", "canary"):
            staged = entry
        elif staged is not None and entry.to_version == staged.to_version:
            staged = None
        if entry.action not in NO_MOVE:
            champion = entry if champion is None or entry.to_version != champion.to_version else champion
    version, since = (champion.to_version, champion.at) if champion else (None, None)
    who, why = (champion.who, champion.why) if champion else ("", "")
    if staged is None:
        return ServedThen(version, since, who, why)
    stage: StageName = "shadow" if staged.action == "shadow" else "canary"
    return ServedThen(version, since, who, why, staged.to_version, stage, staged.at)


def count_pairs(labelled: Iterable[tuple[str, str, str, str]]) -> Pairs:
    """Return how both versions did on labelled texts: (group, candidate's label, champion's label, true label).

    In the order in which the labels came; the first of each group counts.
    """
    won = tied = lost = 0
    known: set[str] = set()
    for group, candidate, champion, truth in labelled:
        if group in known:
            continue
        known.add(group)
        difference = (candidate == truth) - (champion == truth)
        won, tied, lost = won + (difference > 0), tied + (difference == 0), lost + (difference < 0)
    return Pairs(won, tied, lost)


def _list_lacking(stage: StageName, entered_at: datetime, tally: Tally, stages: Stages, now: datetime) -> list[str]:
    asked = stages.shadow if stage == "shadow" else stages.canary
    assert asked is not None
    minutes, texts = (now - entered_at).total_seconds() / 60, tally.texts.get(stage, 0)
    lacking = [f"{minutes:.0f} of {asked.minutes:g} minutes"] if minutes < asked.minutes else []
    return [*lacking, f"{texts} of {asked.min_texts} texts compared"] if texts < asked.min_texts else lacking


def _state(is_broken: bool, is_beyond: bool) -> Literal["ok", "open", "broken"]:
    return "broken" if is_broken else "open" if is_beyond else "ok"


def _judge_errors(tally: Tally, stages: Stages) -> Limit:
    limit, share = stages.max_error_share, tally.num_failed / max(tally.num_asked, 1)
    broken = is_share_above(tally.num_failed, tally.num_asked, limit, stages.error_rate / NUM_LIMITS)
    told = f"{tally.num_failed} of {tally.num_asked} texts could not be answered, a share of {limit:g} is allowed"
    return Limit("errors", _state(broken, share > limit), told)


def _judge_latency(tally: Tally, stages: Stages) -> Limit:
    limit, ratio = stages.max_latency_ratio, tally.latency_ratio
    if ratio is None:
        return Limit("latency", "ok", "no text was timed yet")
    broken = is_share_above(tally.num_slow, tally.num_timed, 0.5, stages.error_rate / NUM_LIMITS)
    told = f"takes {ratio:.2f} times as long (median of {tally.num_timed} texts), {limit:g} is allowed"
    return Limit("latency", _state(broken, tally.num_slow > 0.5 * tally.num_timed), told)


def _judge_disagreement(tally: Tally, stages: Stages) -> Limit:
    limit, share = stages.max_disagreement, tally.num_disagreed / max(tally.num_groups, 1)
    broken = is_share_above(tally.num_disagreed, tally.num_groups, limit, stages.error_rate / NUM_LIMITS)
    told = f"another label for {tally.num_disagreed} of {tally.num_groups} groups, a share of {limit:g} is allowed"
    return Limit("disagreement", _state(broken, share > limit), told)


def _judge_scores(tally: Tally, stages: Stages) -> Limit:
    limit, distance = stages.max_score_distance, tally.score_distance
    broken = is_distance_above(distance, tally.num_groups, limit, stages.error_rate / NUM_LIMITS)
    told = f"scores are {distance:.3f} apart (Kolmogorov-Smirnov, {tally.num_groups} groups), {limit:g} is allowed"
    return Limit("scores", _state(broken, distance > limit), told)


def _judge_labels(pairs: Pairs, stages: Stages, needs_proof: bool) -> Limit:
    margin, error_rate = stages.max_accuracy_loss, stages.error_rate / NUM_LIMITS
    low, high = bound_difference(pairs, stages.error_rate)
    told = (
        f"accuracy {pairs.difference:+.3f} [{low:+.3f}, {high:+.3f}] on {pairs.num} labelled groups, "
        f"a loss of {margin:g} is allowed"
    )
    lacks_proof = needs_proof and not is_no_worse(pairs, margin, error_rate)
    if lacks_proof:
        told += ", and must be proved"
    is_open = lacks_proof or pairs.difference < -margin
    return Limit("live quality", _state(is_worse(pairs, margin, error_rate), is_open), told)


def _bin(score: float) -> int:
    return min(int(score * BINS), BINS - 1)
