"""Which weights learn how fast."""

import torch

from configs.schema import Training
from tasks.core.classifier import Classifier


def make_optimizer(classifier: Classifier, training: Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019); the new heads learn faster than the pretrained encoder."""
    is_head = {id(parameter) for name, parameter in classifier.named_parameters() if not name.startswith("encoder.")}
    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in is_head]
    plain = [p for p in trained if p.ndim <= 1 and id(p) not in is_head]
    heads = [p for p in trained if id(p) in is_head]
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": plain, "weight_decay": 0.0},
            {"params": heads, "weight_decay": 0.0, "lr": training.head_learning_rate},
        ],
        lr=training.learning_rate,
    )
