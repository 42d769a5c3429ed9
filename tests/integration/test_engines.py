"""Real engines on a real encoder: measured at export, faithful, and sharing what they have in common."""

import dataclasses
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from prefect.logging import disable_run_logger
from transformers import AutoModel, AutoTokenizer

from configs.schema import Gate, Lora, Serving, Unknown
from tasks.core import shared_weights
from tasks.core.adapters import add_adapter
from tasks.core.classifier import Classifier, ClassifierShape
from tasks.core.engine_choice import EngineLimits, Trial, read_table
from tasks.core.engines import EngineUnavailable, OnnxEngine, open_engine
from tasks.core.export import Answering, checkpoint_logits, export_bundle
from tasks.core.predictor import Predictor, read_manifest, write_manifest
from tasks.core.shared_weights import index_weights
from tasks.core.torch_engine import TorchEngine
from tasks.evaluation import _load_faithful
from tasks.stores.model_registry import SERVING_MODULES
from tests.support.tiny_base import make_rows, write_tiny_base
from tests.support.tiny_bundle import write_tiny_bundle

LABELS = ("negative", "positive")
ROWS, TRAIN = make_rows(96, seed=2), make_rows(200, seed=1)
TEXTS = ROWS["text"].tolist()
GOLD = (ROWS["label"] == "positive").to_numpy(dtype=np.int64)
LONG = " ".join(TEXTS[:20])
WIDE = EngineLimits(min_agreement=0.5, max_difference=0.5, max_macro_f1_loss=0.5)  # a net of this size is no judge


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def classifier_on(base: Path, seed: int = 1, lora: Lora | None = None) -> Classifier:
    encoder = AutoModel.from_pretrained(base)
    torch.manual_seed(seed)
    if lora is not None:
        encoder = add_adapter(encoder, lora)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)  # as if it had learned: a new adapter changes nothing
    return Classifier(encoder, ClassifierShape(LABELS, "mean", 64, False)).eval()


