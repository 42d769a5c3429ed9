"""Live accuracy from labels that came in different ways: only those drawn by chance speak for other texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from tasks.core.audit import MeasuredAccuracy, count_labels, measure_accuracy
from tests.support.monitored import START

AUDIT_SHARE = 0.2


def make(
    correct: Sequence[bool],
    picked: Sequence[str | None],
    *,
    texts: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Return a window of answers "a", a second apart; a row has its label where `picked` says how that came."""
    n = len(correct)
    return pd.DataFrame(
        {
            "at": pd.to_datetime(START) + pd.to_timedelta(np.arange(n), unit="s"),
            "text": texts or [f"text {row}" for row in range(n)],
            "group": groups or [f"g{row}" for row in range(n)],
            "key_id": keys or ["key"] * n,
            "label": "a",
            "gold": [("a" if right else "b") if way else None for right, way in zip(correct, picked, strict=True)],
            "picked": pd.Series(picked, dtype=object),
        }
    )


def measured(window: pd.DataFrame, complete_keys: Sequence[str] = ()) -> MeasuredAccuracy:
    found = measure_accuracy(window, complete_keys=complete_keys)
    assert found is not None
    return found


class Traffic:
    """Texts whose answers are right as often as their score says, and how people come to label them."""

    def __init__(self, seed: int, n: int = 1000) -> None:
        self.random = np.random.default_rng(seed)
        self.score = self.random.beta(6, 2, n)
        self.correct = self.random.random(n) < self.score
        self.is_audited = self.random.random(n) < AUDIT_SHARE
        self.picked: list[str | None] = [None] * n

    def label(self, rows: Sequence[int], way: str) -> None:
        for row in rows:
            self.picked[row] = self.picked[row] or way

    def audit(self, num_labels: int) -> None:
        """Label audited texts in the order of their draw, which knows nothing of them."""
        self.label(self.random.permutation(np.flatnonzero(self.is_audited))[:num_labels].tolist(), "audit")

    def ask_unsure(self, num_labels: int) -> None:
        unsure = [row for row in np.argsort(self.score).tolist() if not self.is_audited[row]]
        self.label(unsure[:num_labels], "unsure")

    def dispute(self, share: float) -> None:
        """Let customers send the label of a share of the wrong answers, and of none that is right."""
        wrong = np.flatnonzero(~self.correct)
        self.label(self.random.permutation(wrong)[: round(share * len(wrong))].tolist(), "given")

    def window(self) -> pd.DataFrame:
        return make(self.correct.tolist(), self.picked)


def errors(label: str, num_windows: int = 25) -> tuple[float, float, float]:
    """Return the mean error of the measured accuracy, that of the share of right labels, and the coverage."""
    off, naive_off, covered = [], [], []
    for seed in range(num_windows):
        traffic = Traffic(seed)
        if "disputed" in label:
            traffic.dispute(0.6)
        traffic.audit(100)
        if "unsure" in label:
            traffic.ask_unsure(150)
        window = traffic.window()
        found = measured(window)
        truth = float(traffic.correct.mean())
        labelled = window[window["gold"].notna()]
        off.append(found.accuracy - truth)
        naive_off.append(float((labelled["gold"] == labelled["label"]).mean()) - truth)
        covered.append(found.low <= truth <= found.high)
    return float(np.mean(off)), float(np.mean(naive_off)), float(np.mean(covered))


@pytest.mark.parametrize("label", ["audited", "unsure", "disputed", "unsure and disputed"])
def test_labels_that_were_picked_with_a_purpose_do_not_bias_the_number(label: str) -> None:
    """In 25 windows: the mean error is chance (4 points a window), where the plain share is 10 to 50 points too low."""
    off, naive_off, covered = errors(label)
    assert abs(off) < 0.02
    assert covered >= 0.88
    if label != "audited":
        assert naive_off < -0.08


def test_disputes_alone_measure_nothing() -> None:
    traffic = Traffic(0)
    traffic.dispute(1.0)
    window = traffic.window()
    assert measure_accuracy(window) is None
    counts = count_labels(window)
    assert (counts.given, counts.audit, counts.all) == (int((~traffic.correct).sum()), 0, counts.given)


def test_labels_of_unsure_texts_alone_measure_nothing() -> None:
    traffic = Traffic(0)
    traffic.ask_unsure(300)
    assert measure_accuracy(traffic.window()) is None


def test_all_labelled_is_the_share_of_right_answers() -> None:
    correct = [row % 4 != 0 for row in range(100)]
    found = measured(make(correct, ["given"] * 100))
    assert (found.accuracy, found.n, found.method, found.covered) == (0.75, 100, "all labelled", 1.0)
    assert 0.63 < found.low < 0.68
    assert 0.81 < found.high < 0.86


def test_a_few_rows_that_nobody_speaks_for_widen_the_interval() -> None:
    correct = [row % 4 != 0 for row in range(100)]
    whole = measured(make(correct, ["given"] * 100))
    most = measured(make(correct, ["given"] * 96 + [None] * 4))
    assert most.covered == 0.96
    assert most.low < whole.low - 0.02
    assert most.high > whole.high
    assert measure_accuracy(make(correct, ["given"] * 80 + [None] * 20)) is None


