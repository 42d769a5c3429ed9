import tracemalloc

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from configs.serving_schema import Labelling
from tasks.core.labelling import (
    Candidate,
    Question,
    cohen_kappa,
    judge_votes,
    measure_agreement,
    order_queue,
    why_picked,
)

ONE, TWO = Labelling(), Labelling(votes=2, max_votes=3)


def make(number: int, top: float = 0.9, text: str | None = None, votes: tuple[str, ...] = ()) -> Candidate:
    return Candidate(f"p{number}", text or f"text {number}", (top, 1 - top), votes)


@pytest.mark.parametrize(
    ("votes", "rules", "outcome", "label"),
    [
        ([], ONE, "open", None),
        (["a"], ONE, "agreed", "a"),
        (["a", "b"], ONE, "open", None),
        (["a", "b", "a"], ONE, "agreed", "a"),
        (["a"], TWO, "open", None),
        (["a", "a"], TWO, "agreed", "a"),
        (["a", "b"], TWO, "open", None),
        (["b", "a", "b"], TWO, "agreed", "b"),
        (["a", "b", "c"], TWO, "disputed", None),
        (["a", "a", "b", "b"], TWO, "disputed", None),
    ],
)
def test_votes_make_a_label(votes: list[str], rules: Labelling, outcome: str, label: str | None) -> None:
    verdict = judge_votes(votes, rules)
    assert (verdict.outcome, verdict.label) == (outcome, label)


def test_votes_that_can_never_agree_are_no_rule() -> None:
    with pytest.raises(ValidationError, match="3 votes can never hold 4 equal ones"):
        Labelling(votes=4, max_votes=3)


def test_begun_texts_come_first_then_the_least_sure() -> None:
    rules = Labelling(votes=2, max_votes=3, audit_share=0)
    found = order_queue([make(1, 0.99), make(2, 0.55), make(3, 0.7), make(4, 0.99, votes=("a",))], rules)
    assert [one.prediction_id for one in found] == ["p4", "p2", "p3", "p1"]
    assert found[0] == Question("p4", "unsure", 1)


def test_a_share_of_the_queue_is_drawn_whatever_the_scores() -> None:
    sure = [make(number, 0.999) for number in range(1000)]
    unsure = [make(number, 0.5 + number / 2100) for number in range(1000)]
    rules = Labelling(audit_share=0.2)
    queues = [order_queue(one, rules) for one in (sure, unsure)]
    audited = [{one.prediction_id for one in queue if one.picked == "audit"} for queue in queues]
    assert audited[0] == audited[1]
    assert 160 < len(audited[0]) < 240
    assert sum(one.picked == "audit" for one in queues[1][:50]) == 10  # spread over the queue, not at its end
    assert {why_picked(known, rules) for known in audited[0]} == {"audit"}


def test_equal_texts_are_asked_once() -> None:
    found = order_queue([make(1, text="Good  one"), make(2, text="good one"), make(3)], ONE)
    assert len(found) == 2


def test_cohen_is_scikit_learns() -> None:
    random = np.random.default_rng(7)
    first = [str(label) for label in random.choice(["a", "b", "c"], 200)]
    second = [label if random.random() < 0.7 else "a" for label in first]
    agreement, kappa = cohen_kappa(first, second)
    assert kappa == pytest.approx(cohen_kappa_score(first, second))
    assert agreement == np.mean([one == other for one, other in zip(first, second, strict=True)])
    assert cohen_kappa(["a", "a"], ["a", "a"]) == (1.0, None)


def test_fleiss_is_the_published_example() -> None:
    """Ten texts, fourteen labellers, five labels: kappa 0.210 (the worked example of Fleiss' kappa)."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    votes = []
    for number, row in enumerate(table):
        labels = [str(label) for label, count in enumerate(row) for _ in range(count)]
        votes += [(f"p{number}", f"person {who}", label) for who, label in enumerate(labels)]
    found = measure_agreement(votes)
    assert found.kappa == pytest.approx(0.210, abs=0.0005)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.210 < found.high
    assert (found.n, len(found.pairs)) == (10, 14 * 13 / 2)


def test_agreement_of_many_texts_costs_little_memory() -> None:
    random = np.random.default_rng(3)
    votes = [(f"p{number}", who, str(random.choice(["a", "b"]))) for number in range(5000) for who in ("ana", "ben")]
    tracemalloc.start()
    found = measure_agreement(votes)
    peak_mb = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert found.kappa is not None
    assert found.low is not None
    assert found.high is not None
    assert found.kappa == pytest.approx(0, abs=0.05)
    assert found.low < found.kappa < found.high
    assert 0.04 < found.high - found.low < 0.07  # 2 * 1.96 / sqrt(5000)
    assert peak_mb < 10  # the page is loaded after every label of the operator


def test_agreement_of_too_few_texts_is_not_told() -> None:
    votes = [(f"p{number}", who, "a") for number in range(4) for who in ("ana", "ben")] + [("p9", "ana", "b")]
    found = measure_agreement(votes)
    assert (found.n, found.agreement, found.kappa, found.low) == (4, 1.0, None, None)
    assert (found.pairs[0].n, found.pairs[0].kappa) == (4, None)
    assert measure_agreement([]).n == 0
