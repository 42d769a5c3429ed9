import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Splits
from tasks.core.splits import assign_splits, drop_leaks, place, split_at

SPLITS = Splits(key="a-secret-key", validation=0.1, test=0.2)
GROUPS = st.lists(st.text(max_size=8), min_size=1, max_size=40)
OWN = st.sampled_from(["", "", "", "train", "validation", "test"])


def frame(groups: list[str], own: list[str] | None = None, texts: list[str] | None = None) -> pd.DataFrame:
    columns = {"group": groups, "own_split": own or [""] * len(groups), "normalised": texts or groups}
    return pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in columns.items()})


@pytest.mark.parametrize(
    ("position", "split"),
    [(0.0, "test"), (0.1999, "test"), (0.2, "validation"), (0.2999, "validation"), (0.3001, "train"), (0.999, "train")],
)
def test_shares_are_laid_out_from_test_to_train(position: float, split: str) -> None:
    assert split_at(position, SPLITS) == split


def test_shares_come_out_as_asked() -> None:
    shares = assign_splits(frame([f"g{n}" for n in range(20_000)]), SPLITS)["split"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.01)
    assert shares["validation"] == pytest.approx(0.1, abs=0.01)


def test_places_are_frozen_for_ever() -> None:
    """Another value here moves rows between train and test of every loop that exists: do not update it."""
    assert place("product-sentiment-2026", "17") == pytest.approx(0.3726405369532241, abs=0)


@given(GROUPS, st.text(min_size=8, max_size=80))
def test_places_lie_in_the_unit_interval(groups: list[str], key: str) -> None:
    assert all(0 <= place(key, group) < 1 for group in groups)


@given(GROUPS, GROUPS)
def test_a_row_never_changes_split_as_data_grows(old: list[str], new: list[str]) -> None:
    before = assign_splits(frame(old), SPLITS)["split"].tolist()
    after = assign_splits(frame(new + old), SPLITS)["split"].tolist()
    assert after[len(new) :] == before


@given(GROUPS)
def test_a_group_never_straddles_splits(groups: list[str]) -> None:
    rows = assign_splits(frame(groups * 2), SPLITS)
    assert (rows.groupby("group")["split"].nunique() == 1).all()


@given(st.lists(st.tuples(st.text(max_size=3), OWN), min_size=1, max_size=40))
def test_a_rows_own_split_wins(rows: list[tuple[str, str]]) -> None:
    groups, own = zip(*rows, strict=True)
    split = assign_splits(frame(list(groups), list(own)), SPLITS)["split"].tolist()
    assert all(given in ("", found) for given, found in zip(own, split, strict=True))


@given(st.lists(st.tuples(st.text(max_size=4), st.sampled_from("abcd"), OWN), min_size=1, max_size=40))
def test_no_text_stands_in_two_splits_and_none_is_lost(rows: list[tuple[str, str, str]]) -> None:
    groups, texts, own = zip(*rows, strict=True)
    before = assign_splits(frame(list(groups), list(own), list(texts)), SPLITS)
    after = drop_leaks(before)
    assert (after.groupby("normalised")["split"].nunique() == 1).all()
    assert set(after["normalised"]) == set(texts)
    assert (after["split"] == "test").sum() == (before["split"] == "test").sum()


def test_test_wins_over_validation_and_both_over_train() -> None:
    rows = frame(list("abcde"), ["train", "test", "validation", "train", "validation"], ["x", "x", "x", "y", "y"])
    assert drop_leaks(assign_splits(rows, SPLITS)).index.tolist() == [1, 4]


def test_another_key_gives_another_order() -> None:
    assert [place("key-one-x", g) for g in "abc"] != [place("key-two-x", g) for g in "abc"]