def test_too_few_audited_texts_give_no_number() -> None:
    assert measure_accuracy(make([True] * 100, [*["audit"] * 9, *[None] * 91])) is None
    assert measured(make([True] * 100, [*["audit"] * 10, *[None] * 90])).n_audited == 10


def test_an_empty_window_gives_no_number() -> None:
    assert measure_accuracy(make([], [])) is None


def test_days_that_were_labelled_less_count_as_much() -> None:
    """All is right on the first day and wrong on the second, of which a quarter as many texts were labelled."""
    correct = [True] * 500 + [False] * 500
    picked: list[str | None] = [None] * 1000
    for row in [*range(0, 500, 5), *range(500, 1000, 20)]:
        picked[row] = "audit"
    assert measured(make(correct, picked)).accuracy == pytest.approx(0.5, abs=0.06)


def test_copies_of_a_text_share_its_label_and_count_each() -> None:
    """Forty copies of a text that is wrong: one of them, drawn and labelled, speaks for all."""
    random = np.random.default_rng(0)
    off = []
    for _ in range(60):
        texts = [f"text {row}" for row in range(160)] + ["Spam  again"] * 39 + ["spam AGAIN"]
        correct = [True] * 160 + [False] * 40
        order = random.permutation(200)
        drawn = set(order[:50].tolist())
        picked = ["audit" if row in drawn else None for row in range(200)]
        off.append(measured(make(correct, picked, texts=texts)).accuracy - 0.8)
    assert abs(float(np.mean(off))) < 0.025


def test_copies_spread_over_the_window_do_not_bias_the_number() -> None:
    """Thirty texts come ten times each and are mostly wrong; each is asked about once, wherever that copy lies."""
    random = np.random.default_rng(0)
    off = []
    for _ in range(60):
        number = random.permutation(np.repeat(np.arange(300), [10] * 30 + [1] * 270))
        is_right = random.random(300) < np.where(np.arange(300) < 30, 0.4, 0.9)
        picked: list[str | None] = [None] * len(number)
        drawn = np.flatnonzero(random.random(len(number)) < 0.15)
        for row in drawn[np.unique(number[drawn], return_index=True)[1]]:
            picked[row] = "audit"
        correct = is_right[number]
        window = make(correct.tolist(), picked, texts=[f"text {one}" for one in number])
        off.append(measured(window).accuracy - float(correct.mean()))
    assert abs(float(np.mean(off))) < 0.02


def test_a_given_label_is_that_of_every_copy() -> None:
    """Else they could be neither audited, as their label is known, nor counted."""
    texts = ["spam"] * 50 + [f"text {row}" for row in range(50)]
    picked = ["given", *[None] * 49, *["audit"] * 20, *[None] * 30]
    found = measured(make([False] * 50 + [True] * 50, picked, texts=texts))
    assert found.accuracy == 0.5


def test_a_key_that_sends_all_its_labels_speaks_for_its_own_texts() -> None:
    keys = ["bulk", "shop"] * 100
    correct = [key == "bulk" for key in keys]
    picked: list[str | None] = ["given" if key == "bulk" and row % 3 == 0 else None for row, key in enumerate(keys)]
    assert measure_accuracy(make(correct, picked, keys=keys), complete_keys=["bulk"]) is None  # half of all rows
    for row in range(1, 60, 2):
        picked[row] = "audit"
    window = make(correct, picked, keys=keys)
    found = measured(window, complete_keys=["bulk"])
    assert found.accuracy == pytest.approx(0.5, abs=0.01)
    assert measured(window).accuracy != found.accuracy  # without the promise: these texts alone, of both keys the rest
    assert measured(make(correct, ["given"] * 200, keys=keys), complete_keys=["*"]).accuracy == 0.5


def test_rows_of_few_groups_give_a_wide_interval() -> None:
    correct = [True] * 60 + [row % 2 == 0 for row in range(60)]
    widths = []
    for size in (1, 30):
        found = measured(make(correct, ["given"] * 120, groups=[f"g{row // size}" for row in range(120)]))
        widths.append(found.high - found.low)
    assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize(("right", "low", "high"), [(True, 0.69, 1.0), (False, 0.0, 0.31)])
def test_all_right_or_all_wrong_is_not_certain(right: bool, low: float, high: float) -> None:
    found = measured(make([right] * 10, ["given"] * 10))
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.01)


def test_few_audited_texts_that_are_all_right_leave_much_open() -> None:
    """Ten disputes, all wrong, vary no more than fifteen audited texts, all right; yet the latter stand for 490."""
    picked = [*["given"] * 10, *(["audit"] * 15), *[None] * 475]
    found = measured(make([False] * 10 + [True] * 490, picked))
    assert found.accuracy == pytest.approx(0.98)
    assert found.low < 0.82


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(80):
        right = np.repeat(random.beta(4, 1, size=60), 3)  # rows of a group are about as hard
        groups = [f"g{row // 3}" for row in range(180)]
        found = measured(make((random.random(180) < right).tolist(), ["given"] * 180, groups=groups))
        covered += found.low <= 0.8 <= found.high
    assert covered >= 72
