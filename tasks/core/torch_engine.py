"""The network in torch, for machines with a CUDA device: weights as safetensors, half precision.

The folder holds the encoder in Hugging Face's format, adapters merged, and what follows the encoder.
Shapes: B texts, T tokens, C classes, D hidden size.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from tasks.core.engines import Batch, EngineUnavailable
from tasks.core.pooling import Pooling, pool

TAIL = "tail.safetensors"


def save_network(encoder: Any, tail: Mapping[str, torch.Tensor], pooling: Pooling, folder: Path) -> None:
    """Write an encoder without adapters, and `head.weight` [C, D], `head.bias` [C], perhaps `whitening` and `means`."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save_pretrained(folder)
    save_file({name: value.detach().cpu().contiguous() for name, value in tail.items()}, folder / TAIL)
    (folder / "pooling.json").write_text(json.dumps(pooling), encoding="utf-8")


def check_device(device: str) -> None:
    """Raise EngineUnavailable where torch cannot use the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineUnavailable("there is no CUDA device")


class TorchEngine:
    """Runs the network on a device: float16 on CUDA, where its 10 bits of mantissa lose less than bfloat16's 7."""

    name = "torch-cuda"
    token_step = 8  # tensor cores work on multiples of it
    streams = 1

    def __init__(self, folder: Path, device: str) -> None:
        check_device(device)
        dtype = torch.float16 if device == "cuda" else torch.float32
        encoder = AutoModel.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
        encoder.config.use_cache = False
        self._encoder = encoder.to(device)
        self._tail = {name: value.to(device) for name, value in load_file(folder / TAIL).items()}  # stays float32
        self._pooling: Pooling = json.loads((folder / "pooling.json").read_text(encoding="utf-8"))
        self._device = device

    def run(self, batches: Iterable[Batch], outputs: Sequence[str]) -> list[list[npt.NDArray[np.float32]]]:
        """Return the named outputs of each batch, in order: `logits` [B, C], `closeness` [B]."""
        return [self._run_one(*batch, outputs) for batch in batches]

    @torch.inference_mode()
    def _run_one(
        self, input_ids_BT: npt.NDArray[np.int64], attention_mask_BT: npt.NDArray[np.int64], outputs: Sequence[str]
    ) -> list[npt.NDArray[np.float32]]:
        ids, mask = (torch.from_numpy(array).to(self._device) for array in (input_ids_BT, attention_mask_BT))
        hidden_BTD = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        sentence_BD = pool(hidden_BTD.float(), mask, self._pooling)
        found = {"logits": torch.nn.functional.linear(sentence_BD, self._tail["head.weight"], self._tail["head.bias"])}
        if "closeness" in outputs:
            from_means_BCD = (sentence_BD @ self._tail["whitening"]).unsqueeze(1) - self._tail["means"]
            found["closeness"] = -(from_means_BCD**2).sum(2).min(1).values
        return [found[name].cpu().numpy() for name in outputs]
