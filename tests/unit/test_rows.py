import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Columns, RatingLabels
from tasks.core.rows import (
    RAW_COLUMNS,
    apply_mends,
    derive_columns,
    drop_duplicates,
    find_contradictions,
    label_of_rating,
    map_rows,
    normalise_text,
    order_rows,
    own_group,
    rows_of_feedback,
    settle_feedback,
    with_row_columns,
)

LABELS = ["negative", "neutral", "positive"]


def table(**columns: list[str | None]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in columns.items()})


def mapped(frame: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    return map_rows(frame, "shop", Columns(**columns), None, LABELS)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Great\t\nPhone ", "great phone"),
        ("STRASSE straße", "strasse strasse"),
        ("ﬁne ① Ｆｕｌｌ", "fine 1 full"),
        ("a\u00a0b\u3000c", "a b c"),
        ("", ""),
    ],
)
def test_normalised_text(text: str, normal: str) -> None:
    assert normalise_text(text) == normal


@given(st.text())
def test_normalising_twice_changes_nothing_more_about_case_and_space(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == normalise_text(normalise_text(once))
    assert once == once.strip()


@pytest.mark.parametrize(
    ("rating", "label"),
    [(-4, "negative"), (-0.51, "negative"), (-0.5, "neutral"), (0, "neutral"), (0.5, "neutral"), (0.51, "positive")],
)
def test_middle_label_is_the_closed_interval(rating: float, label: str) -> None:
    assert label_of_rating(rating, LABELS, [-0.5, 0.5]) == label


@pytest.mark.parametrize(("rating", "label"), [(3.0, "bad"), (3.1, "good"), (-9, "bad")])
def test_one_threshold_must_be_exceeded(rating: float, label: str) -> None:
    assert label_of_rating(rating, ["bad", "good"], [3.0]) == label


def test_ratings_become_labels_and_a_bad_one_is_a_defect() -> None:
    frame = table(text=["a", "b", "c", "d"], stars=["-1", "0.2", "many", None])
    rows = map_rows(frame, "shop", Columns(label=None, rating="stars"), RatingLabels(thresholds=[-0.5, 0.5]), LABELS)
    assert rows["label"].fillna("none").tolist() == ["negative", "neutral", "none", "none"]
    assert rows["defect"].tolist() == ["", "", *["rating is missing or not a number"] * 2]
    assert rows["rating"].tolist()[:2] == [-1.0, 0.2]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("text", None, "text is missing"),
        ("text", " \n", "text is missing"),
        ("label", None, "label is missing"),
        ("label", " ", "label is missing"),
        ("when", "yesterday", "observed_at is not an ISO 8601 time"),
        ("part", "holdout", "split is none of train, validation, test"),
        ("when", "", ""),
        ("part", "", ""),
        ("when", "2026-01-02", ""),
        ("part", " Test ", ""),
        ("label", " surprising ", ""),
    ],
)
def test_defects(column: str, value: str | None, reason: str) -> None:
    fields: dict[str, str | None] = {
        "text": "fine",
        "label": "neutral",
        "when": "2026-01-01T10:00:00Z",
        "part": "train",
    }
    frame = table(**{name: [v] for name, v in (fields | {column: value}).items()})
    rows = mapped(frame, observed_at="when", split="part")
    assert rows["defect"].tolist() == [reason]
    assert rows.columns.tolist() == RAW_COLUMNS
    assert rows["own_split"].isin(["", "train", "validation", "test"]).all()


def test_times_become_aware_utc() -> None:
    rows = mapped(
        table(text=["a", "b"], label=["neutral"] * 2, at=["2026-03-01T12:00:00+02:00", None]), observed_at="at"
    )
    assert str(rows["observed_at"].dtype) == "datetime64[us, UTC]"
    assert rows["observed_at"][0] == pd.Timestamp("2026-03-01T10:00:00Z")
    assert pd.isna(rows["observed_at"][1])
    assert str(mapped(table(text=["a"], label=["neutral"]))["observed_at"].dtype) == "datetime64[us, UTC]"


def test_group_pattern_takes_the_match_and_keeps_what_does_not_match() -> None:
    frame = table(text=["a", "b", "c"], label=["neutral"] * 3, id=["17_4", "17_5", "x"])
    rows = mapped(frame, group="id", group_pattern=r"^\d+", row_id="id")
    assert rows["group"].tolist() == ["17", "17", "x"]
    assert rows["row_id"].tolist() == ["shop:17_4", "shop:17_5", "shop:x"]


def test_texts_without_a_group_share_one_with_their_copies_only() -> None:
    rows = mapped(table(text=["Same ", "same", "other"], label=["neutral"] * 3, g=[None, "", "g1"]), group="g")
    assert rows["group"].tolist() == [own_group("same"), own_group("same"), "g1"]


