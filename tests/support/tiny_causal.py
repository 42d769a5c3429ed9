"""Real causal language models, far too small to be good, without a padding token as most of them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from tests.support.tiny_base import write_tiny_base

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
CONFIGS: dict[str, Any] = {
    "llama": lambda vocabulary: LlamaConfig(vocab_size=vocabulary, num_key_value_heads=2, **_SIZES),
    "qwen2": lambda vocabulary: Qwen2Config(vocab_size=vocabulary, num_key_value_heads=2, **_SIZES),
    "gpt_neox": lambda vocabulary: GPTNeoXConfig(vocab_size=vocabulary, **_SIZES),
    "gpt2": lambda vocabulary: GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2
    ),
}


def write_tiny_causal(folder: Path, kind: str) -> Path:
    """Write a two-layer causal model and its tokenizer in Hugging Face's format."""
    write_tiny_base(folder)
    (folder / "model.safetensors").unlink()
    known = PreTrainedTokenizerFast.from_pretrained(folder)
    names = {"eos_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=known.backend_tokenizer, model_max_length=64, **names).save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = CONFIGS[kind](64)  # Qwen2's tokenizer adds a few
    AutoModel.from_config(config).save_pretrained(folder)
    return folder
