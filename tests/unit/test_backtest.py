"""A history of 40 days in which the meaning of texts changes on day 15: known answers for every policy."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from configs.retraining_schema import Retraining
from configs.schedule import Schedule
from tasks.core.backtest import (
    POLICIES,
    Champion,
    Ints,
    Policy,
    Replay,
    Seen,
    Timeline,
    Trained,
    compare_policies,
    cut_steps,
)
from tasks.core.backtest_page import render_backtest_page
from tasks.core.backtest_report import describe_backtest, summarise_policies
from tasks.core.retraining import Accuracy
from tasks.core.verdict import Vote

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
DAYS, PER_DAY, SHIFT = 40, 20, 15
RULES = Retraining(min_new_labels=30, cooldown_hours=24)


def make_timeline(label_delay: timedelta = timedelta(0)) -> Timeline:
    """Return 100 undated rows, then 20 a day; from day 15 on the other label is right."""
    at = [pd.NaT] * 100 + [BEGIN + timedelta(days=place / PER_DAY) for place in range(DAYS * PER_DAY)]
    shifted = [False] * 100 + [place >= SHIFT * PER_DAY for place in range(DAYS * PER_DAY)]
    times = pd.Series(at, dtype="datetime64[us, UTC]")
    rows = pd.DataFrame(
        {
            "row_id": [str(row) for row in range(len(at))],
            "text": "words",
            "label": ["new" if one else "old" for one in shifted],
            "group": [str(row) for row in range(len(at))],
            "split": ["test" if row % 4 == 0 else "train" for row in range(len(at))],
            "at": times,
            "known_at": times + label_delay,
            "picked": "audit",
        }
    )
    return Timeline(rows, BEGIN)


@dataclass
class Simulation:
    """A model answers what most of its newest 50 rows say; drift is seen at once; every training takes an hour."""

    gold: Ints
    refuses: bool = False
    trainings: list[int] = field(default_factory=list)
    windows: list[Ints] = field(default_factory=list)

    def train(self, rows: Ints) -> Trained:
        self.trainings.append(len(rows))
        answer = int(self.gold[rows[-50:]].mean() > 0.5)
        probabilities = np.zeros((len(self.gold), 2))
        probabilities[:, answer] = 1.0
        return Trained(f"{len(rows)}", probabilities, 1.0)

    def watch(self, champion: Champion, window: Ints, votes: Sequence[Vote], now: datetime) -> Seen:
        self.windows.append(window)
        right = float((champion.model.probabilities[window].argmax(1) == self.gold[window]).mean())
        verdict = "drift" if right < 0.8 else "ok"
        measured = Accuracy(right, right - 0.05, right + 0.05, len(window))
        return Seen(verdict, Vote(now, now, verdict == "drift"), True, expected=1.0, measured=measured)

    def judge(self, champion: Trained | None, challenger: Trained, test: Ints) -> tuple[bool, str]:
        return not self.refuses, "refused" if self.refuses else "fine"


def replay(
    policy: Policy, rules: Retraining = RULES, delay: timedelta = timedelta(0), refuses: bool = False
) -> tuple[Replay, Simulation]:
    timeline = make_timeline(delay)
    gold = (timeline.rows["label"] == "new").to_numpy(dtype=np.int64)
    tools = Simulation(gold, refuses)
    cuts = cut_steps(BEGIN, BEGIN + timedelta(days=DAYS), DAYS)
    run = Replay(timeline, policy, rules, cuts, 100, tools)
    assert len(list(run.run(gold))) == DAYS
    return run, tools


def retrain_days(run: Replay) -> list[int]:
    return [place for place, step in enumerate(run.steps) if step.retrain]


def test_never_learns_and_is_wrong_ever_after() -> None:
    run, tools = replay("never")
    assert tools.trainings == [100]
    assert [step.n_right for step in run.steps] == [20] * SHIFT + [0] * (DAYS - SHIFT)


def test_nightly_retrains_whenever_there_is_a_label() -> None:
    run, tools = replay("nightly")
    assert retrain_days(run) == list(range(DAYS))
    assert tools.trainings == [100 + 20 * day for day in range(DAYS + 1)]
    assert sum(step.n_right for step in run.steps) == (DAYS - 2) * 20  # two days until most of 50 rows are new ones
    assert tools.windows == []  # it does not look


def test_ours_waits_for_labels_and_retrains_until_the_drift_is_learnt() -> None:
    run, _ = replay("ours", RULES.model_copy(update={"min_new_labels": 360}))
    assert retrain_days(run) == [17]  # drift is seen on day 16, with 340 labels
    assert (run.steps[16].action, run.steps[16].new_labels) == ("label first", 340)
    assert run.steps[-1].n_right == 20


def test_labels_that_come_late_are_neither_learnt_nor_counted_before() -> None:
    run, tools = replay("nightly", delay=timedelta(days=3))
    assert tools.trainings[1] == 120
    first = next(step for step in run.steps if step.retrain)
    assert (first.until - BEGIN).days == 4
    assert sum(step.n_right for step in run.steps) == (DAYS - 5) * 20


def test_a_window_holds_only_what_the_champion_answered_and_no_more_than_asked_for() -> None:
    run, tools = replay("drift only")
    after = retrain_days(run)[-1] + 1
    assert max(len(window) for window in tools.windows) == 100
    assert len(tools.windows[after]) == 20  # the first look at a new champion


def test_refused_challengers_need_more_and_more_labels() -> None:
    run, _ = replay("ours", refuses=True)
    days = retrain_days(run)
    assert all(step.version == 1 for step in run.steps)
    gaps = np.diff(days)
    assert len(days) >= 4
    assert gaps[-1] > gaps[0], days


def test_the_schedule_is_part_of_our_rules() -> None:
    rules = RULES.model_copy(update={"schedule": Schedule(cron="0 2 * * *"), "schedule_min_new_rows": 60})
    run, _ = replay("ours", rules)
    assert retrain_days(run)[:3] == [2, 5, 8]
    assert run.steps[2].reason.startswith("60 rows that are new")


def test_policies_are_compared_on_the_same_texts() -> None:
    never, nightly = replay("never")[0], replay("nightly")[0]
    groups = never.timeline.rows["group"].tolist()
    found = compare_policies(never, nightly, groups)
    assert found is not None
    assert found.value == pytest.approx(-(DAYS - SHIFT - 2) / DAYS)
    assert found.ci[0] < found.value < found.ci[1] < 0


def test_the_report_tells_policies_apart() -> None:
    replays = [replay(policy)[0] for policy in POLICIES]
    policies = summarise_policies(replays, replays[0].timeline.rows["group"].tolist())
    by_name = {each["policy"]: each for each in policies}
    assert (by_name["never"]["retrains"], by_name["nightly"]["retrains"]) == (0, DAYS)
    assert by_name["nightly"]["hours"] == DAYS
    assert by_name["ours"]["retrains"] < 5 < DAYS
    assert by_name["never"]["worst_step"] == 0.0
    assert by_name["nightly"]["against_nightly"] is None
    record = {
        "loop": "toy", "model": "head", "texts": 800, "labelled": 800, "begin": "2026-01-01", "end": "2026-02-10",
        "step_days": 1.0, "stock": 100, "cost": "an hour each", "policies": policies, "page": "http://x/y", "file": "f",
    }  # fmt: skip
    told = "\n".join(describe_backtest(record))
    assert "never       0" in told
    assert "nightly     40" in told
    page = render_backtest_page(record, RULES.model_dump(mode="json"), BEGIN)
    assert page.count("<polyline") == len(POLICIES)
    assert "retraining.min_new_labels" in page
    assert "words" not in page.replace("in words", "")
