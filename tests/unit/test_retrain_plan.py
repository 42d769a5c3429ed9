from pathlib import Path

import pytest

from configs.schema import Training
from tasks.core.retrain_plan import SHAPES_THE_RESULT, code_version, find_same_training, training_key

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


@pytest.mark.parametrize(
    ("trained", "same"),
    [
        ({}, None),
        ({"champion": "k"}, "champion"),
        ({"champion": "x", "challenger": "k"}, "challenger"),
        ({"champion": ""}, None),
    ],
)
def test_nothing_new_is_seen(trained: dict[str, str], same: str | None) -> None:
    assert find_same_training("k", trained) == same
