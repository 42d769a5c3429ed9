"""Slices and cases: what the schema takes, and how a mistake is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import ConfigError, load_all_loops, load_loop
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
            "slices.0.column: no column brand; there are: source. Others are named in data.sources[].columns.attri",
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
            "tiny-loop.cases.yaml:3: behaviour.cases.1.label: must be one of ['neg', 'pos'] (got 'unknown')",
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


def test_every_wrong_place_is_told_with_its_line(tmp_path: Path) -> None:
    cases = "cases:\n  - {kind: must, text: a, label: bad}\n  - kind: must\n    text: b\n    label: worse\n"
    path = write(tmp_path, cases, slices=[{"name": "brand", "column": "brand"}])
    with pytest.raises(ConfigError) as told:
        load_loop(path)
    slices, first, second = str(told.value).splitlines()
    line = next(n for n, text in enumerate(path.read_text("utf-8").splitlines(), 1) if "column: brand" in text)
    assert slices.startswith(f"{path}:{line}: slices.0.column: no column brand")
    assert first.startswith(f"{tmp_path}/tiny-loop.cases.yaml:2: behaviour.cases.0.label: must be one of")
    assert second.startswith(f"{tmp_path}/tiny-loop.cases.yaml:5: behaviour.cases.1.label: must be one of")
    assert second.endswith("(got 'worse')")


def test_cases_that_belong_to_no_loop_are_told(tmp_path: Path) -> None:
    write(tmp_path, "cases: [{kind: must, text: a, label: pos}]")
    assert len(load_all_loops(tmp_path)) == 1
    (tmp_path / "tiny-loop.cases.yaml").rename(tmp_path / "tiny_loop.cases.yaml")
    with pytest.raises(ConfigError) as told:
        load_all_loops(tmp_path)
    expected = "tiny_loop.cases.yaml: cases of no loop: there is no tiny_loop.yaml beside it; there are: tiny-loop.yaml"
    assert str(told.value) == f"{tmp_path}/{expected}"


def test_a_case_may_ask_for_unknown_where_the_loop_answers_it(tmp_path: Path) -> None:
    cases = "cases: [{kind: must, text: a recipe for soup, label: unknown}]"
    assert load_loop(write(tmp_path, cases, unknown={})).behaviour.cases[0].label == "unknown"


def test_every_rule_of_a_slice_loads(tmp_path: Path) -> None:
    slices = [{"name": "source", "column": "source"}, {"name": "short", "words": [0, 5]},
              {"name": "question", "pattern": "[?]$"}, {"name": "newest", "newest": 0.2}]  # fmt: skip
    loop = load_loop(write(tmp_path, slices=slices))
    assert [one.name for one in loop.slices] == ["source", "short", "question", "newest"]
    assert loop.slices[1] == Slice(name="short", words=(0, 5))
