from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from infra.serving.i18n.languages import Words
from infra.serving.pages.charts import (
    Drawing,
    describe_accuracy,
    draw_accuracy,
    draw_drift,
    draw_new,
    draw_strip,
    draw_traffic,
)
from infra.serving.pages.gate_table import RuleShown, list_versions, split_reasons
from tasks.core.drift_decisions import DriftDecision
from tasks.stores.ledger import ReportRow, RetrainRow, Verdict

WORDS = Words("en")
START = datetime(2026, 11, 20, tzinfo=UTC)


def make_report(hour: int, p_value: float = 0.5, measured: float | None = None, version: str = "1") -> ReportRow:
    record: dict[str, Any] = {
        "tests": [
            {"name": "outputs", "p_value": p_value, "effect": 0.1, "fires": p_value < 0.01},
            {"name": "embeddings", "p_value": 0.4, "effect": 0.1, "fires": False},
        ],
        "accuracy": {
            "measured": measured,
            "interval": None if measured is None else [measured - 0.05, measured + 0.05],
            "estimated": 0.8,
            "n_labelled": 0 if measured is None else 60,
        },
    }
    verdict: Verdict = "drift" if p_value < 0.01 else "ok"
    return ReportRow(f"r{hour}", START + timedelta(hours=hour), "toy", version, verdict, p_value < 0.01, record)


def inside(drawing: Drawing) -> bool:
    right, floor = drawing.width - drawing.right, drawing.height - drawing.bottom
    return all(drawing.left <= dot.x <= right and drawing.top <= dot.y <= floor for dot in drawing.dots)


def test_drift_over_time_with_its_limit_and_the_versions() -> None:
    reports = [make_report(0), make_report(1, 0.0001), make_report(2, 0.2, version="2")]
    chart = draw_drift(reports, 0.01, WORDS)
    assert chart is not None
    assert [name for name, _ in chart.layouts] == ["narrow", "middle", "wide"]
    for _, drawing in chart.layouts:
        assert inside(drawing)
        assert [dot.kind for dot in drawing.dots].count("fires") == 1
        assert {rule.text for rule in drawing.rules} == {"alarm limit 0.01", "v2"}
        assert (drawing.x_label, drawing.y_label) == ("Time (UTC)", "p-value")
        fired = next(dot for dot in drawing.dots if dot.kind == "fires")
        limit = next(rule for rule in drawing.rules if not rule.is_upright)
        assert fired.y < limit.at  # less likely is higher up
        assert "2026-11-20 01:00 · answers: p < 0.001" in fired.title


def test_further_tests_share_a_quiet_line_and_decisions_are_marked() -> None:
    reports = [make_report(0), make_report(9)]
    for row in reports:
        row.record["tests"] += [
            {"name": name, "p_value": 0.9, "effect": 0, "fires": False} for name in ("length", "copies")
        ]
    decisions = [
        DriftDecision(START + timedelta(hours=3), "mute", "eve", "a campaign", START + timedelta(hours=5)),
        DriftDecision(START + timedelta(hours=6), "acknowledge", "eve", "normal", version="1"),
        DriftDecision(START + timedelta(hours=30), "restore", "eve", "after the chart", version="1"),
    ]
    chart = draw_drift(reports, 0.01, WORDS, decisions)
    assert chart is not None
    assert [text for _, text in chart.legend] == ["answers", "texts", WORDS("chart.others"), "fires"]
    drawing = dict(chart.layouts)["wide"]
    assert [kind for _, kind in drawing.lines] == ["line-0", "line-1", "line-other", "line-other"]
    assert {rule.text for rule in drawing.rules if rule.is_upright} == {"muted", "new reference"}


def test_the_share_of_new_traffic_over_time() -> None:
    reports = [make_report(0), make_report(1), make_report(2)]
    assert draw_new(reports, WORDS) is None
    reports[0].record["explanation"] = {"new": {"estimate": 0.0, "at_least": 0.0}}
    reports[2].record["explanation"] = {"new": {"estimate": 0.75, "at_least": 0.5}}
    chart = draw_new(reports, WORDS)
    assert chart is not None
    for _, drawing in chart.layouts:
        assert inside(drawing)
        assert len(drawing.dots) == 4
        highest = min(drawing.dots, key=lambda dot: dot.y)
        assert highest.title == "2026-11-20 02:00 · estimated 75 %"


def test_a_single_window_stands_in_the_middle() -> None:
    chart = draw_accuracy([make_report(5, measured=0.7)], WORDS)
    assert chart is not None
    (_, drawing) = chart.layouts[0]
    assert {dot.x for dot in drawing.dots} == {(drawing.left + drawing.width - drawing.right) / 2}
    (whisker,) = drawing.whiskers
    measured = next(dot for dot in drawing.dots if dot.kind == "dot-0")
    assert whisker.high < measured.y < whisker.low
    assert [tick.text for tick in drawing.y_ticks] == ["100 %", "90 %", "80 %", "70 %", "60 %"]


def test_nothing_to_draw() -> None:
    empty = make_report(0)
    empty.record["tests"] = []
    empty.record["accuracy"] = {"measured": None, "interval": None, "estimated": None, "n_labelled": 0}
    assert draw_drift([empty], 0.01, WORDS) is None
    assert draw_accuracy([empty], WORDS) is None
    assert draw_strip([], WORDS) is None
    assert describe_accuracy(empty, WORDS) == ""


@pytest.mark.parametrize(("most", "top"), [(0, "2"), (3, "4"), (37, "40"), (1234, "2,000"), (6001, "8,000")])
def test_traffic_ends_at_a_round_number(most: int, top: str) -> None:
    chart = draw_traffic([(date(2026, 11, 1), 0), (date(2026, 11, 2), most)], WORDS)
    for _, drawing in chart.layouts:
        assert drawing.y_ticks[-1].text == top
        assert all(bar.y >= drawing.top and bar.height >= 0 for bar in drawing.bars)
        assert drawing.bars[1].title == f"2026-11-02: {WORDS.count('units.texts', most)}"


def test_an_accuracy_in_words() -> None:
    assert describe_accuracy(make_report(0, measured=0.7), WORDS) == "70.0 % [65.0–75.0 %], n = 60"
    assert describe_accuracy(make_report(0), WORDS) == "80.0 %"


def test_the_gates_lines_as_a_table(tmp_path: Any) -> None:
    reasons = ["refused: floor: macro-F1 0.2: below the floor 0.6", "ok: test rows: 751 rows", "nothing new"]
    assert split_reasons(reasons) == (
        RuleShown("floor", False, "macro-F1 0.2: below the floor 0.6"),
        RuleShown("test rows", True, "751 rows"),
        RuleShown("", False, "nothing new"),
    )
    record = {"decision": {"reasons": reasons}, "released": "not promoted"}
    rows = [
        RetrainRow(f"flow {number}", START, "toy", "person", "trained", version, record)
        for number, version in enumerate(["3", None, "2"])
    ]
    shown = list_versions(rows, "2", tmp_path)
    assert [(one.version, one.state, one.num_passed) for one in shown] == [
        ("3", "not promoted", 1),
        ("2", "serving", 1),
    ]
