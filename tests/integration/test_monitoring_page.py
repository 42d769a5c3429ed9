"""What the page of a window shows, what it never holds, and that odd windows get one too."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.drift import EFFECTS
from tasks.stores.monitoring_page import write_monitoring_page
from tests.support.monitored import make_reference, make_texts, make_window

RECORD: dict[str, Any] = {
    "loop": "toy",
    "version": "7",
    "verdict": "watch",
    "reason": "1 of the last 1 windows fired",
    "window": {"n": 60, "from": "2026-03-01T00:00:00+00:00", "to": "2026-03-02T00:00:00+00:00"},
    "tests": [
        {"name": "outputs", "p_value": 0.37, "effect": 0.11, "fires": False},
        {"name": "embeddings", "p_value": 0.002, "effect": 0.42, "fires": True},
        {"name": "length", "p_value": 0.003, "effect": 0.02, "fires": False, "min_effect": 0.1},
    ],
    "accuracy": {"measured": 0.815, "estimated": None, "n_labelled": 40},
    "decision": {"action": "wait", "reason": "no drift (verdict: watch)"},
    "live": [
        {"reason": "more than half are copies", "observed": "0.4", "success": False},
        {"reason": "a check that holds", "observed": "0", "success": True},
    ],
    "shares": [{"label": "negative", "reference": 0.25, "current": 0.5}],
    "muted": {"until": "2026-03-09T00:00:00+00:00", "who": "eve", "why": "a campaign"},
    "reference": {"kind": "acknowledged window", "n": 80, "report_id": "r7", "note": ""},
    "explanation": {
        "new": {"estimate": 0.312, "at_least": 0.104},
        "lengths": [{"part": "median", "reference": 15.0, "current": 9.0}],
        "words_came": [{"word": "broken", "reference": 0.013, "current": 0.237}],
        "words_went": [],
        "topics": [
            {
                "words": ["camera", "zoom"],
                "reference": 0.219,
                "current": 0.044,
                "outcome": "went",
                "reference_examples": ["row-1"],
                "current_examples": ["0-0-1"],
            },
            {"words": [], "reference": 0.1, "current": 0.1, "outcome": "same"},
        ],
        "keys": [{"key_id": "key_a", "n": 60, "share": 1.0, "new": 0.312}],
        "note": "the snapshot is gone",
    },
}


def frames(num_rows: int) -> dict[str, pd.DataFrame]:
    reference, current = make_reference(), make_window(make_texts(num_rows, "secretword"))
    current = current.assign(n_chars=current["text"].str.len(), n_words=current["text"].str.split().str.len())
    return {"reference": reference.assign(label=reference["predicted"]), "current": current}


def write(path: Path, record: dict[str, Any], num_rows: int = 60) -> str:
    write_monitoring_page(path, record=record, alpha=0.01, **frames(num_rows))
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("pages") / "new" / "page.html", RECORD)


@pytest.mark.parametrize(
    "shown",
    [
        "watch",
        "81.5%",
        "measured accuracy (40 labels)",
        "Verdict: 1 of the last 1 windows fired",
        "Decision: no drift (verdict: watch)",
        "Live check failed: more than half are copies (0.4)",
        "Drift of outputs: p-value by permuting whole groups",
        "0.420",
        EFFECTS["outputs"],
        "Compared with: acknowledged window r7, 80 texts",
        "muted until 2026-03-09T00:00:00+00:00 by eve: a campaign",
        "31.2%",
        "10.4%",
        "broken",
        "+22.4%",
        "camera, zoom",
        "(no word tells it from the others)",
        "median length: 15 words, now 9",
        "key_a",
        "the snapshot is gone",
        "n_chars",
        "n_words",
        "score",
    ],
)
def test_the_page_shows(page: str, shown: str) -> None:
    assert shown in page


def test_a_test_that_fires_fails_in_evidently(page: str) -> None:
    states = re.findall(r'"title":\s*"Drift of (\w+): [^"]*",[^{}]*"state":\s*"(\w+)"', page)
    assert states == [("outputs", "success"), ("embeddings", "fail"), ("length", "success")]


@pytest.mark.parametrize("hidden", ["secretword", "row-1", "group-1", "a check that holds", "0-0-1"])
def test_the_page_never_holds_texts_or_ids(page: str, hidden: str) -> None:
    assert hidden not in page


def test_the_page_loads_nothing(page: str) -> None:
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)


@pytest.mark.parametrize("num_rows", [1, 2])
def test_a_window_without_verdict_gets_a_page(tmp_path: Path, num_rows: int) -> None:
    text = write(tmp_path / "page.html", RECORD | {"tests": [], "verdict": "too few", "explanation": None}, num_rows)
    assert "too few" in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
