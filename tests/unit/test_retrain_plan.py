from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from configs.schema import Behaviour, Case, Gate, Release, Slice, Training, Unknown
from tasks.core.errors import DataError
from tasks.core.retrain_plan import (
    SHAPES_THE_RESULT,
    TrainedVersion,
    check_labels,
    code_version,
    find_same_training,
    gate_key,
    list_trained,
    recipe_key,
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
        training_key("f", TRAINING, "c", answering={"engine": "onnx-int8"}),
    }
    assert len(others | {key}) == 5


def test_the_code_version_follows_the_modules_that_decide_the_result(tmp_path: Path) -> None:
    for name in SHAPES_THE_RESULT:
        (tmp_path / name).write_text("a = 1", encoding="utf-8")
    before = code_version(tmp_path)
    (tmp_path / SHAPES_THE_RESULT[0]).write_text("a = 2", encoding="utf-8")
    assert code_version(tmp_path) != before
    assert len(code_version()) == 16


def test_a_recipe_is_the_same_wherever_training_starts() -> None:
    same = Training.model_validate({"base_model": "package:x", "from": "champion", "replay": {"old_per_new": 3}})
    key = recipe_key(TRAINING, "c", None)
    assert recipe_key(same, "c", None) == key
    others = {
        recipe_key(Training(base_model="package:x", epochs=9), "c", None),
        recipe_key(TRAINING, "d", None),
        recipe_key(TRAINING, "c", Unknown(max_refused_share=0.1)),
    }
    assert len(others | {key}) == 4


def test_what_fits_the_temperature_decides_the_result() -> None:
    assert "temperature.py" in SHAPES_THE_RESULT


def version(number: str, key: str = "k", gate: str = "g", then: str = "1", **said: Any) -> TrainedVersion:
    return TrainedVersion(number, key, gate, then, **said)


def slow(number: str) -> TrainedVersion:
    return version(number, ended=REFUSED, is_only_slow=True)


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
        ([version("2", ended=REFUSED)], "1", f"those of version 2, {REFUSED}"),
        ([version("2", then="none", ended=REFUSED)], None, f"those of version 2, {REFUSED}"),
        ([version("2", gate="stricter", ended=REFUSED)], "1", None),
        ([version("2", gate="other limits", ended="which the service refused")], "1", None),
        ([version("2", ended="which the service refused")], "1", "those of version 2, which the service refused"),
        ([version("2", ended=REFUSED)], "3", None),  # it lost to another champion than today's
        ([version("2", ended=REFUSED)], None, None),
        ([version("4", then="3", ended=REFUSED), version("2", ended=REFUSED)], "3", f"those of version 4, {REFUSED}"),
        ([version("4", then="3", ended=REFUSED), version("2", ended=REFUSED)], "1", f"those of version 2, {REFUSED}"),
        ([slow("2")], "1", None),  # the machine may have been busy
        ([slow("3"), slow("2")], "1", None),
        ([slow("4"), slow("3"), slow("2")], "1", f"those of version 2, {REFUSED}"),  # not every night
        ([slow("4"), slow("3"), slow("2")], "5", None),
        ([slow("3"), version("2", ended=REFUSED)], "1", f"those of version 2, {REFUSED}"),
        ([version("2")], None, None),  # promoted by the gate, but the run died before the alias moved
        ([version("2", waits=True)], None, "those of version 2, which waits for approval"),
        ([version("2", gate="older", waits=True)], "1", "those of version 2, which waits for approval"),
        (
            [version("2", gate="older", is_staged=True)],
            "1",
            "those of version 2, which is on its way through the stages of its release",
        ),
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
            version("2", ended="which the service refused"),
        ),
        (
            [Row("ask", "2"), Row("refuse", "2", "approver ann")],
            "promote",
            version("2", ended="which approver ann refused"),
        ),
        ([Row("ask", "2"), Row("lapse", "2")], "promote", version("2", ended="which nobody answered for in time")),
        ([Row("ask", "2"), Row("withdraw", "2")], "promote", version("2")),  # to be judged again
        ([Row("ask", "2")], "promote", version("2")),
        ([Row("shadow", "2"), Row("canary", "2")], "promote", version("2", is_staged=True)),
        (
            [Row("shadow", "2"), Row("canary", "2"), Row("refuse", "2", "service")],
            "promote",
            version("2", ended="which the service refused"),
        ),
        ([Row("shadow", "2"), Row("withdraw", "2")], "promote", version("2")),  # a newer one came first
        ([Row("shadow", "2"), Row("promote", "2")], "promote", version("2", has_served=True)),
        ([Row("ask", "1"), Row("refuse", "1", "approver ann")], "promote", version("2")),
    ],
)
def test_tags_and_audit_log_say_what_became_of_a_version(rows: list[Row], gate: str, known: TrainedVersion) -> None:
    tags = {"2": {"training_key": "k", "gate_key": "g", "gate": gate, "champion_then": "1"}}
    assert list_trained(tags, rows, waiting=None) == [known]


@pytest.mark.parametrize(
    ("gate", "failed", "is_only_slow"),
    [
        ("refuse", "latency", True),
        ("refuse", "latency | size", False),
        ("refuse", "floor", False),
        ("promote", "", False),
    ],
)
def test_a_refusal_for_latency_alone_is_marked(gate: str, failed: str, is_only_slow: bool) -> None:
    (known,) = list_trained({"2": {"gate": gate, "gate_failed": failed}}, [Row("refuse", "2")], waiting=None)
    assert known.is_only_slow is is_only_slow


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
        {"release": Release(max_latency_ms=900)},
        {"release": Release(max_case_difference=0.1)},
    ],
)
def test_another_gate_is_another_key(change: dict[str, Any]) -> None:
    loop = make_loop()
    assert gate_key(loop) == gate_key(make_loop())
    assert gate_key(loop.model_copy(update=change)) != gate_key(loop)


def test_the_gate_does_not_ask_what_training_or_a_person_decides() -> None:
    loop = make_loop()
    asked = Release(approval="required", approval_days=2)
    assert gate_key(loop.model_copy(update={"release": asked})) == gate_key(loop)
    assert gate_key(loop.model_copy(update={"training": Training(base_model="other")})) == gate_key(loop)


def test_other_labels_are_another_loop() -> None:
    check_labels("toy", ["a", "b"], ["b", "a"])
    with pytest.raises(DataError, match=r"answers \['a', 'c'\], the loop now says \['a', 'b'\].*give it a new name"):
        check_labels("toy", ["a", "b"], ["a", "c"])
