"""Several processes train the very model that one trains; the ones that die are started again; none is left over."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch

from configs.schema import Training
from configs.settings import Settings
from tasks.core.classifier import Classifier, ClassifierShape, load_classifier, load_encoder, load_tokenizer
from tasks.core.encoding import Collator, encode_rows
from tasks.core.errors import DataError
from tasks.core.export import checkpoint_logits
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.trainer import ClassifierTrainer, Progress, make_arguments
from tasks.launching import fine_tune_somewhere
from tasks.ray_training import _has_gpus
from tests.support.tiny_base import make_rows, write_tiny_base

LABELS = ["negative", "positive"]
TRAIN, VALIDATION, TEST = make_rows(240, seed=1), make_rows(60, seed=2), make_rows(90, seed=3)
TRAINING = Training(
    base_model="unused",
    epochs=2,
    batch_size=15,  # two processes have 8 and 7 rows of it, which must count alike
    learning_rate=3e-3,
    head_learning_rate=1e-2,
    precision="fp32",
)
STEPS = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuned:
    folder = tmp_path_factory.mktemp("alone")
    return fine_tune(TRAIN, VALIDATION, LABELS, TRAINING, str(base), folder, lambda _: None)


def logits(tuned: FineTuned) -> npt.NDArray[np.float32]:
    return checkpoint_logits(tuned.classifier, tuned.tokenizer, TEST["text"].tolist())


def assert_same(tuned: FineTuned, alone: FineTuned) -> None:
    assert tuned.steps == alone.steps == STEPS
    assert tuned.validation_macro_f1 == pytest.approx(alone.validation_macro_f1, abs=0.02)
    assert np.abs(logits(tuned) - logits(alone)).max() < 0.05


def workers_of(job: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(job) in command and "tasks.core.training_worker" in command:
            found.append(process)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


def workers_except_torchrun(job: Path) -> list[psutil.Process]:
    return [process for process in workers_of(job) if "torch.distributed.run" not in process.cmdline()]


def test_two_processes_one_of_which_is_killed_train_the_model_of_one(
    base: Path, alone: FineTuned, tmp_path: Path
) -> None:
    home = Settings(home=tmp_path, training_processes=2)
    job = tmp_path / "run" / "job"
    seen: list[Progress] = []
    killed: list[int] = []

    def watch(progress: Progress) -> None:
        seen.append(progress)
        if progress.step >= 14 and not killed:
            victim = max(workers_except_torchrun(job), key=lambda process: process.pid)
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    tuned = fine_tune_somewhere(home, job.parent, TRAIN, VALIDATION, LABELS, TRAINING, str(base), watch)
    assert killed
    assert tuned.resumed_from > 0
    assert_same(tuned, alone)
    assert seen[-1].step == STEPS
    assert not workers_of(job)


def test_an_error_of_the_watcher_ends_the_workers(base: Path, tmp_path: Path) -> None:
    home = Settings(home=tmp_path, training_processes=2)

    def prune(progress: Progress) -> None:
        raise KeyError("pruned")

    with pytest.raises(KeyError, match="pruned"):
        fine_tune_somewhere(home, tmp_path / "run", TRAIN, VALIDATION, LABELS, TRAINING, str(base), prune)
    assert not workers_of(tmp_path / "run" / "job")


def test_a_workers_error_comes_back_in_its_own_words(tmp_path: Path) -> None:
    home = Settings(home=tmp_path, training_processes=2)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"training\.base_model: '.*nowhere' holds no loadable tokenizer"):
        fine_tune_somewhere(
            home, tmp_path / "run", TRAIN, VALIDATION, LABELS, TRAINING, nowhere, lambda _: None
        )  # fmt: skip


def test_ray_that_is_not_installed_is_named(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", None)
    home = Settings(home=tmp_path, ray_address="auto")
    with pytest.raises(DataError, match=r"EVERTUNE_RAY_ADDRESS is set, .* python -m pip install 'evertune\[ray\]'"):
        fine_tune_somewhere(home, tmp_path / "run", TRAIN, VALIDATION, LABELS, TRAINING, str(base), lambda _: None)


def test_a_cluster_decides_about_gpus_not_the_machine_that_asks() -> None:
    assert _has_gpus({"CPU": 8.0, "GPU": 2.0})
    assert not _has_gpus({"CPU": 8.0})


@pytest.mark.parametrize("sizes", [(8, 7), (3, 1)])
def test_rows_count_alike_however_unevenly_processes_share_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    """What DDP averages over the processes is the loss of the whole batch."""
    tokenizer = load_tokenizer(str(base))
    rows = encode_rows(TRAIN.head(sum(sizes)), tokenizer, LABELS, 32)
    torch.manual_seed(0)
    classifier = Classifier(load_encoder(str(base)), ClassifierShape(tuple(LABELS), "mean", 32, False))
    collate = Collator(0)
    trainer = ClassifierTrainer(
        model=classifier,
        args=make_arguments(TRAINING, tmp_path, 15, "fp32"),
        eval_dataset=rows,
        data_collator=collate,
        rows_per_batch=15,
    )
    for module in classifier.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    classifier.train()
    with torch.no_grad():
        whole = trainer.compute_loss(classifier, collate([rows[row] for row in range(len(rows))]))
        monkeypatch.setattr("tasks.core.trainer.world_size", lambda: 2)
        monkeypatch.setattr("tasks.core.trainer.add_up", lambda number, device: torch.tensor(float(sum(sizes))))
        shares = [range(sizes[0]), range(sizes[0], len(rows))]
        losses = [trainer.compute_loss(classifier, collate([rows[row] for row in share])) for share in shares]
    assert float(sum(losses) / 2) == pytest.approx(float(whole), abs=1e-6)


RAY_RUN = """
import json, os, signal, sys
from pathlib import Path
import psutil
from configs.settings import Settings
from tasks.core.training_worker import save_classifier
from tasks.launching import fine_tune_somewhere
from tests.integration.test_launching import LABELS, TRAIN, TRAINING, VALIDATION

