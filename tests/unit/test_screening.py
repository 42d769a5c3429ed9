import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from configs.schema import Columns, Data
from tasks.core.rows import map_rows, order_rows
from tasks.core.screening import Screened, count_reasons, screen
from tasks.core.validation_page import render_validation_page
from tests.support.loops import make_loop

LABELS = ["neg", "pos"]
SHORT = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "n_chars", "min_value": 3, "max_value": 40},
    "reason": "shorter than 3 or longer than 40 characters",
}
PLAIN = {
    "type": "expect_column_values_to_be_between",
    "kwargs": {"column": "n_control_chars", "max_value": 0},
    "reason": "text holds control characters",
}
ENOUGH = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 500}, "reason": "fewer than 500 rows"}


def good_rows(n: int = 60) -> list[tuple[str, str | None]]:
    return [(f"a plain sentence number {i}", LABELS[i % 2]) for i in range(n)]


def raw(rows: Sequence[tuple[str | None, str | None]]) -> pd.DataFrame:
    texts, labels = zip(*rows, strict=True)
    table = pd.DataFrame({"text": pd.Series(texts, dtype="str"), "label": pd.Series(labels, dtype="str")})
    table["id"] = [f"{n:03d}" for n in range(len(table))]
    return order_rows(map_rows(table, "shop", Columns(row_id="id"), None, LABELS))


def data(rows: list[dict[str, Any]] | None = None, whole: list[dict[str, Any]] | None = None, **more: Any) -> Data:
    return make_loop(
        expectations={"rows": rows or [], "whole": whole or []}, **{"max_quarantined_share": 1, **more}
    ).data


def test_a_clean_set_is_split_and_nothing_is_lost() -> None:
    screened = screen(raw(good_rows()), data([SHORT, PLAIN]), LABELS)
    assert screened.problems == []
    assert sum(screened.count(split) for split in ("train", "validation", "test")) == 60
    assert screened.rows.columns.tolist()[-1] == "split"
    assert len(screened.quarantine) == 0
    assert [result.success for result in screened.results] == [True, True]


def test_bad_rows_are_set_aside_with_every_reason() -> None:
    bad = [("x\x07", "pos"), (None, "pos"), ("what label", "maybe"), ("", "neg"), ("no label", None)]
    screened = screen(raw([*bad, *good_rows()]), data([SHORT, PLAIN]), LABELS)
    assert dict(zip(screened.quarantine["row_id"], screened.quarantine["reason"], strict=True)) == {
        "shop:000": f"{SHORT['reason']}; {PLAIN['reason']}",
        "shop:001": "text is missing",
        "shop:002": "label is none of neg, pos",
        "shop:003": "text is missing",
        "shop:004": "label is missing",
    }
    assert screened.quarantine.columns.tolist() == ["row_id", "reason", "source", "text", "label"]
    assert set(screened.rows["label"]) == set(LABELS)
    assert len(screened.rows) == 60


def test_contradictions_are_set_aside_and_copies_dropped() -> None:
    extra = [("Same Text", "pos"), ("same  text", "neg"), ("Copy", "pos"), ("copy", "pos")]
    screened = screen(raw([*extra, *good_rows()]), data(), LABELS)
    assert screened.quarantine["row_id"].tolist() == ["shop:000", "shop:001"]
    assert "contradicts shop:001" in screened.quarantine["reason"][0]
    assert screened.n_duplicates == 1
    assert (screened.n_leaks, len(screened.rows)) == (0, 61)


def test_copies_of_test_texts_do_not_train() -> None:
    rows = raw([("copied", "pos"), ("copied", "pos"), *good_rows()])
    rows.loc[:1, "own_split"] = ["train", "test"]
    screened = screen(rows, data(), LABELS)
    assert (screened.n_leaks, screened.n_duplicates) == (1, 0)
    assert screened.rows.set_index("text").loc["copied", "split"] == "test"


def test_a_critical_failure_of_the_set_is_a_problem_and_a_warning_is_not() -> None:
    rows = raw(good_rows())
    assert screen(rows, data(whole=[ENOUGH]), LABELS).problems == [
        "fewer than 500 rows (expect_table_row_count_to_be_between observed 60)"
    ]
    warned = screen(rows, data(whole=[{**ENOUGH, "severity": "warning"}]), LABELS)
    assert (warned.problems, [result.success for result in warned.results]) == ([], [False])


def test_too_many_quarantined_rows_are_a_problem_with_their_reasons() -> None:
    rows = raw([*good_rows(), ("ab", "pos"), (None, "pos"), ("xy", "neg"), ("Odd one", "pos"), ("odd one", "neg")])
    problems = screen(rows, data([SHORT], max_quarantined_share=0.05), LABELS).problems
    assert problems == [
        "5 of 65 rows (7.7%) are quarantined, more than max_quarantined_share 5.0% "
        f"({SHORT['reason']}: 2, same text, another label: 2, text is missing: 1)"
    ]
    assert screen(rows, data([SHORT], max_quarantined_share=0.08), LABELS).problems == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_label_is_needed_in_train_and_test(split: str) -> None:
    rows = raw(good_rows())
    rows["own_split"] = "train" if split == "test" else "test"
    (first, second) = screen(rows, data(), LABELS).problems
    assert first == (
        f"no {split} row has the label 'neg'; a loop needs every label in train and in test, "
        f"and has 0 neg, 0 pos in {split}"
    )
    assert "'pos'" in second


def test_all_labels_unknown_is_told_by_the_share() -> None:
    rows = raw([(text, "other") for text, _ in good_rows()])
    problems = screen(rows, data(max_quarantined_share=0.05), LABELS).problems
    assert problems[0].startswith("60 of 60 rows (100.0%) are quarantined")
    assert "label is none of neg, pos: 60" in problems[0]


def test_reasons_are_counted_apart() -> None:
    reasons = pd.DataFrame({"reason": ["a; b", "a", "same: contradicts x", "same: contradicts y, z"]})
    assert count_reasons(reasons) == {"a": 2, "same": 2, "b": 1}


def page(screened: Screened) -> str:
    return render_validation_page(
        loop="tiny-loop",
        fingerprint="0123456789abcdef",
        made_at=datetime(2026, 5, 4, 3, 2, tzinfo=UTC),
        labels=LABELS,
        screened=screened,
    )


def test_the_page_tells_everything_but_texts() -> None:
    rows = raw([*good_rows(), ("<b>secret", "other"), ("zz", "pos")])
    html = page(screen(rows, data([SHORT], whole=[{**ENOUGH, "severity": "warning"}]), LABELS))
    for told in (
        "tiny-loop",
        "0123456789abcdef",
        "2026-05-04 03:02 UTC",
        "Accepted",
        "fewer than 500 rows",
        "shop:060",
    ):
        assert told in html
    assert "label is none of neg, pos" in html
    assert "secret" not in html
    assert "sentence number" not in html


def test_the_page_needs_nothing_from_outside_and_escapes_what_it_shows() -> None:
    html = page(
        screen(raw([*good_rows(), ("zz", "pos")]), data([{**SHORT, "reason": "<script>alert(1)</script>"}]), LABELS)
    )
    assert not re.search(r"(src|href)=|url\(|@import|<link", html)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_the_page_of_a_refused_set_says_why() -> None:
    html = page(screen(raw(good_rows()), data(whole=[ENOUGH]), LABELS))
    assert "Refused: no model is trained on this set; the champion keeps serving." in html
    assert "<li>fewer than 500 rows (expect_table_row_count_to_be_between observed 60)</li>" in html
    assert "Accepted" not in html
