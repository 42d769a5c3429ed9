"""Which layer of an encoder a weight belongs to, told by its name, and which layers keep their weights.

Depth 0 is what lies below the first layer (embeddings), depth n the n-th layer; final norms and poolers count as
the top.
"""

import re
from collections.abc import Iterable

from torch import nn

from configs.schema import Training

# BERT, RoBERTa, DeBERTa, ELECTRA: encoder.layer.N; DistilBERT: transformer.layer.N; Llama, Qwen, Mistral, ModernBERT:
# layers.N; GPT-2: h.N; T5: block.N. The first such number is the layer's, also below peft's wrappers.
_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|\.(?:wte|wpe)\.")


def depth_of(name: str, num_layers: int) -> int:
    """Return how deep a parameter of that name lies, from 0 to `num_layers`."""
    layer = _LAYER.search(name)
    if layer:
        return int(layer.group(1)) + 1
    return 0 if _EMBEDDING.search(name) else num_layers


def count_layers(names: Iterable[str]) -> int:
    """Return how many layers there are by the names of all parameters."""
    return max((int(found.group(1)) + 1 for found in map(_LAYER.search, names) if found), default=0)


def freeze_lower_layers(encoder: nn.Module, training: Training) -> None:
    """Keep the weights that the recipe freezes; layers below a frozen one are frozen too, embeddings included."""
    if training.freeze_embeddings:
        for parameter in encoder.get_input_embeddings().parameters():  # type: ignore[operator]
            parameter.requires_grad_(False)
    if training.frozen_layers:
        named = [(f".{name}", parameter) for name, parameter in encoder.named_parameters()]
        num_layers = count_layers(name for name, _ in named)
        for name, parameter in named:
            if depth_of(name, num_layers) <= min(training.frozen_layers, num_layers):
                parameter.requires_grad_(False)
