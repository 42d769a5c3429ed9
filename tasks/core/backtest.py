"""Replays a loop's history under a policy: when would it have retrained, what would that have cost and brought?

Time passes in steps. Texts of a step are answered by the champion of its beginning; at its end monitoring looks at the
newest texts, the policy decides, and a challenger is trained on the labels that had come by then and meets the gate.
What is not replayed: several looks within one step, the time that training takes, and labels that people would have
given if they had been asked.

Shapes: N rows of the timeline, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.retraining_schema import Retraining
from tasks.core.metrics import number_groups, resample_groups
from tasks.core.paired import Difference, summarise_difference
from tasks.core.retrain_history import Ended, summarise_history
from tasks.core.retraining import (
    BY_MONITORING,
    Accuracy,
    Decision,
    Facts,
    LiveAccuracy,
    decide,
    decide_scheduled,
)
from tasks.core.verdict import Vote

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Policy = Literal["never", "nightly", "drift only", "ours"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
UNANSWERED = -1


@dataclass(frozen=True)
class Timeline:
    """All rows of a history. Columns: row_id, text, label (None: never known), group, split, at, known_at, picked.

    `at` is when the text came, `known_at` when its label did; rows whose `at` lies before `begin` are the stock that
    the first champion learns.
    """

    rows: pd.DataFrame
    begin: datetime

    @property
    def is_stock(self) -> npt.NDArray[np.bool_]:
        """Return which rows were there before the replay begins."""
        at = self.rows["at"]
        is_stock: npt.NDArray[np.bool_] = (at.isna() | (at < self.begin)).to_numpy(dtype=bool)
        return is_stock


@dataclass(frozen=True)
class Trained:
    """A model made of some rows: its answers to every row of the timeline, and what it cost."""

    name: str
    probabilities: Floats  # [N, C]
    hours: float


@dataclass(frozen=True)
class Champion:
    """The model that answers, since when, and the rows that it was judged on."""

    number: int
    model: Trained
    test: Ints
    answers_from: int  # the step


@dataclass(frozen=True)
class Seen:
    """What monitoring found at the end of a step; `vote` is None where the window is too small or too stale."""

    verdict: str
    vote: Vote | None
    is_new_vote: bool
    expected: float | None = None
    measured: Accuracy | None = None
    estimated: Accuracy | None = None


class Tools(Protocol):
    """What a replay needs of the world; each keeps what it found, so that a replay can be repeated or go on."""

    def train(self, rows: Ints) -> Trained:
        """Return the model that these labelled rows make."""

    def watch(self, champion: Champion, window: Ints, votes: Sequence[Vote], now: datetime) -> Seen:
        """Look at the rows that the champion answered last."""

    def judge(self, champion: Trained | None, challenger: Trained, test: Ints) -> tuple[bool, str]:
        """Say whether the gate lets the challenger through, and why."""


@dataclass(frozen=True)
class Retrain:
    """One retrain of a replay."""

    version: int
    promoted: bool
    hours: float
    reason: str  # of the gate


@dataclass(frozen=True)
class Step:
    """What happened in one step."""

    until: datetime
    version: int
    n: int  # answered texts whose label became known, be it later
    n_right: int
    verdict: str
    action: str
    reason: str
    new_labels: int
    retrain: Retrain | None = None


@dataclass
class Replay:
    """One policy's replay; `run` yields its steps, and `right` holds for each row whether its answer was right."""

    timeline: Timeline
    policy: Policy
    rules: Retraining
    cuts: Sequence[datetime]  # begin and end of each step
    max_window: int
    tools: Tools
    max_age: timedelta | None = None  # of texts in a window
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = self.timeline.rows
        self._at = rows["at"].to_numpy(dtype="datetime64[us]")
        self._known_at = rows["known_at"].to_numpy(dtype="datetime64[us]")
        self._has_label = rows["label"].notna().to_numpy(dtype=bool)
        self._is_stock = self.timeline.is_stock
        self._split = rows["split"].to_numpy(dtype=object)
        self.right = np.full(len(rows), UNANSWERED, dtype=np.int64)
        self._ended: list[Ended] = []
        self._votes: list[Vote] = []
        self._read_at = _as_numpy(self.cuts[0])
        self._num_versions = 1

    def run(self, gold: Ints) -> Iterator[Step]:
        """Replay every step; `gold` is each row's class [N], any number where no label is known."""
        learnt = np.flatnonzero(self._is_stock & self._has_label)
        first = self.tools.train(learnt)
        champion = Champion(1, first, self._test_rows(learnt), 0)
        for place, (start, end) in enumerate(zip(self.cuts, self.cuts[1:], strict=False)):
            came = np.flatnonzero(~self._is_stock & (self._at >= _as_numpy(start)) & (self._at < _as_numpy(end)))
            labelled = came[self._has_label[came]]
            self.right[labelled] = champion.model.probabilities[labelled].argmax(1) == gold[labelled]
            step, champion = self._look(place, end, champion, labelled)
            self.steps.append(step)
            yield step

    def _look(self, place: int, end: datetime, champion: Champion, labelled: Ints) -> tuple[Step, Champion]:
        """Monitor, decide and perhaps retrain at the end of a step."""
        now = _as_numpy(end)
        is_known = self._has_label & (self._is_stock | (self._known_at < now))
        num_new = int((is_known & ~self._is_stock & (self._known_at >= self._read_at)).sum())
        seen = self._watch(champion, end)
        decision = self._decide(end, seen, champion, num_new)
        retrain, next_champion = None, champion
        if decision.action == "retrain":
            rows = np.flatnonzero(is_known)
            retrain, next_champion = self._retrain(place, end, champion, rows, decision)
        step = Step(end, champion.number, len(labelled), int(self.right[labelled].sum()), seen.verdict, decision.action,
                    decision.reason, num_new, retrain)  # fmt: skip
        return step, next_champion

    def _watch(self, champion: Champion, end: datetime) -> Seen:
        if self.policy not in ("drift only", "ours"):
            return Seen("not looked", None, False)
        since = _as_numpy(self.cuts[champion.answers_from])
        if self.max_age is not None:
            since = max(since, _as_numpy(end - self.max_age))
        answered = np.flatnonzero(~self._is_stock & (self._at >= since) & (self._at < _as_numpy(end)))
        newest_last = answered[np.argsort(self._at[answered], kind="stable")][-self.max_window :]
        seen = self.tools.watch(champion, newest_last, tuple(self._votes), end)
        if seen.vote is not None and seen.is_new_vote:
            self._votes.insert(0, seen.vote)
        return seen

    def _decide(self, now: datetime, seen: Seen, champion: Champion, num_new: int) -> Decision:
        if self.policy == "never":
            return Decision("wait", "never retrains")
        if self.policy == "nightly":
            reason = f"{num_new} new labels"
            return Decision("retrain" if num_new else "wait", reason, "schedule")
        if self.policy == "drift only":
            if seen.verdict != "drift":
                return Decision("wait", f"no drift (verdict: {seen.verdict})")
            return Decision("retrain" if num_new else "wait", f"drift, {num_new} new labels", "drift")
        history = summarise_history(self._ended, [], BY_MONITORING, now)
        accuracy = LiveAccuracy(seen.expected, seen.measured, seen.estimated)
        facts = Facts(now, seen.verdict, num_new, history, False, accuracy=accuracy, champion=str(champion.number))
        decision = decide(facts, self.rules)
        if decision.action == "retrain" or self.rules.schedule is None or not num_new:
            return decision
        scheduled = decide_scheduled(num_new, history, self.rules)
        return scheduled if scheduled.action == "retrain" else decision

    def _retrain(
        self, place: int, end: datetime, champion: Champion, rows: Ints, decision: Decision
    ) -> tuple[Retrain, Champion]:
        challenger, test = self.tools.train(rows), self._test_rows(rows)
        promoted, reason = self.tools.judge(champion.model, challenger, test)
        self._num_versions += 1
        self._read_at = _as_numpy(end)
        number = self._num_versions
        by = decision.trigger or "schedule"
        outcome: Literal["promoted", "refused"] = "promoted" if promoted else "refused"
        self._ended.insert(0, Ended(end, end, by, str(number), challenger.hours, outcome))
        retrain = Retrain(number, promoted, challenger.hours, reason)
        if not promoted:
            return retrain, champion
        self._votes.clear()  # of another version
        return retrain, Champion(number, challenger, test, place + 1)

    def _test_rows(self, rows: Ints) -> Ints:
        test: Ints = rows[self._split[rows] == "test"]
        return test


def compare_policies(ours: Replay, other: Replay, groups: Sequence[str], confidence: float = 0.95) -> Difference | None:
    """Return how much more often `ours` was right than `other`, on the texts that both answered, by whole groups."""
    both = np.flatnonzero((ours.right != UNANSWERED) & (other.right != UNANSWERED))
    if not len(both):
        return None
    differences = ours.right[both] - other.right[both]
    codes, num_groups = number_groups([groups[row] for row in both.tolist()])
    sums = np.stack([np.bincount(codes, differences, num_groups), np.bincount(codes, minlength=num_groups)], axis=1)
    resampled = resample_groups(sums, 2000, 0)
    return summarise_difference(differences, codes, num_groups, resampled[:, 0] / resampled[:, 1], confidence)


def cut_steps(begin: datetime, end: datetime, num_steps: int) -> list[datetime]:
    """Return the times that bound equal steps from begin to just after end."""
    span = (end - begin) / num_steps
    return [begin + span * place for place in range(num_steps)] + [end]


def _as_numpy(at: datetime) -> np.datetime64:
    return np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
