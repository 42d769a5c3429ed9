"""LoRA and DoRA: a small trained update beside a base model that stays as it was, so only the update need be kept."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from configs.schema import Lora, Training
from tasks.core.errors import DataError

BASE_FILE = "base.json"  # beside an adapter: what it is an update of
VALUES_PER_TENSOR = 64


@dataclass(frozen=True)
class BaseIdentity:
    """The base model that an adapter belongs to: where it is found, and how to know that it is the same one."""

    base_model: str
    fingerprint: str


def add_adapter(encoder: Any, lora: Lora) -> Any:
    """Return the encoder frozen, with an update to learn beside each of its linear layers."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if lora.quantization == "4bit":
        encoder = prepare_model_for_kbit_training(encoder, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        target_modules="all-linear",
    )
    return get_peft_model(encoder, config)


def is_adapted(encoder: Any) -> bool:
    """Return whether the encoder carries an adapter."""
    return hasattr(encoder, "merge_and_unload")


def resume_adapter(encoder: Any, training: Training) -> Any | None:
    """Return the encoder with its adapter ready to learn on, or None when the recipe asks for another kind."""
    known, lora = encoder.peft_config["default"], training.lora
    if training.method != "lora" or (known.r, known.lora_alpha, known.use_dora) != (lora.rank, lora.alpha, lora.dora):
        return None
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
    for module in encoder.modules():
        if hasattr(module, "lora_dropout"):
            dropout = torch.nn.Dropout(lora.dropout) if lora.dropout else torch.nn.Identity()
            module.lora_dropout["default"] = dropout
    known.lora_dropout = lora.dropout
    return encoder


@contextmanager
def merged(encoder: Any) -> Iterator[None]:
    """Fold the adapter into the encoder's own weights for a while: an export needs no peft and pays nothing for it."""
    if not is_adapted(encoder):
        yield
        return
    encoder.merge_adapter()
    try:
        yield
    finally:
        encoder.unmerge_adapter()


def save_adapter(encoder: Any, base: BaseIdentity, folder: Path) -> None:
    """Write the adapter (safetensors), the encoder's config, and what the adapter is an update of."""
    encoder.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
    encoder.config.save_pretrained(folder)
    (folder / BASE_FILE).write_text(json.dumps(asdict(base), indent=2), encoding="utf-8")


def read_base(folder: Path) -> BaseIdentity | None:
    """Return what the folder's adapter is an update of; None where the folder holds a whole encoder."""
    path = folder / BASE_FILE
    return BaseIdentity(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def load_adapter(encoder: Any, base: BaseIdentity, folder: Path) -> Any:
    """Return the base model's encoder with the folder's adapter; raises DataError when it is not the adapter's base."""
    from peft import PeftModel

    found = fingerprint_weights(encoder)
    if base.fingerprint and found != base.fingerprint:
        raise DataError(
            f"{folder}: the adapter was trained on '{base.base_model}' with weights {base.fingerprint}, but that place "
            f"now holds {found}. Put the earlier base model back, or retrain"
        )
    return PeftModel.from_pretrained(encoder, folder)


def fingerprint_weights(encoder: torch.nn.Module) -> str:
    """Return 16 hexadecimal digits of the weights' names, shapes and evenly spaced values."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        flat = value.flatten()
        chosen = flat[:: max(1, len(flat) // VALUES_PER_TENSOR)].float().cpu().contiguous()
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(chosen.numpy().tobytes())
    return digest.hexdigest()[:16]


def quantization_config(lora: Lora) -> Any | None:
    """Return how transformers shall quantise the frozen base (QLoRA; Dettmers et al. 2023), or None: not at all.

    Raises DataError where the machine cannot do it.
    """
    if lora.quantization == "none":
        return None
    if not torch.cuda.is_available():
        raise DataError("training.lora.quantization: 4bit needs a CUDA device, and there is none. Set it to none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise DataError(
            "training.lora.quantization: 4bit needs the package bitsandbytes. Run: python -m pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
