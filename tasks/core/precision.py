"""Chooses the arithmetic of a training run: bf16 where the hardware makes it faster, else fp32."""

import time
from pathlib import Path
from typing import Any, Literal

import torch

from tasks.core.processes import agree, rank

TRIAL_STEPS = 3
MIN_SPEEDUP = 1.1  # below it, timing noise could decide


def settle_precision(
    classifier: torch.nn.Module, batch: dict[str, Any], wanted: Literal["auto", "fp32", "bf16"], note: Path
) -> str:
    """Return the arithmetic that a run began with, as the file `note` says, or the one it begins with now.

    A run that goes on after a kill must repeat itself, and a second trial on a busier machine could end otherwise.
    """
    if wanted == "auto" and agree(note.is_file()):
        return note.read_text(encoding="utf-8")
    precision = choose_precision(classifier, batch, wanted)
    if rank() == 0:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(precision, encoding="utf-8")
    return precision


def choose_precision(
    classifier: torch.nn.Module, batch: dict[str, Any], wanted: Literal["auto", "fp32", "bf16"]
) -> str:
    """Return `bf16` or `fp32`; `auto` times a few forward and backward passes on a CPU.

    bf16 pays on processors with AMX or AVX512-BF16 and loses on others, so it is measured rather than assumed. No
    weight changes here. One process measures for all: they must not disagree.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    is_faster = False
    if rank() == 0:
        fp32, bf16 = (_seconds_per_step(classifier, batch, enabled) for enabled in (False, True))
        is_faster = fp32 / bf16 >= MIN_SPEEDUP
    return "bf16" if agree(is_faster) else "fp32"


def _seconds_per_step(classifier: torch.nn.Module, batch: dict[str, Any], autocast: bool) -> float:
    """Return the fastest of a few steps: the least disturbed one."""
    seconds = []
    for _ in range(TRIAL_STEPS):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = classifier(**batch)["loss"]
        loss.backward()
        seconds.append(time.perf_counter() - started)
        classifier.zero_grad(set_to_none=True)
    return min(seconds)
