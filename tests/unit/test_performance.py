"""Accuracy without labels: a second opinion sees what the champion's own scores hide."""

import numpy as np
import numpy.typing as npt
import pytest

from tasks.core.performance import Answers, EstimatedAccuracy, estimate_accuracy

DIMENSIONS = 16


class World:
    """Texts whose label is the sign of a hidden direction; a champion that errs more on texts that lie far out."""

    def __init__(self, n: int, *, shift: float = 0.0, error: float = 0.2, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        vectors = random.normal(size=(n, DIMENSIONS)) + np.r_[0, shift, np.zeros(DIMENSIONS - 2)]
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        is_good = vectors[:, 0] > 0
        self.gold = np.where(is_good, "good", "bad")
        self.right = random.random(n) >= error
        self.predicted = np.where(is_good == self.right, "good", "bad")
        self.scores = np.where(random.random(n) < 0.5, 0.7, 0.9)  # they say nothing
        self.groups = [f"{seed}-{row}" for row in range(n)]

    def answers(self, *, gold: bool = False, vectors: bool = True) -> Answers:
        return Answers(
            self.predicted.tolist(),
            self.scores,
            self.groups,
            self.vectors if vectors else None,
            self.gold.tolist() if gold else None,
        )


def estimate(current: World, *, vectors: bool = True) -> EstimatedAccuracy:
    found = estimate_accuracy(reference=World(700, seed=1).answers(gold=True), current=current.answers(vectors=vectors))
    assert found is not None
    return found


@pytest.mark.parametrize("error", [0.05, 0.2, 0.4])
def test_a_second_opinion_sees_errors_that_the_scores_hide(error: float) -> None:
    current = World(600, error=error, seed=2)
    found = estimate(current)
    assert found.accuracy == pytest.approx(current.right.mean(), abs=0.05)
    assert found.low <= current.right.mean() <= found.high
    by_scores = estimate(current, vectors=False)
    assert by_scores.accuracy == pytest.approx(0.8, abs=0.03)  # as on the reference, whatever happens


def test_the_band_is_wider_where_scores_alone_must_do() -> None:
    current = World(600, seed=3)
    bands = [estimate(current, vectors=vectors) for vectors in (True, False)]
    assert bands[1].high - bands[1].low > bands[0].high - bands[0].low > 0.08


def test_few_texts_widen_the_band() -> None:
    few, many = (estimate(World(n, seed=4)) for n in (30, 600))
    assert few.high - few.low > 1.5 * (many.high - many.low)
    assert (few.n, many.n) == (30, 600)


def test_scores_tell_where_there_are_no_vectors() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 1, 4000)
    predicted = np.where(random.random(4000) < scores - 0.15, "a", "b")  # an overconfident model
    names = [str(row) for row in range(4000)]
    harder: npt.NDArray[np.float64] = random.uniform(0.5, 0.7, 1000)
    found = estimate_accuracy(
        reference=Answers(predicted.tolist(), scores, names, None, ["a"] * 4000),
        current=Answers(["a"] * 1000, harder, names[:1000]),
    )
    assert found is not None
    assert found.accuracy == pytest.approx(0.45, abs=0.03)


@pytest.mark.parametrize(("num_reference", "num_current"), [(99, 10), (200, 0)])
def test_nothing_is_estimated_from_too_little(num_reference: int, num_current: int) -> None:
    reference = World(num_reference, seed=5).answers(gold=True)
    assert estimate_accuracy(reference=reference, current=World(num_current, seed=6).answers()) is None


def test_a_reference_of_one_label_or_one_group_is_no_trouble() -> None:
    world = World(200, seed=7)
    world.groups = ["one"] * 200
    assert estimate_accuracy(reference=world.answers(gold=True), current=World(50, seed=8).answers()) is not None
    world.gold = np.full(200, "good")
    assert estimate_accuracy(reference=world.answers(gold=True), current=World(50, seed=8).answers()) is not None
