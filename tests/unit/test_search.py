"""From a search space to a recipe: what is accepted, what is suggested, what it changes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FixedTrial

from configs.load import ConfigError, load_loop
from configs.schema import Loop, SearchRange, Training
from configs.tuning_schema import number_kind
from tasks.core.errors import DataError
from tasks.core.search import (
    apply_suggestion,
    find_changes,
    find_file_changes,
    fixed_for_today,
    place_report,
    should_give_up,
    should_redo,
    study_key,
    suggest,
)
from tests.support.loops import make_loop

TODAY = Training(base_model="nowhere")


def space(**ranges: dict[str, Any]) -> dict[str, SearchRange]:
    return {key.replace("__", "."): SearchRange.model_validate(value) for key, value in ranges.items()}


def write_loop(folder: Path, searched: dict[str, Any]) -> tuple[Path, str]:
    document = {**make_loop().model_dump(mode="json", by_alias=True, exclude={"behaviour"})}
    document["tuning"] = {"space": searched}
    path = folder / "tiny-loop.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("searched", "key", "message"),
    [
        (
            {"learning_rat": {"low": 1, "high": 2}},
            "learning_rat",
            "tuning.space.learning_rat: no key of training; accep",
        ),
        (
            {"learning_rate": {"low": 0.1, "high": 2}},
            "high",
            "tuning.space.learning_rate.high: Input should be less than",
        ),
        (
            {"batch_size": {"low": 4.5, "high": 16}},
            "low",
            "tuning.space.batch_size.low: Input should be a valid integer",
        ),
        (
            {"method": {"low": 0, "high": 1}},
            "method",
            "tuning.space.method: takes no numbers between low and high: give",
        ),
        ({"freeze_embeddings": {"low": 0, "high": 1}}, "freeze_embeddings", "takes no numbers between low and high"),
        (
            {"pooling": {"choices": ["cls", "max"]}},
            "max",
            "tuning.space.pooling.choices.1: Input should be 'mean', 'cls'",
        ),
        (
            {"lora": {"choices": [1, 2]}},
            "lora",
            "tuning.space.lora: no key of training; accepted here: preset, base_mod",
        ),
        ({"seed": {"choices": [1, 2]}}, "seed", "tuning.space.seed: 'seed' is not searched: a trial's seeds follow"),
        ({"from": {"choices": ["base", "champion"]}}, "from", "tuning.space.from: 'from' is not searched"),
        ({"replay.old_per_new": {"low": 0, "high": 1}}, "replay.old_per_new", "is not searched: it chooses the rows"),
        ({"epochs": {"low": 2, "high": 1}}, "epochs", "tuning.space.epochs: low must be below high (got 2 and 1)"),
        ({"dropout": {"low": 0, "high": 0.5, "log": True}}, "dropout", "log needs low above 0 (got 0)"),
        ({"epochs": {"low": 2}}, "epochs", "give either low and high, or choices"),
        (
            {"preset": {"choices": ["balanced", "nope"]}},
            "nope",
            "tuning.space.preset.choices.1: no preset 'nope'; there",
        ),
    ],
)
def test_a_wrong_space_is_told_with_its_line(searched: dict[str, Any], key: str, message: str, tmp_path: Path) -> None:
    path, text = write_loop(tmp_path, searched)
    with pytest.raises(ConfigError) as error:
        load_loop(path)
    assert message in str(error.value)
    line = int(str(error.value).split(":")[1])
    section = text[: text.index("tuning:")].count("\n")
    assert key in text.splitlines()[line - 1]
    assert line > section


def test_all_problems_of_a_space_are_told_at_once(tmp_path: Path) -> None:
    path, _ = write_loop(tmp_path, {"nope": {"choices": [1, 2]}, "epochs": {"low": 0, "high": 1000}})
    with pytest.raises(ConfigError) as error:
        load_loop(path)
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "tuning.space.nope",
        "tuning.space.epochs.low",
        "tuning.space.epochs.high",
    ]


def test_the_default_space_is_valid() -> None:
    default = make_loop().tuning
    assert Loop.model_validate({**make_loop().model_dump(by_alias=True)}).tuning == default
    assert {key: number_kind(key) for key in ("batch_size", "epochs", "max_steps", "method", "compile")} == {
        "batch_size": "int",
        "epochs": "float",
        "max_steps": "int",
        "method": None,
        "compile": None,
    }


def test_suggestions_keep_the_type_of_their_key() -> None:
    searched = space(
        batch_size={"low": 4, "high": 64, "log": True},
        learning_rate={"low": 1e-5, "high": 1e-3, "log": True},
        lora__rank={"choices": [4, 8]},
    )
    trial = FixedTrial({"batch_size": 17, "learning_rate": 0.000123456, "lora.rank": 8})
    suggestion = suggest(trial, searched)
    assert suggestion == {"batch_size": 17, "learning_rate": 0.000123, "lora.rank": 8}
    assert type(suggestion["batch_size"]) is int
    training = apply_suggestion({None: TODAY}, suggestion, TODAY)
    assert (training.batch_size, training.learning_rate, training.lora.rank) == (17, 0.000123, 8)
    assert find_changes(TODAY, training) == suggestion


def test_a_rounded_suggestion_stays_in_its_range() -> None:
    searched = space(dropout={"low": 0.12345, "high": 0.12349})
    assert suggest(FixedTrial({"dropout": 0.12346}), searched) == {"dropout": 0.12345}


def test_todays_values_outside_of_a_range_are_not_forced_into_it() -> None:
    searched = space(batch_size={"choices": [4, 8]}, epochs={"low": 2, "high": 6}, max_steps={"low": 10, "high": 20})
    fixed = fixed_for_today(searched, TODAY)
    assert fixed == {"epochs": 3}
    assert suggest(FixedTrial({"epochs": 3.0}), searched, fixed) == {"epochs": 3.0}


def test_a_preset_changes_what_the_file_leaves_out() -> None:
    bases = {None: TODAY, "quick": TODAY.model_copy(update={"preset": "quick", "epochs": 1.0})}
    training = apply_suggestion(bases, {"preset": "quick", "batch_size": 8}, TODAY)
    assert (training.preset, training.epochs, training.batch_size) == ("quick", 1.0, 8)
    assert find_file_changes(bases, TODAY, training) == {"preset": "quick", "batch_size": 8}
    assert find_file_changes(bases, TODAY, TODAY) == {}


def test_a_recipe_that_the_schema_refuses_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"training refuses .*Input should be less than 1"):
        apply_suggestion({None: TODAY}, {"learning_rate": 3}, TODAY)


def test_a_study_is_known_by_all_that_makes_its_trials_comparable() -> None:
    searched = space(epochs={"low": 2, "high": 6})
    same = study_key("data", None, searched, 1, {None: TODAY}, TODAY, "code")
    assert same == study_key("data", None, searched, 1, {None: TODAY}, TODAY, "code")
    other = TODAY.model_copy(update={"batch_size": 8})
    keys = [
        study_key("new data", None, searched, 1, {None: TODAY}, TODAY, "code"),
        study_key("data", "7", searched, 1, {None: TODAY}, TODAY, "code"),
        study_key("data", None, space(epochs={"low": 2, "high": 7}), 1, {None: TODAY}, TODAY, "code"),
        study_key("data", None, searched, 2, {None: TODAY}, TODAY, "code"),
        study_key("data", None, searched, 1, {None: other}, other, "code"),
        study_key("data", None, searched, 1, {None: TODAY}, TODAY, "new code"),
    ]
    assert len({same, *keys}) == 7


def test_evaluations_meet_at_the_same_share_of_the_rows() -> None:
    assert place_report(0, 0.497) == place_report(0, 0.503)
    assert place_report(0, 99.9) < place_report(1, 0.1)


def test_when_to_give_up_and_when_to_try_again() -> None:
    assert [should_give_up(failures) for failures in (0, 2, 3)] == [False, False, True]
    assert [should_redo(attempts) for attempts in (1, 2)] == [True, False]
