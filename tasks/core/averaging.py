"""An exponential moving average of the weights: steadier than the last step's, and often better by the test rows.

Polyak & Juditsky 1992; the warm-up of the decay is TensorFlow's `ExponentialMovingAverage`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

AVERAGE = "average.safetensors"


class WeightAverage:
    """The average of a model's trained weights. Frozen weights have none: theirs is what they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights after `step` steps; the first steps count for more, or the start would linger."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, weight in self._weights.items():
            self._average[name] = self._average[name].to(weight.device).lerp_(weight, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model hold the average within the block, and its own weights again after it."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._put(self._average)
        try:
            yield
        finally:
            self._put(own)

    def save(self, folder: Path) -> None:
        """Write the average beside the other files of a checkpoint."""
        save_file({name: value.contiguous() for name, value in self._average.items()}, folder / AVERAGE)

    def load(self, folder: Path) -> None:
        """Take up the average of a checkpoint."""
        self._average = load_file(folder / AVERAGE)

    def load_into_model(self, folder: Path) -> None:
        """Give the model the average of a checkpoint for good."""
        self._put(load_file(folder / AVERAGE))

    @torch.no_grad()
    def _put(self, values: dict[str, torch.Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
