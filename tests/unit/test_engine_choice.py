import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Gate, Release, Serving
from tasks.core.engine_choice import (
    EngineLimits,
    Trial,
    choose,
    engine_limits,
    judge,
    list_candidates,
    measure_call,
    measure_engines,
    read_table,
    refuse_choice,
    use_choice,
)
from tasks.core.errors import DataError
from tasks.core.predictor import Prediction, Predictor, read_manifest, write_manifest
from tests.support.tiny_bundle import write_tiny_bundle

LIMITS = EngineLimits(min_agreement=0.75, max_difference=0.1, max_macro_f1_loss=0.05)
TEXTS = ["good", "bad", "nothing at all", "good good bad", "bad bad"] * 4
GOLD = np.array([1, 0, 0, 1, 0] * 4)


def answered(*positive: float) -> Prediction:
    probabilities = np.array([[1 - p, p] for p in positive], dtype=np.float32)
    no = np.zeros(len(positive), dtype=bool)
    return Prediction(("negative", "positive"), probabilities, no.astype(np.int64), no, no)


@pytest.mark.parametrize(
    ("ours", "why_not"),
    [
        ((0.9, 0.1, 0.8, 0.48), ""),
        ((0.9, 0.1, 0.8, 0.55), ""),  # a near tie flips, and gold agrees with it: 3 of 4 rows agree
        ((0.8, 0.1, 0.8, 0.33), "differs by up to 0.1500, 0.1000 allowed"),
        ((0.9, 0.1, 0.45, 0.51), "agrees on 50.00% of 4 rows, 75.00% needed; differs by up to 0.3500"),
        ((0.9, 0.52, 0.8, 0.48), "differs by up to 0.4200, 0.1000 allowed; loses 0.2667 macro-F1, 0.0500 allowed"),
    ],
)
def test_an_engine_must_answer_as_the_reference_does(ours: tuple[float, ...], why_not: str) -> None:
    gold = np.array([1, 0, 1, 0]) if ours[3] < 0.5 else np.array([1, 0, 1, 1])
    trial = judge(Trial("onnx-int8"), answered(*ours), answered(0.9, 0.1, 0.8, 0.48), gold, LIMITS)
    assert trial.why_not.startswith(why_not)
    assert trial.passes == (why_not == "")


def test_unknown_is_an_answer_that_must_agree() -> None:
    reference = answered(0.9, 0.1)
    ours = dataclasses.replace(reference, unknown=np.array([True, False]))
    trial = judge(Trial("openvino-bf16"), ours, reference, np.array([1, 0]), LIMITS)
    assert trial.agreement == 0.5
    assert not trial.passes


def trial(engine: str, speed: float | None, why_not: str = "") -> Trial:
    return Trial(engine, why_not, batch_texts_per_second=speed)


@pytest.mark.parametrize(
    ("trials", "asked", "chosen"),
    [
        ([trial("onnx-fp32", 100), trial("onnx-int8", 300), trial("openvino-bf16", 200)], "auto", "onnx-int8"),
        ([trial("onnx-fp32", 100), trial("onnx-int8", 300, "differs"), trial("openvino-bf16", 200)], "auto",
         "openvino-bf16"),
        ([trial("onnx-fp32", 100), trial("onnx-int8", 90)], "auto", "onnx-fp32"),
        ([trial("onnx-fp32", 100), trial("torch-cuda", None, "no device")], "auto", "onnx-fp32"),
        ([trial("onnx-fp32", 100), trial("onnx-int8", 90)], "onnx-int8", "onnx-int8"),
        ([trial("onnx-fp32", 100), trial("onnx-int8", 300, "differs")], "onnx-int8", "onnx-fp32"),
        ([trial("onnx-fp32", 100)], "onnx-fp32", "onnx-fp32"),
    ],
)  # fmt: skip
def test_the_fastest_that_passes_serves_or_the_one_asked_for(trials: list[Trial], asked: str, chosen: str) -> None:
    assert [one.engine for one in choose(trials, asked) if one.is_chosen] == [chosen]


def test_the_limits_are_those_that_gate_and_service_hold_the_version_against() -> None:
    gate = Gate(min_macro_f1=0.5, min_parity=0.99, max_parity_difference=0.03)
    limits = engine_limits(gate, Release(max_case_difference=0.02), Serving(engine_max_macro_f1_loss=0.01))
    assert limits == EngineLimits(0.99, 0.02, 0.01)


def test_which_engines_are_measured() -> None:
    assert list_candidates("auto", False) == ["onnx-fp32", "onnx-int8", "openvino-bf16", "torch-cuda"]
    assert list_candidates("onnx-int8", False) == ["onnx-fp32", "onnx-int8"]
    assert list_candidates("auto", True) == list_candidates("onnx-fp32", False) == ["onnx-fp32"]