def test_made_ids_depend_on_source_group_and_text_only() -> None:
    frame = table(text=["a", "b"], label=["neutral", "positive"])
    ids = mapped(frame)["row_id"].tolist()
    assert ids == mapped(frame.assign(label="negative"))["row_id"].tolist()
    assert len({*ids, *map_rows(frame, "mart", Columns(), None, LABELS)["row_id"]}) == 4
    assert all(re.fullmatch(r"shop:[0-9a-f]{16}", row_id) for row_id in ids)


def test_order_does_not_depend_on_the_sources_and_ids_become_unique() -> None:
    frame = table(
        text=["b", "a", "a", "c"], label=["neutral", "positive", "negative", "neutral"], id=["2", "1", "1", "3"]
    )
    ordered = order_rows(mapped(frame, row_id="id"))
    turned = order_rows(mapped(frame[::-1].reset_index(drop=True), row_id="id"))
    pd.testing.assert_frame_equal(ordered, turned)
    assert ordered["row_id"].tolist() == ["shop:1", "shop:1#2", "shop:2", "shop:3"]
    assert ordered["label"].tolist()[:2] == ["negative", "positive"]


def test_derived_columns() -> None:
    rows = derive_columns(mapped(table(text=["two words", "a\tb\nc", "x\x00\x07\x9fy", None], label=["neutral"] * 4)))
    assert rows["n_chars"].tolist() == [9, 5, 5, 0]
    assert rows["n_words"].tolist() == [2, 3, 1, 0]
    assert rows["n_control_chars"].tolist() == [0, 0, 3, 0]


