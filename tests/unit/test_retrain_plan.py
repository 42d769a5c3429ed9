from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Behaviour, Case, Gate, Slice, Training
from tasks.core.errors import DataError
from tasks.core.retrain_plan import (
    SHAPES_THE_RESULT,
    TrainedVersion,
    check_labels,
    code_version,
    find_same_training,
    gate_key,
    list_trained,
    training_key,
)
from tests.support.loops import make_loop

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


def version(number: str, key: str = "k", gate: str = "g", **said: Any) -> TrainedVersion:
    return TrainedVersion(number, key, gate, **said)


REFUSED = "which this gate refused"


@pytest.mark.parametrize(
    ("trained", "champion", "same"),
    [
        ([], None, None),
        ([version("1", has_served=True)], "1", "those of the champion"),
        ([version("2", "x"), version("1", "y", has_served=True)], "1", None),
        (
            [version("2", has_served=True), version("1", "x", has_served=True)],
            "1",
            "those of version 2, which served before and was taken back",
        ),
        ([version("2", ended=REFUSED)], None, f"those of version 2, {REFUSED}"),
        ([version("2", gate="stricter", ended=REFUSED)], None, None),
        (
            [version("2", gate="stricter", ended="which the service refused", ended_by_service=True)],
            None,
            "those of version 2, which the service refused",
        ),
        ([version("2")], None, None),  # promoted by the gate, but the run died before the alias moved
        ([version("2", waits=True)], None, "those of version 2, which waits for approval"),
        ([version("2", gate="older", waits=True)], "1", "those of version 2, which waits for approval"),
        (
            [version("3", gate="old", ended=REFUSED), version("2", has_served=True)],
            "2",
            "those of the champion",
        ),
    ],
)
def test_nothing_new_is_seen(trained: list[TrainedVersion], champion: str | None, same: str | None) -> None:
    assert find_same_training("k", "g", trained, champion) == same


@dataclass(frozen=True)
class Row:
    action: str
    to_version: str
    who: str = "retrain"
    why: str = ""
    from_version: str | None = None
    at: datetime = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rows", "gate", "known"),
    [
        ([], "promote", version("2")),
        ([Row("refuse", "2")], "refuse", version("2", ended=REFUSED)),
        ([Row("promote", "2")], "promote", version("2", has_served=True)),
        ([Row("promote", "2"), Row("rollback", "1")], "promote", version("2", has_served=True)),
        (
            [Row("refuse", "2", "service")],
            "promote",
            version("2", ended="which the service refused", ended_by_service=True),
        ),
        (
            [Row("ask", "2"), Row("refuse", "2", "approver ann")],
            "promote",
            version("2", ended="which approver ann refused"),
        ),
        ([Row("ask", "2"), Row("lapse", "2")], "promote", version("2", ended="which nobody answered for in time")),
        ([Row("ask", "2"), Row("withdraw", "2")], "promote", version("2")),  # to be judged again
        ([Row("ask", "2")], "promote", version("2")),
        ([Row("ask", "1"), Row("refuse", "1", "approver ann")], "promote", version("2")),
    ],
)
def test_tags_and_audit_log_say_what_became_of_a_version(rows: list[Row], gate: str, known: TrainedVersion) -> None:
    tags = {"2": {"training_key": "k", "gate_key": "g", "gate": gate}}
    assert list_trained(tags, rows, waiting=None) == [known]


def test_the_version_that_waits_is_marked() -> None:
    waits = [known.waits for known in list_trained({"3": {}, "2": {}}, [Row("ask", "3")], waiting="3")]
    assert waits == [True, False]


@pytest.mark.parametrize(
    "change",
    [
        {"gate": Gate(min_macro_f1=0.4)},
        {"slices": [Slice(name="short", words=(1, 4))]},
        {"behaviour": Behaviour(cases=[Case(kind="must", text="good", label="pos")])},
        {"behaviour": Behaviour(min_passed_share={"must": 0.5})},
    ],
)
def test_another_gate_is_another_key(change: dict[str, Any]) -> None:
    loop = make_loop()
    assert gate_key(loop) == gate_key(make_loop())
    assert gate_key(loop.model_copy(update=change)) != gate_key(loop)


def test_the_gate_does_not_ask_what_training_decides() -> None:
    loop = make_loop()
    assert gate_key(loop.model_copy(update={"training": Training(base_model="other")})) == gate_key(loop)


def test_other_labels_are_another_loop() -> None:
    check_labels("toy", ["a", "b"], ["b", "a"])
    with pytest.raises(DataError, match=r"answers \['a', 'c'\], the loop now says \['a', 'b'\].*give it a new name"):
        check_labels("toy", ["a", "b"], ["a", "c"])
