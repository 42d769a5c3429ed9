import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.schema import Slice
from tasks.core.metrics import score_predictions
from tasks.core.slices import MAX_VALUES, Cut, cut_slices, score_slices


def make_rows(**columns: Any) -> pd.DataFrame:
    texts = ["good", "not good at all", "it is not what I had hoped for", "fine but slow"]
    n = len(next(iter(columns.values()), texts))
    filled = {
        "text": [texts[row % len(texts)] for row in range(n)],
        "source": ["reviews"] * n,
        "group": [f"g{row}" for row in range(n)],
        "observed_at": pd.Series([pd.NaT] * n, dtype="datetime64[us, UTC]"),
        **columns,
    }
    return pd.DataFrame(filled)


def days(*numbers: int | None) -> pd.Series:
    return pd.Series([datetime(2026, 1, day, tzinfo=UTC) if day else pd.NaT for day in numbers],
                     dtype="datetime64[us, UTC]")  # fmt: skip


@pytest.mark.parametrize(
    ("one", "rows"),
    [
        (Slice(name="short", words=(1, 4)), [True, True, False, True]),
        (Slice(name="one", words=(1, 1)), [True, False, False, False]),
        (Slice(name="negation", pattern=r"(?i)\bNOT\b"), [False, True, True, False]),
        (Slice(name="none", pattern="nowhere"), [False] * 4),
    ],
)
def test_length_and_pattern(one: Slice, rows: list[bool]) -> None:
    (cut,) = cut_slices(make_rows(), [one])
    assert (cut.name, cut.rows.tolist(), cut.is_newest) == (one.name, rows, False)


def test_a_column_gives_a_slice_per_value() -> None:
    cuts = cut_slices(make_rows(source=["b", "a", "b"]), [Slice(name="source", column="source")])
    assert [(cut.name, cut.rows.tolist()) for cut in cuts] == [
        ("source=a", [False, True, False]),
        ("source=b", [True, False, True]),
    ]


def test_an_attribute_is_read_from_the_rows_json() -> None:
    attributes = [json.dumps({"brand": "Zen", "year": 2006}), json.dumps({"brand": ""}), "", json.dumps({"brand": "ü"})]
    cuts = cut_slices(make_rows(attributes=attributes), [Slice(name="by-brand", column="brand")])
    assert [(cut.name, cut.rows.tolist()) for cut in cuts] == [
        ("by-brand=Zen", [True, False, False, False]),
        ("by-brand=ü", [False, False, False, True]),
    ]


@pytest.mark.parametrize("rows", [make_rows(), make_rows(attributes=[""] * 3)], ids=["old snapshot", "no value"])
def test_an_attribute_that_no_row_has_says_so(rows: pd.DataFrame) -> None:
    (cut,) = cut_slices(rows, [Slice(name="brand", column="brand")])
    assert not cut.rows.any()
    assert cut.note == "no test row has the attribute brand"


def test_of_many_values_the_most_frequent_are_kept() -> None:
    values = [f"v{number:03}" for number in range(MAX_VALUES + 5) for _ in range(1 + (number > 4))]
    cuts = cut_slices(make_rows(source=values), [Slice(name="by-source", column="source")])
    assert [cut.name for cut in cuts] == [f"by-source=v{number:03}" for number in range(5, MAX_VALUES + 5)]
    assert cuts[0].note == f"the {MAX_VALUES} most frequent of {MAX_VALUES + 5} values"


@pytest.mark.parametrize(
    ("dates", "groups", "share", "rows", "note"),
    [
        (days(1, 2, 3, 4), "abcd", 0.5, [False, False, True, True], ""),
        (days(1, 2, 3, 4), "abca", 0.34, [True, False, False, True], ""),  # a group is as new as its newest row
        (days(None, None, None, 4), "abcd", 0.5, [False, False, False, True], "only 1 groups have a date"),
        (days(None, 1, None, 4), "abcd", 0.25, [False, False, False, True], ""),  # undated rows are the oldest
        (days(None, None), "ab", 0.5, [False, False], "no test row has a date"),
        (days(1, 2), "ab", 0.1, [False, False], "the share is less than one group"),
    ],
)
def test_the_newest_groups(dates: pd.Series, groups: str, share: float, rows: list[bool], note: str) -> None:
    test = make_rows(observed_at=dates, group=list(groups))
    (cut,) = cut_slices(test, [Slice(name="newest", newest=share)])
    assert (cut.rows.tolist(), cut.note, cut.is_newest) == (rows, note, True)


def test_a_slice_of_all_rows_scores_as_the_whole() -> None:
    random = np.random.default_rng(4)
    gold = random.integers(0, 3, 300)
    ours, theirs = random.dirichlet(np.ones(3), 300), random.dirichlet(np.ones(3), 300)
    groups = [str(row // 3) for row in range(300)]
    cut = Cut("all", "", np.ones(300, dtype=np.bool_))
    (found,) = score_slices([cut], gold, ours, theirs, groups, 2000, 0.95)
    whole = score_predictions(gold, ours, groups)
    assert (found.accuracy, found.macro_f1) == pytest.approx((whole.accuracy, whole.macro_f1))
    assert found.accuracy_ci == pytest.approx(whole.accuracy_ci, abs=0.01)
    assert found.macro_f1_ci == pytest.approx(whole.macro_f1_ci, abs=0.01)
    assert found.difference is not None
    assert found.champion_accuracy is not None
    assert found.difference.value == pytest.approx(whole.accuracy - found.champion_accuracy)
    assert (found.n, found.n_groups) == (300, 100)


def test_f1_of_a_slice_counts_only_classes_that_it_has() -> None:
    gold, ours = np.array([0, 0, 1]), np.eye(3)[[0, 0, 1]]
    (found,) = score_slices([Cut("two", "", np.array([True] * 3))], gold, ours, None, ["a", "b", "c"], 200, 0.95)
    assert found.macro_f1 == 1.0
    assert found.difference is None


def test_all_right_on_few_groups_is_no_certainty() -> None:
    gold = np.zeros(10, dtype=np.int64)
    ours = np.tile([0.9, 0.1], (10, 1))
    cut = Cut("all", "", np.ones(10, dtype=np.bool_))
    (found,) = score_slices([cut], gold, ours, None, [str(row // 2) for row in range(10)], 200, 0.95)
    assert found.accuracy_ci == pytest.approx((0.025 ** (1 / 5), 1.0))


def test_an_empty_slice_is_kept_with_its_note() -> None:
    cut = Cut("newest", "newest 20% of groups", np.zeros(4, dtype=np.bool_), True, "no test row has a date")
    (found,) = score_slices([cut], np.zeros(4, dtype=np.int64), np.ones((4, 2)), None, list("abcd"), 200, 0.95)
    assert (found.n, found.accuracy, found.note) == (0, None, "no test row has a date")