def normalised(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(normalised=[normalise_text(text) for text in rows["text"]])


def test_contradictions_name_each_other() -> None:
    frame = table(
        text=["Good", "good ", "fine", "bad", "BAD"], label=["positive", "negative", "neutral", *["negative"] * 2]
    )
    rows = normalised(mapped(frame.assign(id=list("abcde")), row_id="id"))
    assert find_contradictions(rows) == {
        "shop:a": "same text, another label: contradicts shop:b",
        "shop:b": "same text, another label: contradicts shop:a",
    }


def test_many_contradictions_are_counted() -> None:
    frame = table(text=["x"] * 6, label=["positive", *["negative"] * 5], id=list("abcdef"))
    reasons = find_contradictions(normalised(mapped(frame, row_id="id")))
    assert reasons["shop:a"].endswith("contradicts shop:b, shop:c, shop:d and 2 more")


def test_the_oldest_copy_stays() -> None:
    frame = table(
        text=["x", "X", " x", "y"], label=["neutral"] * 4, id=list("abcd"), at=["2026-02-01", "2026-01-01", None, None]
    )
    rows = normalised(mapped(frame, row_id="id", observed_at="at"))
    assert drop_duplicates(rows)["row_id"].tolist() == ["shop:c", "shop:d"]
    assert drop_duplicates(rows[:2])["row_id"].tolist() == ["shop:b"]


def test_mends_override_text_and_label_by_id() -> None:
    frame = table(
        text=["broken\x07", None, "fine", "rated"], label=["neutral", "neutral", None, "negative"], id=list("abcd")
    )
    rows = mapped(frame, row_id="id").assign(rating=[0.1, 0.2, 0.3, -1.0])
    mended = table(
        row_id=["shop:a", "shop:b", "shop:c", "shop:d", "shop:gone"],
        text=["mended", "found", "fine", "rated", "erased"],
        label=["neutral", "neutral", "positive", "positive", "neutral"],
    )
    fixed = apply_mends(rows, mended)
    assert fixed["text"].tolist() == ["mended", "found", "fine", "rated"]
    assert fixed["label"].tolist() == ["neutral", "neutral", "positive", "positive"]
    assert fixed["defect"].tolist() == [""] * 4
    assert fixed["group"].tolist()[0] == own_group("mended")
    assert np.isnan(fixed["rating"].tolist()[2:]).all()
    assert fixed["rating"].tolist()[:2] == [0.1, 0.2]
    assert rows["text"].tolist()[0] == "broken\x07"


def test_feedback_without_a_group_is_grouped_like_a_source_row() -> None:
    labelled = mapped(table(text=["Hello"], label=["neutral"])).drop(columns=["own_split", "defect"])
    rows = rows_of_feedback(labelled.assign(group="text:otherwise"))
    assert rows["group"].tolist() == [own_group("hello")]
    assert rows.columns.tolist() == RAW_COLUMNS


VOTES = {"negative": "no", "neutral": "so", "positive": "yes"}


@pytest.mark.parametrize(
    ("votes", "label", "shares", "defect"),
    [
        (["1", "1", "2"], "positive", [0.25, 0.25, 0.5], ""),
        (["0.2", "0.7", "0.1"], "neutral", [0.2, 0.7, 0.1], ""),
        (["0", "0", "3"], "positive", [0, 0, 1], ""),
        (["2", "2", "1"], None, [0.4, 0.4, 0.2], "soft labels tie for the largest share"),
        (["0", "0", "0"], None, None, "soft labels are not all numbers of 0 or more with one above 0"),
        (["-1", "1", "1"], None, None, "soft labels are not all numbers of 0 or more with one above 0"),
        (["many", "1", "0"], None, None, "soft labels are not all numbers of 0 or more with one above 0"),
        (["inf", "1", "0"], None, None, "soft labels are not all numbers of 0 or more with one above 0"),
        (["", "1", "0"], None, None, "soft labels are not all numbers of 0 or more with one above 0"),
        (["", None, ""], None, None, "label is missing"),
    ],
)
def test_votes_become_shares_and_the_largest_is_the_label(
    votes: list[str | None], label: str | None, shares: list[float] | None, defect: str
) -> None:
    frame = table(text=["a"], **{name: [vote] for name, vote in zip(VOTES.values(), votes, strict=True)})
    rows = map_rows(frame, "shop", Columns(label=None, soft_labels=VOTES), None, LABELS)
    given = rows["soft_labels"].iloc[0]
    read = json.loads(given) if given else None
    assert rows["label"].fillna("none").tolist() == [label or "none"]
    assert read == (None if shares is None else pytest.approx(shares))
    assert rows["defect"].tolist() == [defect]


def test_a_label_column_wins_over_votes_decides_ties_and_stands_alone() -> None:
    frame = table(
        text=list("abcd"),
        label=["neutral"] * 4,
        no=["3", "1", "", "x"],
        so=["0", "0", "", "1"],
        yes=["0", "1", "", "0"],
    )
    rows = mapped(frame, soft_labels=VOTES)
    assert rows["label"].tolist() == ["neutral"] * 4
    assert [bool(text) for text in rows["soft_labels"]] == [True, True, False, False]
    assert rows["defect"].tolist() == ["", "", "", "soft labels are not all numbers of 0 or more with one above 0"]


def test_a_mended_label_ends_its_votes_and_mends_their_defect() -> None:
    frame = table(text=["a", "b"], no=["1", "2"], so=["1", "0"], yes=["0", "0"], id=["1", "2"])
    rows = map_rows(frame, "shop", Columns(label=None, soft_labels=VOTES, row_id="id"), None, LABELS)
    assert rows["defect"].tolist() == ["soft labels tie for the largest share", ""]
    mended = table(row_id=["shop:1", "shop:2"], text=["a", "b"], label=["neutral", "negative"])
    fixed = apply_mends(rows, mended)
    assert fixed["defect"].tolist() == ["", ""]
    assert fixed["label"].tolist() == ["neutral", "negative"]
    assert [bool(text) for text in fixed["soft_labels"]] == [False, True]


def test_attributes_travel_as_one_json_object() -> None:
    frame = table(text=["a", "b"], label=["neutral"] * 2, land=["Österreich", None], shop=["7", "8"])
    rows = mapped(frame, attributes=["shop", "land"])
    assert [json.loads(text) for text in rows["attributes"]] == [
        {"shop": "7", "land": "Österreich"},
        {"shop": "8", "land": ""},
    ]
    assert mapped(frame)["attributes"].tolist() == ["", ""]


def test_rows_of_an_earlier_version_get_the_new_columns() -> None:
    old = mapped(table(text=["a"], label=["neutral"])).drop(columns=["soft_labels", "attributes"])
    assert with_row_columns(old)[["soft_labels", "attributes"]].to_numpy().tolist() == [["", ""]]
    full = mapped(table(text=["a"], label=["neutral"], shop=["7"]), attributes=["shop"])
    assert with_row_columns(full) is full


def feedback_rows(*said: tuple[str, str]) -> pd.DataFrame:
    rows = [{"row_id": f"feedback:{n}", "text": text, "label": label} for n, (text, label) in enumerate(said)]
    at = pd.date_range("2026-05-04", periods=len(rows), freq="h", tz="UTC")
    return pd.DataFrame(rows, columns=["row_id", "text", "label"]).assign(observed_at=at)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ([("fine", "pos")], ["feedback:0"]),
        ([("ok", "neg")], []),  # a source labels this text: nobody overrules it from outside
        ([("Fine", "pos"), ("fine ", "neg"), ("fine", "pos")], ["feedback:0"]),
        ([("fine", "pos"), ("fine", "neg")], []),
        ([("a", "pos"), ("b", "neg"), ("a", "pos")], ["feedback:0", "feedback:1"]),
        ([], []),
    ],
)
def test_feedback_is_settled_by_its_majority_and_never_contradicts_a_source(
    said: list[tuple[str, str]], kept: list[str]
) -> None:
    sources = pd.DataFrame({"text": ["OK", None], "label": ["pos", "pos"]})
    settled = settle_feedback(feedback_rows(*said), sources)
    assert sorted(settled["row_id"]) == kept
    assert list(settled.columns) == ["row_id", "text", "label", "observed_at"]
