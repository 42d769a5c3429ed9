"""Whose labels are believed: honest customers who only dispute, careless ones, attackers, reviewers who disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from configs.feedback_schema import Feedback
from configs.serving_schema import Labelling
from tasks.core.feedback_trust import (
    PEOPLE,
    Exposure,
    Settled,
    Standing,
    Statement,
    Trust,
    judge_sources,
    list_doubts,
    settle,
)
from tests.support.monitored import START

RULES, ONE, TWO = Feedback(), Labelling(), Labelling(votes=2, max_votes=3)
NOBODY = Exposure(0, 0)


def say(
    number: int, source: str, label: str, *, labeller: str | None = None, later: int = 0, text: str | None = None
) -> Statement:
    """Return what a key, or a person ("labelling/ana"), said of a text."""
    at = START + timedelta(minutes=later)
    is_review = source.startswith(PEOPLE)
    return Statement(f"p{number}", text or f"text {number}", source, labeller, label, at, is_review)


def judge(
    statements: Sequence[Statement],
    exposures: Mapping[str, Exposure] | None = None,
    baseline: Exposure = NOBODY,
    rules: Feedback = RULES,
) -> dict[str, Trust]:
    return judge_sources(statements, exposures or {}, baseline, rules, 2)


def outcomes(statements: Sequence[Statement], rules: Labelling = ONE, **known: Mapping[str, str]) -> dict[str, Settled]:
    found = settle(statements, judge(statements), known.get("decided", {}), rules)
    return {one.prediction_id: one for one in found}


def compared(num_right: int, num_wrong: int, source: str = "shop") -> list[Statement]:
    """Return what a source said of texts that a reviewer labelled too."""
    told = [say(n, source, "a" if n < num_right else "b") for n in range(num_right + num_wrong)]
    return told + [say(n, "labelling/ana", "a", later=1) for n in range(num_right + num_wrong)]


@pytest.mark.parametrize(
    ("num_right", "num_wrong", "standing"),
    [(0, 0, "new"), (4, 0, "new"), (5, 0, "vouched"), (8, 2, "vouched"), (0, 3, "held back"), (1, 2, "new"),
     (2, 8, "held back"), (12, 8, "new"), (13, 7, "vouched"), (7, 13, "held back")],
)  # fmt: skip
def test_reviewers_say_how_far_a_source_can_be_believed(num_right: int, num_wrong: int, standing: Standing) -> None:
    found = judge([*compared(num_right, num_wrong), say(99, "shop", "a")])["shop"]
    assert found.standing == standing
    assert found.num_compared == num_right + num_wrong


@pytest.mark.parametrize(
    ("own", "others", "baseline", "is_held_back"),
    [
        (Exposure(400, 240), Exposure(400, 12), NOBODY, True),  # floods: calls most sure answers wrong
        (Exposure(400, 16), Exposure(400, 12), NOBODY, False),  # disputes what is wrong, and only that
        (Exposure(9, 9), Exposure(400, 12), NOBODY, False),  # too few to tell from bad luck
        (Exposure(400, 240), Exposure(400, 232), NOBODY, False),  # the texts changed: everyone says so
        (Exposure(400, 240), NOBODY, NOBODY, False),  # nobody to compare it with
        (Exposure(400, 240), NOBODY, Exposure(60, 3), True),  # texts drawn by chance say otherwise
        (Exposure(400, 240), Exposure(400, 12), Exposure(60, 30), False),  # and go before what others say
    ],
)
def test_who_calls_sure_answers_wrong_is_held_back(
    own: Exposure, others: Exposure, baseline: Exposure, is_held_back: bool
) -> None:
    exposures = {"shop": own} | ({"other": others} if others.num_sure else {})
    found = judge([say(1, "shop", "a"), say(2, "other", "a")], exposures, baseline)
    assert (found["shop"].standing == "held back") is is_held_back
    assert found["other"].standing == "new"
    if is_held_back:
        assert "it calls 60% of the sure answers that it got wrong" in found["shop"].reason
        assert found["shop"].weight == 0


def test_reviewers_lift_what_contradictions_held_back() -> None:
    exposures = {"shop": Exposure(400, 240), "other": Exposure(400, 12)}
    assert judge(compared(6, 0), exposures)["shop"].standing == "vouched"


def test_honest_sources_are_seldom_held_back() -> None:
    """A hundred customers whose labels are right in four of five, each reviewed 20 times."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        num_right = int(random.binomial(20, 0.8))
        held += judge(compared(num_right, 20 - num_right))["shop"].standing == "held back"
    assert held <= 2


def test_a_labeller_is_judged_within_his_key() -> None:
    """One of a customer's people labels at random: his labels are held back, those of his colleagues are not."""
    told = [say(n, "shop", "a", labeller="ana") for n in range(20)]
    told += [say(n, "shop", "b", labeller="eve") for n in range(20, 30)]
    reviews = [say(n, "labelling/zoe", "a", later=1) for n in range(30)]
    found = judge([*told, *reviews])
    standings = {name: one.standing for name, one in found.items()}
    assert standings == {
        "shop": "vouched", "shop/ana": "vouched", "shop/eve": "held back", "labelling/zoe": "reviewer"
    }  # fmt: skip


