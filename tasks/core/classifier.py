"""The classifier: an encoder, a pooled sentence vector, and a linear head (plus one for the rating while training).

Shapes: B texts, T tokens, C classes, D hidden size.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tasks.core.errors import DataError


@dataclass(frozen=True)
class ClassifierShape:
    """What must be known, besides weights, to build the classifier again."""

    labels: tuple[str, ...]
    pooling: Literal["mean", "cls"]
    max_tokens: int
    has_rating_head: bool


class Classifier(nn.Module):
    """Encoder, pooling and heads. `forward` answers with `logits` [B, C], and with `loss` when labels are given."""

    def __init__(self, encoder: Any, shape: ClassifierShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = shape
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, len(shape.labels))
        self.rating_head = nn.Linear(encoder.config.hidden_size, 1) if shape.has_rating_head else None
        self.rating_weight = 0.0
        self.class_weights: Tensor | None = None

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the pooled sentence vectors [B, D]."""
        hidden_BTD = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pool(hidden_BTD, attention_mask, self.shape.pooling)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        ratings: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Classify a batch; NaN ratings do not count towards the loss."""
        sentence_BD = self.dropout(self.embed(input_ids, attention_mask))
        logits_BC = self.head(sentence_BD)
        if labels is None:
            return {"logits": logits_BC}
        weights = self.class_weights.to(logits_BC.device) if self.class_weights is not None else None
        loss = F.cross_entropy(logits_BC.float(), labels, weight=weights)
        if self.rating_head is not None and ratings is not None:
            loss = loss + self.rating_weight * _rating_loss(self.rating_head(sentence_BD).squeeze(-1), ratings)
        return {"loss": loss, "logits": logits_BC}


def pool(hidden_BTD: Tensor, attention_mask: Tensor, pooling: Literal["mean", "cls"]) -> Tensor:
    """Return one vector per text: the mean over its tokens (Reimers & Gurevych 2019), or its first token's."""
    if pooling == "cls":
        return hidden_BTD[:, 0]
    mask_BT1 = attention_mask.unsqueeze(-1).to(hidden_BTD.dtype)
    return (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1.0)


def load_encoder(base_model: str) -> Any:
    """Return the pretrained encoder of a folder or hub id.

    Eager attention on a CPU: its backward pass is faster there than that of scaled-dot-product attention.
    Raises DataError when the place holds no loadable model.
    """
    disable_progress_bar()  # a bar per loaded file would drown the progress that matters
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    try:
        return AutoModel.from_pretrained(base_model, attn_implementation=attention, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"training.base_model: '{base_model}' holds no loadable model: {error}") from error


def load_tokenizer(base_model: str) -> Any:
    """Return the tokenizer that belongs to the encoder; raises DataError as `load_encoder` does."""
    try:
        return AutoTokenizer.from_pretrained(base_model)
    except (OSError, ValueError) as error:
        raise DataError(f"training.base_model: '{base_model}' holds no loadable tokenizer: {error}") from error


def save_classifier(classifier: Classifier, tokenizer: Any, folder: Path) -> None:
    """Write encoder (Hugging Face format), heads (safetensors), shape and tokenizer."""
    classifier.encoder.save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    heads = {name: value.contiguous() for name, value in classifier.state_dict().items() if "head." in name}
    heads = {name: value for name, value in heads.items() if not name.startswith("encoder.")}
    save_file(heads, folder / "heads.safetensors")
    (folder / "classifier.json").write_text(json.dumps(asdict(classifier.shape), indent=2), encoding="utf-8")


def load_classifier(folder: Path) -> Classifier:
    """Return what `save_classifier` wrote, in evaluation mode."""
    fields = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
    shape = ClassifierShape(**{**fields, "labels": tuple(fields["labels"])})
    classifier = Classifier(load_encoder(str(folder / "encoder")), shape)
    classifier.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
    return classifier.eval()


def _rating_loss(predicted_B: Tensor, ratings_B: Tensor) -> Tensor:
    known = ~torch.isnan(ratings_B)
    squared = (predicted_B.float() - torch.nan_to_num(ratings_B)) ** 2
    return (squared * known).sum() / known.sum().clamp(min=1)