home, base = Path(sys.argv[1]), sys.argv[2]
killed = []

def watch(progress):
    if progress.step >= 14 and not killed:
        ours = psutil.Process().children(recursive=True)
        workers = [one for one in ours if "".join(one.cmdline()[:1]).startswith("ray::RayTrainWorker")]
        killed.append(workers[-1].pid)
        os.kill(workers[-1].pid, signal.SIGKILL)

settings = Settings(home=home, training_processes=2, ray_address="local", ray_storage=home / "shared")
tuned = fine_tune_somewhere(settings, home / "loop" / "run", TRAIN, VALIDATION, LABELS, TRAINING, base, watch)
assert not (home / "shared" / "loop" / "run").exists()  # nobody else would delete the rows in it
save_classifier(tuned.classifier, tuned.tokenizer, home / "result")
numbers = {"steps": tuned.steps, "resumed_from": tuned.resumed_from, "f1": tuned.validation_macro_f1}
(home / "numbers.json").write_text(json.dumps(numbers | {"killed": killed}))
"""


@pytest.mark.timeout(600)  # a cluster starts twice, and imports torch in each of its workers
def test_a_ray_cluster_one_of_whose_workers_is_killed_trains_the_model_of_one(
    base: Path, alone: FineTuned, tmp_path: Path
) -> None:
    """In a process of its own: Ray leaves threads and warnings behind."""
    words = tmp_path / "words.log"
    with words.open("wb") as output:
        code = subprocess.run(
            [sys.executable, "-c", RAY_RUN, str(tmp_path), str(base)],
            stdout=output,
            stderr=output,
            check=False,
            timeout=500,
        ).returncode
    assert code == 0, words.read_text(encoding="utf-8", errors="replace")[-3000:]
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert numbers["killed"]
    assert numbers["resumed_from"] > 0
    loaded = load_classifier(tmp_path / "result")
    assert_same(
        replace(
            alone,
            classifier=loaded,
            steps=numbers["steps"],
            validation_macro_f1=numbers["f1"],
        ),
        alone,
    )