def test_a_reviewer_who_disagrees_with_two_others_is_held_back() -> None:
    votes = [
        say(n, f"labelling/{who}", "b" if who == "eve" else "a") for n in range(8) for who in ("ana", "ben", "eve")
    ]
    found = judge(votes)
    assert found["labelling/eve"].standing == "held back"
    assert {found[f"labelling/{who}"].standing for who in ("ana", "ben")} == {"reviewer"}
    settled = settle(votes, found, {}, TWO)
    assert {one.label for one in settled} == {"a"}


def test_one_customers_word_may_train_and_is_not_reviewed() -> None:
    found = outcomes([say(1, "shop", "a")])["p1"]
    assert (found.label, found.outcome, found.is_reviewed, found.is_given) == ("a", "alone", False, True)


def test_two_who_disagree_leave_no_label_until_a_reviewer_says() -> None:
    told = [say(1, "shop", "a", labeller="ana"), say(1, "shop", "b", labeller="ben", later=9)]
    assert (outcomes(told)["p1"].label, outcomes(told)["p1"].outcome) == (None, "contested")
    reviewed = outcomes([*told, say(1, "labelling/zoe", "b", later=99)])["p1"]
    assert (reviewed.label, reviewed.is_reviewed) == ("b", True)


def test_a_later_word_of_the_same_source_takes_the_place_of_its_first() -> None:
    told = [say(1, "shop", "a", labeller="ana"), say(1, "shop", "b", labeller="ana", later=60 * 24 * 30)]
    assert outcomes(told)["p1"].label == "b"


def test_a_later_word_of_a_reviewers_key_takes_the_place_of_its_first() -> None:
    told = [replace(say(1, "staff", label, later=later), is_review=True) for later, label in enumerate("ab")]
    assert (outcomes(told)["p1"].label, outcomes(told)["p1"].outcome) == ("b", "reviewed")


def test_copies_of_a_text_share_what_is_said_of_it() -> None:
    told = [
        say(1, "shop", "a", text="so good"),
        say(2, "mall", "a", text="so good"),
        say(3, "inn", "b", text="so good"),
    ]
    assert {one.label for one in outcomes(told).values()} == {"a"}
    assert set(outcomes(told)) == {"p1", "p2", "p3"}


def test_votes_of_people_review_when_they_agree() -> None:
    told = [say(1, "shop", "b"), say(1, "labelling/ana", "a", later=1)]
    assert (outcomes(told, ONE)["p1"].label, outcomes(told, ONE)["p1"].outcome) == ("a", "reviewed")
    assert outcomes(told, TWO)["p1"].outcome == "agreed"  # one vote of two: heavier than a customer, no review yet
    assert outcomes(told, TWO, decided={"p1": "b"})["p1"].outcome == "reviewed"


def test_nothing_of_a_source_that_is_held_back_is_used() -> None:
    told = [*compared(0, 6), say(99, "shop", "a")]
    found = outcomes(told)
    assert (found["p99"].label, found["p99"].outcome, found["p99"].is_given) == (None, "held back", False)
    assert found["p0"].label == "a"  # the reviewer's


def test_what_needs_a_second_person() -> None:
    told = [
        say(101, "shop", "a", labeller="ana"), say(101, "shop", "b", labeller="ben"),
        say(102, "shop", "a", labeller="ana"),
        *compared(0, 6, "evil"), say(50, "evil", "a"), *(say(n, "fresh", "a") for n in range(60, 90)),
    ]  # fmt: skip
    trust = judge(told)
    found = list_doubts(settle(told, trust, {}, ONE), told, trust, ["p102"])
    assert (found["p101"], found["p102"], found["p50"]) == ("contested", "test row", "held back")
    assert sum(reason == "new source" for reason in found.values()) == 10
    assert "p0" not in found  # reviewed


def test_a_flood_of_wrong_labels_is_held_back_and_honest_disputes_are_not() -> None:
    """Attack: a key turns the labels of all its texts round, while another one disputes what is wrong.

    No reviewer has looked yet; the scores of the answers and 200 audited texts must do.
    """
    random = np.random.default_rng(0)
    score = random.beta(9, 1, 2000)
    wrong = random.random(2000) >= score
    keys = random.permutation(["evil"] * 400 + ["shop"] * 1600)
    sure = score >= 0.9
    told, exposures = [], {}
    for name in ("evil", "shop"):
        contradicted = (keys == name) & (~wrong if name == "evil" else wrong)
        told += [say(int(row), name, "b") for row in np.flatnonzero(contradicted)]
        exposures[name] = Exposure(int((sure & (keys == name)).sum()), int((sure & contradicted).sum()))
    drawn = random.permutation(2000)[:200]
    baseline = Exposure(int(sure[drawn].sum()), int((sure & wrong)[drawn].sum()))
    trust = judge(told, exposures, baseline)
    assert (trust["evil"].standing, trust["shop"].standing) == ("held back", "new")
    used = [one for one in settle(told, trust, {}, ONE) if one.label is not None]
    assert {f"p{row}" for row in np.flatnonzero((keys == "shop") & wrong)} == {one.prediction_id for one in used}