def test_shared_weights_and_an_engine_that_keeps_its_own_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="onnx-int8 keeps weights of its own; share_weights needs onnx-fp32"):
        Serving(engine="onnx-int8", share_weights=True)


class Clock:
    """Ticks at every look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_candidate_that_fails_is_a_row_and_the_choice_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")

    def fail() -> None:
        raise RuntimeError("no such instruction")

    with caplog.at_level(logging.INFO):
        table = measure_engines(folder, "onnx-int8", TEXTS, GOLD, LIMITS, 1, 8, {"onnx-int8": fail}, Clock())
    assert [(one.engine, one.is_chosen, one.why_not) for one in table] == [
        ("onnx-fp32", True, ""),
        ("onnx-int8", False, "RuntimeError: no such instruction"),
    ]
    assert read_table(folder) == table
    assert table[0].macro_f1 == 1.0
    assert table[0].batch_texts_per_second == 20 / 3  # a tick per batch of 8, 8 and 4
    assert table[0].single_texts_per_second == 1.0
    assert read_manifest(folder).engine == "onnx-fp32"
    assert read_manifest(folder).call_tokens == table[0].call_tokens
    assert "engine onnx-int8: not timed; RuntimeError: no such instruction" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == [
        "cases.json", "engines.json", "model.onnx", "predictor.json", "tokenizer.json",
    ]  # fmt: skip


def test_a_bundle_that_its_reference_cannot_run_is_an_error(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError, match="not a usable bundle"):
        measure_engines(folder, "auto", TEXTS, GOLD, LIMITS, 1, 8, {})


def test_a_call_costs_what_a_straight_line_says(tmp_path: Path) -> None:
    predictor = Predictor.load(write_tiny_bundle(tmp_path / "bundle"), 1)

    class Engine:
        """Takes 12 seconds a call and 3 a token."""

        name, token_step, streams = "counted", 1, 1
        seconds = 0.0

        def run(self, batches: Any, outputs: Any) -> Any:
            given = list(batches)
            self.seconds += sum(12 + 3 * input_ids_BT.size for input_ids_BT, _ in given)
            return predictor_engine.run(given, outputs)

    predictor_engine, engine = predictor.engine, Engine()
    predictor.engine = engine
    assert measure_call(predictor, TEXTS, 8, lambda: engine.seconds) == pytest.approx(4.0)
    assert measure_call(predictor, TEXTS[:1], 8, lambda: engine.seconds) == 1.0
    assert measure_call(predictor, TEXTS, 8, lambda: 0.0) == 8 * 16  # a batch is as quick as a text: never split


def test_a_choice_that_the_test_rows_refuse_gives_way_to_the_reference(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    (folder / "model.int8.onnx").write_bytes((folder / "model.onnx").read_bytes())
    table = [Trial("onnx-fp32", call_tokens=3.0), Trial("onnx-int8", is_chosen=True, call_tokens=5.0)]
    use_choice(folder, table)
    assert Predictor.load(folder, 1).engine.name == "onnx-int8"
    use_choice(folder, refuse_choice(table, "on the 90 test rows"))
    assert Predictor.load(folder, 1).engine.name == "onnx-fp32"
    assert read_manifest(folder).call_tokens == 3.0
    assert [(one.why_not, one.is_chosen) for one in read_table(folder)] == [("", True), ("on the 90 test rows", False)]
    assert not (folder / "model.int8.onnx").exists()


@pytest.mark.parametrize("engine", ["torch-cuda", "openvino-bf16", "of-a-later-version"])
def test_where_an_engine_cannot_run_the_reference_answers_with_one_warning(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    expected = Predictor.load(folder, 1).predict(TEXTS).probabilities
    write_manifest(folder, dataclasses.replace(read_manifest(folder), engine=engine))
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with caplog.at_level(logging.WARNING):
        predictor = Predictor.load(folder, 1)
    assert predictor.engine.name == "onnx-fp32"
    assert predictor.predict(TEXTS).probabilities == pytest.approx(expected)
    (record,) = caplog.records
    assert f"its engine {engine} cannot run here: " in record.getMessage()
    with pytest.raises(DataError):
        Predictor.load(folder, 1, engine=engine)


def test_a_bundle_that_is_older_than_engines_is_answered_by_the_reference(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    old = ("loop", "labels", "temperature", "max_tokens", "pad_token_id")
    (folder / "predictor.json").write_text(json.dumps({name: fields[name] for name in old}), encoding="utf-8")
    predictor = Predictor.load(folder, 1)
    assert predictor.engine.name == "onnx-fp32"
    assert predictor.manifest.long_texts == "truncate"
    assert predictor.largest_case_difference() < 1e-6
    assert read_table(folder) == []