def export(
    base: Path, folder: Path, serving: Serving, limits: EngineLimits = WIDE, seed: int = 1, lora: Lora | None = None
) -> Predictor:
    answering = Answering(serving, limits, 1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    classifier = classifier_on(base, seed, lora)
    scope = Unknown(max_refused_share=0.1)
    return export_bundle(
        classifier, tokenizer, "toy", TEXTS, GOLD, folder, unknown=scope, train=TRAIN, answering=answering
    )


def by_name(folder: Path) -> dict[str, Trial]:
    return {trial.engine: trial for trial in read_table(folder)}


def test_every_engine_is_measured_and_the_chosen_one_serves(base: Path, tmp_path: Path) -> None:
    predictor = export(base, tmp_path / "b", Serving(max_batch=16))
    table = by_name(tmp_path / "b")
    assert set(table) == {"onnx-fp32", "onnx-int8", "openvino-bf16", "torch-cuda"}
    timed = {name: trial for name, trial in table.items() if trial.batch_texts_per_second}
    assert set(timed) >= {"onnx-fp32", "onnx-int8"}
    (chosen,) = (trial for trial in table.values() if trial.is_chosen)
    assert chosen.batch_texts_per_second == max(
        trial.batch_texts_per_second or 0 for trial in timed.values() if trial.passes
    )
    assert predictor.engine.name == predictor.manifest.engine == chosen.engine
    assert predictor.manifest.call_tokens == chosen.call_tokens
    assert predictor.largest_case_difference() <= (chosen.largest_difference or 0) + 1e-3
    kept = {path.name for path in (tmp_path / "b").iterdir()}
    assert {"model.int8.onnx"} & kept == ({"model.int8.onnx"} if chosen.engine == "onnx-int8" else set())
    assert "torch" not in kept or chosen.engine == "torch-cuda"


@pytest.mark.parametrize("engine", ["onnx-int8", "openvino-bf16"])
def test_an_engine_that_is_asked_for_serves_close_to_the_reference_or_says_why_not(
    base: Path, tmp_path: Path, engine: str
) -> None:
    predictor = export(base, tmp_path / "b", Serving(engine=engine))
    trial = by_name(tmp_path / "b")[engine]
    if trial.why_not == "the processor has no bfloat16 arithmetic":
        pytest.skip(trial.why_not)
    assert trial.is_chosen
    assert trial.agreement is not None
    assert trial.agreement > 0.9
    reference = Predictor.load(tmp_path / "b", 1, engine="onnx-fp32")
    ours, theirs = predictor.predict(TEXTS), reference.predict(TEXTS)
    assert 0 < np.abs(ours.probabilities - theirs.probabilities).max() < 0.1
    np.testing.assert_allclose(predictor.predict(TEXTS).probabilities, ours.probabilities, atol=0.02)
    spread = theirs.unknown.mean() - ours.unknown.mean()
    assert abs(spread) < 0.1  # closeness too is that of the reference, though its squares are large
    assert predictor.predict(["great"]).probabilities.shape == (1, 2)


def test_an_engine_that_does_not_pass_gives_way_to_the_reference(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    narrow = dataclasses.replace(WIDE, max_difference=1e-7)
    with caplog.at_level(logging.INFO):
        predictor = export(base, tmp_path / "b", Serving(engine="onnx-int8"), narrow)
    assert predictor.engine.name == "onnx-fp32"
    assert "allowed" in by_name(tmp_path / "b")["onnx-int8"].why_not
    assert "engine onnx-int8: " in caplog.text
    assert "Quantization parameters" not in caplog.text  # a line per tensor, of the quantiser
    assert not (tmp_path / "b" / "model.int8.onnx").exists()


def test_torch_answers_as_the_reference_with_a_merged_adapter_and_closeness(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.torch_engine.check_device", lambda device: None)
    on_cpu = lambda folder: TorchEngine(folder, "cpu")  # noqa: E731 - the code path of CUDA, on the device there is
    monkeypatch.setattr("tasks.core.engines._open_torch", on_cpu)
    predictor = export(base, tmp_path / "b", Serving(engine="torch-cuda"), lora=Lora(rank=4))
    assert predictor.engine.name == "torch-cuda"
    trial = by_name(tmp_path / "b")["torch-cuda"]
    assert trial.largest_difference is not None
    assert trial.largest_difference < 1e-4
    assert trial.agreement == 1.0
    reference = Predictor.load(tmp_path / "b", 1, engine="onnx-fp32")
    np.testing.assert_allclose(
        predictor.measure_closeness(TEXTS), reference.measure_closeness(TEXTS), rtol=2e-3, atol=0.05
    )
    suffixes = {path.suffix for path in (tmp_path / "b" / "torch").iterdir()}
    assert suffixes <= {".json", ".safetensors"}


def test_an_engine_that_misses_the_gates_parity_on_test_rows_gives_way_before_the_gate(
    base: Path, tmp_path: Path
) -> None:
    predictor = export(base, tmp_path / "b", Serving(engine="onnx-int8"))
    assert predictor.engine.name == "onnx-int8"
    logits = checkpoint_logits(classifier_on(base), AutoTokenizer.from_pretrained(base), TEXTS)
    gate = Gate(min_macro_f1=0.5, min_parity=0.5, max_parity_difference=0.5)
    with disable_run_logger():
        kept, parity = _load_faithful(tmp_path / "b", logits, TEXTS, gate)
        assert (kept.engine.name, parity.largest_difference > 1e-4) == ("onnx-int8", True)
        narrow = gate.model_copy(update={"max_parity_difference": 1e-4})
        kept, parity = _load_faithful(tmp_path / "b", logits, TEXTS, narrow)
    assert (kept.engine.name, parity.largest_difference < 1e-4) == ("onnx-fp32", True)
    assert Predictor.load(tmp_path / "b").engine.name == "onnx-fp32"
    why_not = by_name(tmp_path / "b")["onnx-int8"].why_not
    assert why_not.startswith("on the 96 test rows: export agrees with checkpoint on ")
    assert not (tmp_path / "b" / "model.int8.onnx").exists()


def test_windows_read_all_of_a_long_text(base: Path, tmp_path: Path) -> None:
    serving = Serving(engine="onnx-fp32", long_texts="window", window_overlap=0.25)
    predictor = export(base, tmp_path / "b", serving)
    assert (predictor.manifest.long_texts, predictor.manifest.window_overlap) == ("window", 16)
    answered = predictor.predict([LONG, TEXTS[0]])
    assert answered.truncated.tolist() == [False, False]
    assert answered.n_tokens[0] > 64
    beginning = predictor.reading(long_texts="truncate").predict([LONG, TEXTS[0]])
    assert beginning.truncated.tolist() == [True, False]
    assert answered.probabilities[1] == pytest.approx(beginning.probabilities[1], abs=1e-5)
    assert np.abs(answered.probabilities[0] - beginning.probabilities[0]).max() > 1e-4
    assert predictor.predict([LONG], 2).probabilities == pytest.approx(answered.probabilities[:1], abs=1e-5)


def weights_of(predictor: Predictor) -> list[shared_weights.Weight]:
    assert isinstance(predictor.engine, OnnxEngine)
    return predictor.engine.weights


def test_loops_with_adapters_on_one_base_hold_its_weights_once(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.core.export.index_weights", lambda paths: index_weights(paths, 2048))
    shared, lora = Serving(share_weights=True), Lora(rank=4)
    first, second = (export(base, tmp_path / str(n), shared, seed=n, lora=lora) for n in (1, 2))
    mine, theirs = weights_of(first), weights_of(second)
    same = [one is other for one, other in zip(mine, theirs, strict=True)]
    assert sum(same) == len(same) - 1 > 10  # every matrix of both layers, not the scope's
    ours, other = first.predict(TEXTS).probabilities, second.predict(TEXTS).probabilities
    assert np.abs(ours - other).max() > 0.01
    merged = export(base, tmp_path / "merged", Serving(engine="onnx-fp32"), seed=1, lora=lora)
    assert ours == pytest.approx(merged.predict(TEXTS).probabilities, abs=1e-4)


def write_large_bundle(folder: Path, num_rows: int) -> Path:
    """Write the tiny bundle with an embedding table of so many rows of 16 bytes more."""
    write_tiny_bundle(folder, labels=["a", "b", "c", "d"])
    model = onnx.load(str(folder / "model.onnx"))
    (table,) = (one for one in model.graph.initializer if one.name == "table")
    random = np.random.default_rng(0).random((num_rows, 4), dtype=np.float32)
    table.CopyFrom(numpy_helper.from_array(np.concatenate([numpy_helper.to_array(table), random]), "table"))
    onnx.save(model, str(folder / "model.onnx"))
    index_weights([folder / "model.onnx"])
    return folder


MEASURE = """
import sys, psutil
from pathlib import Path
from tasks.core.predictor import Predictor
held = []
def memory(): return psutil.Process().memory_info().rss
for folder in sys.argv[1:]:
    held.append(Predictor.load(Path(folder), 1))
    assert held[-1].predict(["good", "bad"]).answers == ["d", "a"]
    print(memory())
assert len({id(one.engine.weights[0]) for one in held}) == 1
"""


def test_a_frozen_table_is_in_memory_once_however_many_versions_serve(tmp_path: Path) -> None:
    folders = [write_large_bundle(tmp_path / str(number), 4_000_000) for number in range(4)]  # 64 MB each
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, folders)], check=True, capture_output=True, text=True, timeout=120
    )
    first, *others = (int(line) / 1e6 for line in told.stdout.split())
    assert others[-1] - first < 64  # three more tables would be 192


def test_a_table_is_let_go_with_its_last_version(tmp_path: Path) -> None:
    folder = write_large_bundle(tmp_path / "b", 40_000)
    one, two = Predictor.load(folder, 1), Predictor.load(folder, 1)
    digest = next(iter(shared_weights._held))
    del one
    assert digest in shared_weights._held
    assert two.predict(["good"]).answers == ["d"]
    del two
    assert digest not in shared_weights._held


TELEMETRY = """
import sys
from pathlib import Path
from tasks.core.engines import EngineUnavailable, open_engine
try:
    open_engine("openvino-bf16", Path(sys.argv[1]), 1)
except EngineUnavailable as error:
    print(error)
import openvino.tools.ovc.telemetry_utils as utils
print(utils.tm.__name__)
"""


def test_openvino_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """Its import would, through a package that pip installs with it."""
    (tmp_path / "openvino_telemetry").mkdir()
    (tmp_path / "openvino_telemetry" / "__init__.py").write_text("raise SystemExit('reported')", encoding="utf-8")
    folder = write_tiny_bundle(tmp_path / "bundle")
    told = subprocess.run(
        [sys.executable, "-c", TELEMETRY, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": f"{Path.cwd()}:{tmp_path}"},
        check=False,
    )
    assert (told.returncode, told.stdout.splitlines()[-1:]) == (0, ["openvino.tools.ovc.telemetry_stub"]), told.stderr


ALONE = """
import sys
from pathlib import Path
from tasks.core.predictor import Predictor
print(Predictor.load(Path(sys.argv[1]), 1).predict(["good", "bad"]).answers)
print(sorted(name for name in ("torch", "openvino", "onnx", "configs", "pandas") if name in sys.modules))
"""


def test_the_modules_that_travel_with_a_version_answer_without_the_rest_of_the_house(tmp_path: Path) -> None:
    core = tmp_path / "alone" / "tasks" / "core"
    core.mkdir(parents=True)
    for name in SERVING_MODULES:
        (core / name).write_bytes((Path("tasks/core") / name).read_bytes())
    bundle = write_tiny_bundle(tmp_path / "bundle")
    write_manifest(bundle, dataclasses.replace(read_manifest(bundle), long_texts="window", window_overlap=2))
    told = subprocess.run(
        [sys.executable, "-c", ALONE, str(bundle)],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path / "alone",
        env={"PYTHONPATH": "."},
    )
    assert told.stdout.splitlines() == ["['positive', 'negative']", "[]"]


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-bf16"])
def test_engines_answer_calls_from_several_threads(tmp_path: Path, name: str) -> None:
    try:
        engine = open_engine(name, write_tiny_bundle(tmp_path / "bundle"), 1)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    ids = [np.full((size, 4), 2 + size % 2, dtype=np.int64) for size in range(1, 33)] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: engine.run([(one, np.ones_like(one))], ["logits"])[0][0], ids))
    for one, logits in zip(ids, found, strict=True):
        assert logits.shape == (len(one), 2)
        assert (logits.argmax(1) == 1 - len(one) % 2).all()


@pytest.mark.parametrize("name", ["onnx-fp32", "openvino-bf16"])
@pytest.mark.parametrize("threads", [1, 2])
def test_several_batches_are_answered_in_their_order(tmp_path: Path, name: str, threads: int) -> None:
    try:
        engine = open_engine(name, write_tiny_bundle(tmp_path / "bundle"), threads)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert engine.streams == (threads if name == "openvino-bf16" else 1)
    sizes = [7, 1, 12, 3, 3, 9]
    batches = [(np.full((size, 4), 2 + at % 2, dtype=np.int64), np.ones((size, 4), dtype=np.int64))
               for at, size in enumerate(sizes)]  # fmt: skip
    together = engine.run(batches, ["logits"])
    assert [len(logits) for (logits,) in together] == sizes
    for at, batch in enumerate(batches):
        ((alone,),) = engine.run([batch], ["logits"])
        np.testing.assert_allclose(together[at][0], alone, atol=0.02)
        assert (alone.argmax(1) == 1 - at % 2).all()
    assert engine.run([], ["logits"]) == []
