"""Chooses the arithmetic of a training run: bf16 where the hardware makes it faster, else fp32."""

import time
from typing import Any, Literal

import torch

TRIAL_STEPS = 3
MIN_SPEEDUP = 1.1  # below it, timing noise could decide


def choose_precision(
    classifier: torch.nn.Module, batch: dict[str, Any], wanted: Literal["auto", "fp32", "bf16"]
) -> str:
    """Return `bf16` or `fp32`; `auto` times a few forward and backward passes on a CPU.

    bf16 pays on processors with AMX or AVX512-BF16 and loses on others, so it is measured rather than assumed. No
    weight changes here.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    fp32, bf16 = (_seconds_per_step(classifier, batch, enabled) for enabled in (False, True))
    return "bf16" if fp32 / bf16 >= MIN_SPEEDUP else "fp32"


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
