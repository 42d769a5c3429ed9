"""Slices and cases: what the schema takes, and how a mistake is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import ConfigError, load_loop
from configs.schema import Slice
from tests.support.loops import make_loop


def write(folder: Path, cases: str = "", **changes: Any) -> Path:
    """Write the smallest loop with these sections, and its cases."""
    document = make_loop().model_dump(mode="json", exclude_unset=True) | changes
    path = folder / "tiny-loop.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    if cases:
        path.with_name("tiny-loop.cases.yaml").write_text(cases, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("changes", "cases", "message"),
    [
        ({"slices": [{"name": "short"}]}, "", "a slice has one of column, words, pattern, newest (got none)"),
        ({"slices": [{"name": "short", "words": [1, 2], "newest": 0.1}]}, "", "(got ['words', 'newest'])"),
        ({"slices": [{"name": "short", "words": [9, 2]}]}, "", "words: fewest and most words, for example [1, 8]"),
        ({"slices": [{"name": "odd", "pattern": "("}]}, "", "pattern: not a regular expression"),
        ({"slices": [{"name": "one", "newest": 0.1}, {"name": "one", "words": [1, 2]}]}, "", "different names"),
        (
            {"slices": [{"name": "brand", "column": "brand"}]},
            "",
            "slices: no column brand; there are: source. Others are named in data.sources[].columns.attributes",
        ),
        (
            {},
            "cases: [{kind: must, text: good}]",
            "tiny-loop.cases.yaml:1: behaviour.cases.0: a case of kind must needs",
        ),
        ({}, "cases: [{kind: direction, text: good, label: pos}]", "a case of kind direction needs variants"),
        (
            {},
            "cases:\n  - {kind: must, text: a, label: pos}\n  - {kind: must, text: b, label: unknown}",
            "behaviour: case 2: label must be one of ['neg', 'pos'] (got 'unknown')",
        ),
        (
            {},
            "min_passed_share: {must: 1.5}",
            "behaviour.min_passed_share.must: Input should be less than or equal to 1",
        ),
        ({}, "min_passed_share: {most: 0.5}", "behaviour.min_passed_share"),
    ],
)
def test_mistakes_are_told(changes: dict[str, Any], cases: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        load_loop(write(tmp_path, cases, **changes))
    assert message in str(told.value)


def test_a_case_may_ask_for_unknown_where_the_loop_answers_it(tmp_path: Path) -> None:
    cases = "cases: [{kind: must, text: a recipe for soup, label: unknown}]"
    assert load_loop(write(tmp_path, cases, unknown={})).behaviour.cases[0].label == "unknown"


def test_every_rule_of_a_slice_loads(tmp_path: Path) -> None:
    slices = [{"name": "source", "column": "source"}, {"name": "short", "words": [0, 5]},
              {"name": "question", "pattern": "[?]$"}, {"name": "newest", "newest": 0.2}]  # fmt: skip
    loop = load_loop(write(tmp_path, slices=slices))
    assert [one.name for one in loop.slices] == ["source", "short", "question", "newest"]
    assert loop.slices[1] == Slice(name="short", words=(0, 5))
