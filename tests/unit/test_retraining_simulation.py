"""Ninety days of traffic, looked at every half hour, go through the decision: what it never does, and what it does."""

import bisect
import functools
import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from configs.retraining_schema import Retraining
from tasks.core.retrain_history import Ended, summarise_history
from tasks.core.retraining import BY_MONITORING, Accuracy, Facts, LiveAccuracy, decide, labels_needed

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, LOOKS_A_DAY = 90, 48
RULES = Retraining(cooldown_hours=12, min_new_labels=150, max_accuracy_drop=0.05, budget_hours=6, stop_after_refused=3)


@dataclass
class World:
    """Traffic whose champion is good until the world changes, and again once a challenger learnt enough of it.

    `changes` are the days on which texts become others; `labels_a_day` come back, and a challenger wins when it has
    seen `labels_to_learn` of the labels since the last change. Retrains take an hour.
    """

    changes: tuple[int, ...] = (20, 55)
    labels_a_day: int = 60
    labels_to_learn: int = 150
    false_alarms: float = 0.0  # share of looks at a good champion that cry drift
    seed: int = 0
    rules: Retraining = RULES
    retrains: list[Ended] = field(default_factory=list)
    decisions: list[tuple[datetime, str, str, int]] = field(default_factory=list)
    _labels: list[datetime] = field(default_factory=list)
    _good_until: int = 0  # changes that the champion knows

    def run(self) -> "World":
        random = np.random.default_rng(self.seed)
        running_until = BEGIN
        for look in range(DAYS * LOOKS_A_DAY):
            now = BEGIN + timedelta(minutes=30 * look)
            num = int(random.poisson(self.labels_a_day / LOOKS_A_DAY))
            self._labels += [now - timedelta(minutes=1)] * num
            self._look(now, now < running_until, bool(random.random() < self.false_alarms))
            if self.retrains and self.decisions[-1][1] == "retrain":
                running_until = self.retrains[0].at
        return self

    def _look(self, now: datetime, is_running: bool, is_false_alarm: bool) -> None:
        ended = [one for one in self.retrains if one.at <= now]
        starts = [one.read_at for one in self.retrains]  # as the reports that started them say
        history = summarise_history(ended, starts, BY_MONITORING, now)
        changed = sum(day * LOOKS_A_DAY <= (now - BEGIN) / timedelta(minutes=30) for day in self.changes)
        is_bad = changed > self._good_until
        accuracy = 0.60 if is_bad else 0.80
        since = history.labels_since
        num_new = len(self._labels) - (bisect.bisect_right(self._labels, since) if since else 0)
        facts = Facts(
            now=now,
            verdict="drift" if is_bad or is_false_alarm else "ok",
            num_new_labels=num_new,
            history=history,
            is_running=is_running,
            accuracy=LiveAccuracy(0.80, measured=Accuracy(accuracy, accuracy - 0.06, accuracy + 0.06, 100)),
        )
        decision = decide(facts, self.rules)
        self.decisions.append((now, decision.action, decision.reason, num_new))
        if decision.action == "retrain":
            self._retrain(now, changed)

    def _retrain(self, now: datetime, changed: int) -> None:
        change = BEGIN + timedelta(days=self.changes[changed - 1]) if changed else BEGIN
        learnt = len(self._labels) - bisect.bisect_left(self._labels, change)
        won = changed > self._good_until and learnt >= self.labels_to_learn
        if won:
            self._good_until = changed
        version = str(len(self.retrains) + 2)
        ends = now + timedelta(hours=1)
        outcome = "promoted" if won else "refused"
        self.retrains.insert(0, Ended(ends, now, "drift", version, 1.0, outcome))  # type: ignore[arg-type]

    def days_of_retrains(self) -> list[int]:
        return [(one.read_at - BEGIN).days for one in reversed(self.retrains)]


WORLDS = {
    "two changes": World(),
    "few labels": World(labels_a_day=4),
    "no labels": World(labels_a_day=0),
    "hard to learn": World(labels_to_learn=2000),
    "never learnt": World(labels_to_learn=10**6),
    "false alarms": World(changes=(), false_alarms=0.05),
    "many labels": World(labels_a_day=400, labels_to_learn=10**6),
}


@functools.cache
def live_through(name: str) -> World:
    return replace(WORLDS[name], retrains=[], decisions=[], _labels=[]).run()


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    return live_through(request.param)


def test_no_two_retrains_overlap_or_break_the_cooldown(world: World) -> None:
    starts = sorted(one.read_at for one in world.retrains)
    for before, after in itertools.pairwise(starts):
        assert after - before >= timedelta(hours=world.rules.cooldown_hours + 1)  # from the end of the one before


def test_no_month_spends_more_than_its_budget(world: World) -> None:
    assert world.rules.budget_hours is not None
    for month in (1, 2, 3):
        assert sum(one.hours for one in world.retrains if one.at.month == month) <= world.rules.budget_hours


def test_every_retrain_had_the_labels_that_it_needed(world: World) -> None:
    for now, action, _, num_new in world.decisions:
        if action == "retrain":
            ended = [one for one in world.retrains if one.at <= now]
            assert num_new >= labels_needed(summarise_history(ended, [], BY_MONITORING, now), world.rules)


def test_every_decision_has_a_reason(world: World) -> None:
    assert len(world.decisions) == DAYS * LOOKS_A_DAY
    assert all(reason for _, _, reason, _ in world.decisions)


def test_two_changes_are_learnt_within_days_and_then_it_is_quiet() -> None:
    world = live_through("two changes")
    promoted = [(one.read_at - BEGIN).days for one in reversed(world.retrains) if one.outcome == "promoted"]
    assert len(promoted) == 2
    assert 20 <= promoted[0] <= 24
    assert 55 <= promoted[1] <= 59
    assert len(world.retrains) <= 6  # a nightly schedule would have run 90
    bad = [now for now, _, reason, _ in world.decisions if reason.startswith("drift and measured")]
    assert len(bad) <= 8 * LOOKS_A_DAY


def test_without_labels_it_asks_for_them_and_trains_nothing() -> None:
    world = live_through("no labels")
    assert world.retrains == []
    asked = [now for now, action, _, _ in world.decisions if action == "label first"]
    assert len(asked) == 70 * LOOKS_A_DAY  # every look from the first change on


def test_what_is_refused_again_and_again_is_tried_more_and_more_seldom() -> None:
    world = live_through("never learnt")
    days = world.days_of_retrains()
    assert len(days) <= 9
    assert days[-1] - days[-2] > days[1] - days[0]
    assert any("stopped: 3 challengers in a row were refused" in reason for _, _, reason, _ in world.decisions)


def test_false_alarms_cost_little_without_labels_to_learn() -> None:
    world = live_through("false alarms")
    assert all(one.outcome == "refused" for one in world.retrains)
    assert len(world.retrains) <= 10
