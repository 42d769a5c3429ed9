"""Part `device`: how fast the embedded model trains and answers on a CUDA card, and what share of its peak that is.

A text of t tokens costs, in the forward pass of an encoder with P weights outside its embeddings, L layers and width D
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with both products of attention): 2 P t + 4 L D t^2 floating-point
operations; training costs three times that. Padding is not counted as work. The peak is what a large matrix product in
bf16 reaches on this card, not the data sheet's figure.
"""

import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from configs.load import load_loop
from configs.schema import Training
from tasks.core.classifier import load_encoder, load_tokenizer
from tasks.core.export import checkpoint_logits
from tasks.core.fine_tuning import FineTuned, fine_tune
from tasks.core.trainer import Progress
from tests.bench.training.problems import Problem, base_model_folder, preset_training, problem_of_loop
from tests.bench.training.units import Bench, Record

BATCH_SIZE = 256
STEPS = 200
MATRIX = 8192
VARIANTS: tuple[tuple[str, str], ...] = (("fp32", "off"), ("bf16", "off"), ("fp32", "on"), ("bf16", "on"))


def measure_device(bench: Bench) -> dict[str, Any] | None:
    """Return texts per second of training and inference in four variants; None without a CUDA device."""
    if not torch.cuda.is_available():
        return None
    problem = problem_of_loop(load_loop(bench.loop_file), bench.loop_file.parent, bench)
    peak = peak_flops(torch.device("cuda"))
    flops = flops_per_text(problem, bench)
    found: dict[str, Any] = {"name": torch.cuda.get_device_name(), "peak_tflops": peak / 1e12}
    for precision, compiled in VARIANTS:
        changes = {"precision": precision, "compile": compiled, "batch_size": BATCH_SIZE, "max_steps": STEPS,
                   "epochs": 100.0, "early_stopping_patience": None}  # fmt: skip
        training = preset_training(bench, "balanced", bench.seeds[0]).model_copy(update=changes)
        name = f"{precision}, compile {compiled}"
        recipe = training.model_dump(exclude={"base_model"})
        settings = bench.settings(device=found["name"], rows=problem.fingerprint, **recipe)
        record = bench.ledger.unit(f"device/{name}", settings, partial(measure_variant, problem, training, bench))
        share = 3 * flops * record["training_texts_per_second"] / peak
        found[name] = {**record, "share_of_peak": share}
    return found


def print_device(found: dict[str, Any]) -> None:
    """Print one line per variant."""
    print(f"device: {found['name']}, {found['peak_tflops']:.0f} TFLOP/s in a bf16 product of {MATRIX} x {MATRIX}")
    print(f"{'':18} {'trained/s':>10} {'answered/s':>11} {'share of peak':>14}")
    for precision, compiled in VARIANTS:
        row = found[f"{precision}, compile {compiled}"]
        print(f"{precision}, compile {compiled:5} {row['training_texts_per_second']:10.0f} "
              f"{row['inference_texts_per_second']:11.0f} {row['share_of_peak']:14.2%}")  # fmt: skip


def measure_variant(problem: Problem, training: Training, bench: Bench) -> Record:
    """Train for some steps through our own door, then answer the training texts with the network itself."""
    marks: list[tuple[int, float]] = []

    def note(progress: Progress) -> None:
        if "loss" in progress.metrics:  # an evaluation is not a training step
            marks.append((progress.step, time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune(problem.train, problem.validation, problem.labels, training, base_model_folder(bench),
                          Path(folder), note)  # fmt: skip
    return {
        "training_texts_per_second": _fastest_rate(marks) * training.batch_size,
        "inference_texts_per_second": _inference_rate(tuned, problem, training),
        "precision": tuned.precision,
        "device": tuned.device,
    }


def flops_per_text(problem: Problem, bench: Bench) -> float:
    """Return the forward pass's floating-point operations, mean over train texts."""
    encoder, tokenizer = load_encoder(base_model_folder(bench)), load_tokenizer(base_model_folder(bench))
    tables = getattr(encoder, "embeddings", encoder.get_input_embeddings())
    embeddings = sum(parameter.numel() for parameter in tables.parameters())
    weights = sum(parameter.numel() for parameter in encoder.parameters()) - embeddings
    attention = 4 * encoder.config.num_hidden_layers * encoder.config.hidden_size
    ids = tokenizer(problem.train["text"].tolist(), truncation=True, max_length=128)["input_ids"]
    return float(sum(2 * weights * len(row) + attention * len(row) ** 2 for row in ids) / len(ids))


def peak_flops(device: torch.device, size: int = MATRIX, repeats: int = 20) -> float:
    """Return the floating-point operations per second of square bf16 matrix products."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        left @ right
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def _inference_rate(tuned: FineTuned, problem: Problem, training: Training) -> float:
    device = torch.device(tuned.device)
    classifier, texts = tuned.classifier.to(device), problem.train["text"].tolist()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=tuned.precision == "bf16"):
            checkpoint_logits(classifier, tuned.tokenizer, texts, training.batch_size)
        seconds.append(time.perf_counter() - started)
    return len(texts) / min(seconds)


def _fastest_rate(marks: list[tuple[int, float]]) -> float:
    """Return the steps per second of the fastest stretch between two logs: no evaluation, no compiling."""
    return max((later - step) / (then - now) for (step, now), (later, then) in pairwise(marks))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
