"""The contract with Evidently: our panels are its metrics, with widgets and a test each, on a page of their own."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.stores.evidently_page import Panel, Table, write_page

PANELS = [
    Panel(
        "First",
        12.0,
        [("how many", "twelve")],
        ["- a **line**"],
        [Table("Words", ["word", "share"], [["zoom", "3 %"]])],
    ),
    Panel("Likely", 0.2, [("p", "0.2")], above=0.01),
    Panel("Unlikely", 0.002, [("p", "0.002")], above=0.01),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pages") / "new" / "page.html"
    random = np.random.default_rng(0)
    sides = [
        pd.DataFrame(
            {"length": random.integers(1, 90, n), "label": random.choice(["good", "bad"], n), "text": "secret"}
        )
        for n in (80, 60)
    ]
    write_page(path, PANELS, reference=sides[0], current=sides[1], numbers=["length"], categories=["label"])
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "shown", ["First", "how many", "twelve", "a **line**", "Words", "zoom", "3 %", "length", "label"]
)
def test_panels_and_columns_are_shown(page: str, shown: str) -> None:
    assert shown in page


def test_a_panel_with_a_limit_is_a_test(page: str) -> None:
    states = dict(re.findall(r'"title":\s*"(First|Likely|Unlikely)[^"]*",[^{}]*"state":\s*"(\w+)"', page))
    assert states == {"Likely": "success", "Unlikely": "fail"}


def test_columns_that_are_not_named_stay_out_and_nothing_is_loaded(page: str) -> None:
    assert "secret" not in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", page)
