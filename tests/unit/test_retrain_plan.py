from pathlib import Path

import pytest

from configs.schema import Gate, Training
from tasks.core.errors import DataError
from tasks.core.retrain_plan import (
    SHAPES_THE_RESULT,
    TrainedVersion,
    check_labels,
    code_version,
    find_same_training,
    gate_key,
    training_key,
)

TAKEN_BACK = "which served before and was taken back"
TRAINING = Training(base_model="package:x")


def test_the_key_changes_with_data_configuration_and_code_only() -> None:
    key = training_key("f", TRAINING, "c")
    assert key == training_key("f", Training(base_model="package:x"), "c")
    others = {
        training_key("g", TRAINING, "c"),
        training_key("f", Training(base_model="package:x", seed=14), "c"),
        training_key("f", TRAINING, "d"),
    }
    assert len(others | {key}) == 4


def test_the_code_version_follows_the_modules_that_decide_the_result(tmp_path: Path) -> None:
    for name in SHAPES_THE_RESULT:
        (tmp_path / name).write_text("a = 1", encoding="utf-8")
    before = code_version(tmp_path)
    (tmp_path / SHAPES_THE_RESULT[0]).write_text("a = 2", encoding="utf-8")
    assert code_version(tmp_path) != before
    assert len(code_version()) == 16


def version(number: str, key: str = "k", gate: str = "g", refused: bool = False) -> TrainedVersion:
    return TrainedVersion(number, key, gate, refused)


@pytest.mark.parametrize(
    ("trained", "champion", "served", "same"),
    [
        ([], None, set(), None),
        ([version("1")], "1", {"1"}, "those of the champion"),
        ([version("2", "x"), version("1", "y")], "1", {"1"}, None),
        (
            [version("2"), version("1", "x")],
            "1",
            {"1", "2"},
            "those of version 2, which served before and was taken back",
        ),
        ([version("2", refused=True)], None, set(), "those of version 2, which this gate refused"),
        ([version("2", gate="stricter", refused=True)], None, set(), None),
        ([version("2")], None, set(), None),  # promoted by the gate, but the run died before the alias moved
        ([version("3", gate="old", refused=True), version("2")], "2", {"2"}, "those of the champion"),
    ],
)
def test_nothing_new_is_seen(
    trained: list[TrainedVersion], champion: str | None, served: set[str], same: str | None
) -> None:
    assert find_same_training("k", "g", trained, champion, served) == same


def test_another_gate_is_another_key() -> None:
    assert gate_key(Gate(min_macro_f1=0.6)) == gate_key(Gate(min_macro_f1=0.6))
    assert gate_key(Gate(min_macro_f1=0.6)) != gate_key(Gate(min_macro_f1=0.5))


def test_other_labels_are_another_loop() -> None:
    check_labels("toy", ["a", "b"], ["b", "a"])
    with pytest.raises(DataError, match=r"answers \['a', 'c'\], the loop now says \['a', 'b'\].*give it a new name"):
        check_labels("toy", ["a", "b"], ["a", "c"])
