"""Compiles the encoder for the length of a training run; what leaves the run is the module as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from configs.schema import Training

MIN_STEPS = 5000  # compiling takes a minute or more, so `compile: auto` leaves shorter runs alone


def should_compile(training: Training, num_steps: int) -> bool:
    """Say whether torch.compile pays: on a CPU it gains a few per cent and takes most of a minute first."""
    if training.compile == "auto":
        return torch.cuda.is_available() and num_steps >= MIN_STEPS
    return training.compile == "on"


@contextmanager
def compiled(encoder: nn.Module, is_wanted: bool, backend: str = "inductor") -> Iterator[None]:
    """Run the encoder compiled within the block, with the same weights and names; an export must not trace the rest.

    The Trainer's own `torch_compile` sets variables of the process's environment, which the next run would inherit.
    """
    if not is_wanted:
        yield
        return
    encoder.compile(dynamic=True, backend=backend)  # lengths change from batch to batch
    try:
        yield
    finally:
        encoder._compiled_call_impl = None
