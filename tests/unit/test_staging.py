"""Decisions about a release in stages: who answers, what is counted, and when it advances or is taken back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from configs.serving_schema import Canary, Shadow, Stages
from tasks.core.sequential import Pairs
from tasks.core.staging import (
    Compared,
    ServedThen,
    Tally,
    count_pairs,
    draw,
    find_served,
    judge,
    judge_standing,
    next_stage,
    route,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BOTH = Stages(shadow=Shadow(minutes=60, min_texts=100), canary=Canary(share=0.2, minutes=30, min_texts=50))
SAME = Compared("g", "shadow", "good", 0.9, "good", 0.9)
NO_LABELS = Pairs()
ENOUGH = NOON + timedelta(minutes=61)


def tally_of(rows: Sequence[Compared], stages: Stages = BOTH) -> Tally:
    """Count rows, each of a group of its own."""
    tally = Tally(stages.max_latency_ratio)
    for number, row in enumerate(rows):
        tally.add(replace(row, group=f"{row.group}-{number}"))
    return tally


def judged(tally: Tally, pairs: Pairs = NO_LABELS, stages: Stages = BOTH, now: datetime = ENOUGH) -> tuple[str, str]:
    verdict = judge("shadow", NOON, tally, pairs, stages, now)
    return verdict.action, verdict.reason


@pytest.mark.parametrize(
    ("rows", "changes", "action", "reason"),
    [
        ([], {}, "wait", "0 of 100 texts compared"),
        ([SAME] * 99, {}, "wait", "99 of 100 texts compared"),
        ([SAME] * 100, {}, "advance", "100 texts compared, every limit holds"),
        ([SAME] * 100, {"now": NOON + timedelta(minutes=59)}, "wait", "59 of 60 minutes"),
        (
            [SAME] * 5 + [replace(SAME, candidate_label=None)] * 3,
            {},
            "take back",
            "3 of 8 texts could not be answered, a share of 0.001 is allowed",
        ),
        (
            [SAME] * 40 + [replace(SAME, candidate_label="bad")] * 60,
            {},
            "take back",
            "another label for 60 of 100 groups, a share of 0.25 is allowed",
        ),
        (  # beyond the limit, but that may be chance: neither taken back nor let through
            [SAME] * 70 + [replace(SAME, candidate_label="bad")] * 30,
            {},
            "wait",
            "another label for 30 of 100 groups",
        ),
        (
            [replace(SAME, candidate_ms=5.0, champion_ms=2.0)] * 40 + [SAME] * 60,
            {},
            "take back",
            "takes 2.50 times as long (median of 40 texts), 2 is allowed",
        ),
        ([replace(SAME, candidate_ms=3.0, champion_ms=2.0)] * 100, {}, "advance", "every limit holds"),
        ([replace(SAME, candidate_score=0.4)] * 1000, {}, "take back", "scores are 1.000 apart"),
        ([replace(SAME, candidate_score=0.4)] * 50 + [SAME] * 50, {}, "wait", "scores are 0.500 apart"),
        ([SAME] * 100, {"pairs": Pairs(won=2, tied=60, lost=38)}, "take back", "accuracy -0.360 [-0.5"),
        ([SAME] * 100, {"pairs": Pairs(won=1, tied=20, lost=3)}, "wait", "on 24 labelled groups"),
        ([SAME] * 100, {"pairs": Pairs(won=38, tied=60, lost=2)}, "advance", "every limit holds"),
    ],
)
def test_verdicts(rows: list[Compared], changes: dict[str, Any], action: str, reason: str) -> None:
    found = judged(tally_of(rows), **changes)
    assert (found[0], reason in found[1]) == (action, True), found


def test_where_proof_is_asked_for_a_version_becomes_stable_only_with_labels() -> None:
    stages = Stages(canary=Canary(minutes=0, min_texts=1), needs_proof=True)
    tally = tally_of([replace(SAME, stage="canary")])
    waits = judge("canary", NOON, tally, Pairs(tied=20), stages, ENOUGH)
    assert (waits.action, "must be proved" in waits.reason) == ("wait", True)
    assert judge("canary", NOON, tally, Pairs(tied=2000), stages, ENOUGH).action == "advance"


def test_proof_is_not_asked_for_before_a_canary() -> None:
    stages = BOTH.model_copy(update={"needs_proof": True})
    assert judged(tally_of([SAME] * 100), stages=stages)[0] == "advance"


def test_one_text_stands_for_its_group() -> None:
    tally = Tally(2.0)
    for _ in range(100):
        tally.add(replace(SAME, candidate_label="bad"))
    assert (tally.num_groups, tally.num_disagreed, tally.texts) == (1, 1, {"shadow": 100})


def test_in_canary_only_what_the_candidate_answered_counts_as_its_texts() -> None:
    tally = tally_of([replace(SAME, stage="canary"), replace(SAME, stage="canary", counts=False)])
    assert (tally.texts, tally.num_groups) == ({"canary": 1}, 2)


def test_scores_are_compared_as_distributions() -> None:
    apart = [replace(SAME, candidate_score=0.5), replace(SAME, champion_score=0.5)]
    assert tally_of(apart).score_distance == 0.0  # each text differs, the distributions do not
    assert tally_of([*apart, replace(SAME, candidate_score=0.1), SAME]).score_distance == 0.25


@pytest.mark.parametrize(
    ("stage", "stages", "following"),
    [
        (None, Stages(), "stable"),
        (None, BOTH, "shadow"),
        ("shadow", BOTH, "canary"),
        ("canary", BOTH, "stable"),
        (None, Stages(canary=Canary()), "canary"),
        ("shadow", Stages(shadow=Shadow()), "stable"),
    ],
)
def test_the_way_of_a_release(stage: Any, stages: Stages, following: str) -> None:
    assert next_stage(stage, stages) == following


@pytest.mark.parametrize(
    ("stage", "champion", "days", "action", "reason"),
    [
        ("shadow", "1", 0, "go on", ""),
        ("canary", "2", 0, "complete", "it is champion already"),
        ("canary", "3", 0, "withdraw", "it was compared with version 1, and now version 3 serves"),
        ("canary", None, 0, "withdraw", "and now no champion serves"),
        ("shadow", "1", 15, "lapse", "it is not stable after 14 days"),
        ("odd", "1", 0, "withdraw", "release.stages.odd is null"),
    ],
)
def test_what_a_release_stands_on(stage: str, champion: str | None, days: int, action: str, reason: str) -> None:
    now = NOON + timedelta(days=days)
    found = judge_standing(stage, "2", "1", NOON, champion=champion, stages=BOTH, now=now)
    assert (found.action, reason in found.reason) == (action, True)


def test_a_caller_always_gets_the_same_version() -> None:
    routes = {group: route("canary", 0.2, "r", group, "key", f"p-{group}") for group in map(str, range(3000))}
    counts = Counter(routes.values())
    assert counts["canary"] / 3000 == pytest.approx(0.2, abs=0.03)
    assert counts["shadow"] / 3000 == pytest.approx(0.2, abs=0.03)  # the control: as many, answered the other way round
    assert all(route("canary", 0.2, "r", group, "other", "p") == way for group, way in routes.items())
    assert {route("canary", 0.2, "r", None, "key", f"p-{text}") for text in range(50)} == {
        route("canary", 0.2, "r", "key", "any", "p")
    }


def test_another_release_draws_others() -> None:
    both = [draw("a", str(group)) < 0.5 and draw("b", str(group)) < 0.5 for group in range(2000)]
    assert sum(both) / 2000 == pytest.approx(0.25, abs=0.04)


def test_a_shadow_is_drawn_by_group_else_by_text() -> None:
    ways = Counter(route("shadow", 0.3, "r", None, "key", str(text)) for text in range(2000))
    assert ways["shadow"] / 2000 == pytest.approx(0.3, abs=0.04)
    assert set(ways) == {"shadow", "champion"}
    assert len({route("shadow", 0.3, "r", "g", "key", str(text)) for text in range(50)}) == 1


def test_the_first_label_of_each_group_counts() -> None:
    rows = [
        ("a", "good", "bad", "good"),
        ("a", "bad", "good", "good"),
        ("b", "good", "good", "good"),
        ("c", "bad", "good", "good"),
        ("d", "bad", "good", "neither"),
    ]
    assert count_pairs(rows) == Pairs(won=1, tied=2, lost=1)


@dataclass(frozen=True)
class Row:
    at: datetime
    action: str
    from_version: str | None
    to_version: str | None
    who: str = "ann"
    why: str = "better"


def history(*moves: str) -> list[Row]:
    """`promote 1` an hour after the last one; `rollback -` left none."""
    rows = []
    for number, move in enumerate(moves):
        action, version = move.split()
        rows.append(Row(NOON + timedelta(hours=number), action, None, None if version == "-" else version))
    return rows


STAGED = ("promote 1", "shadow 2", "canary 2", "promote 2", "shadow 3", "refuse 3", "rollback 1")


@pytest.mark.parametrize(
    ("hours", "version", "since", "candidate"),
    [
        (-1, None, None, None),
        (0, "1", 0, None),
        (1, "1", 0, ("2", "shadow", 1)),
        (2.5, "1", 0, ("2", "canary", 2)),
        (3, "2", 3, None),
        (4.5, "2", 3, ("3", "shadow", 4)),
        (5, "2", 3, None),
        (None, "1", 6, None),
    ],
)
def test_what_served_at_a_time(hours: float | None, version: str | None, since: int | None, candidate: Any) -> None:
    at = None if hours is None else NOON + timedelta(hours=hours)
    found = find_served(history(*STAGED), at)
    assert (found.version, found.since) == (version, None if since is None else NOON + timedelta(hours=since))
    expected = (candidate[0], candidate[1], NOON + timedelta(hours=candidate[2])) if candidate else (None, None, None)
    assert (found.candidate, found.stage, found.stage_since) == expected


def test_a_confirmation_of_the_champion_does_not_begin_it_anew() -> None:
    found = find_served(history("promote 1", "release 1", "ask 2"))
    assert found == ServedThen("1", NOON, "ann", "better")


@pytest.mark.parametrize(
    ("section", "fields"),
    [(Shadow, {"share": 0}), (Shadow, {"share": 1.1}), (Canary, {"share": 0.6}), (Stages, {"error_rate": 0.5})],
)
def test_what_the_schema_refuses(section: Any, fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        section(**fields)
