"""The classifier: an encoder, a pooled sentence vector, and a linear head (plus one for the rating while training).

Shapes: B texts, T tokens, C classes, D hidden size.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tasks.core.adapters import BaseIdentity, load_adapter, read_base, save_adapter
from tasks.core.base_models import resolve_base_model
from tasks.core.errors import DataError
from tasks.core.pooling import Pooling, pool


@dataclass(frozen=True)
class ClassifierShape:
    """What must be known, besides weights, to build the classifier again."""

    labels: tuple[str, ...]
    pooling: Pooling
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
        self.base: BaseIdentity | None = None  # what the encoder's adapter belongs to, where it has one
        self.rating_weight = 0.0
        self.label_smoothing = 0.0
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
        shares: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Classify a batch.

        `shares` [B, C] are soft labels, which take the place of labels in the loss; `weights` [B] multiply each row's
        loss. NaN ratings do not count towards it.
        """
        sentence_BD = self.dropout(self.embed(input_ids, attention_mask))
        logits_BC = self.head(sentence_BD)
        if labels is None:
            return {"logits": logits_BC}
        loss_B = self._label_loss(logits_BC.float(), labels if shares is None else shares)
        if self.rating_head is not None and ratings is not None:
            loss_B = loss_B + self.rating_weight * _rating_loss(self.rating_head(sentence_BD).squeeze(-1), ratings)
        loss = loss_B.mean() if weights is None else (loss_B * weights).mean()
        return {"loss": loss, "logits": logits_BC}

    def _label_loss(self, logits_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the cross entropy [B] against labels [B] or shares [B, C]; smoothed while training only.

        Class weights have mean 1 over the training rows, so a batch's loss is a plain mean: it does not hang on which
        rows meet in a batch, on how many processes share it, or on gradient accumulation.
        """
        smoothing = self.label_smoothing if self.training else 0.0
        loss_B = F.cross_entropy(logits_BC, targets, reduction="none", label_smoothing=smoothing)
        if self.class_weights is None:
            return loss_B
        class_weights_C = self.class_weights.to(logits_BC.device)
        return loss_B * (class_weights_C[targets] if targets.ndim == 1 else targets @ class_weights_C)


def load_encoder(base_model: str, quantization: Any | None = None) -> Any:
    """Return the pretrained encoder of a folder or hub id.

    Eager attention on a CPU: its backward pass is faster there than that of scaled-dot-product attention.
    Raises DataError when the place holds no loadable model.
    """
    disable_progress_bar()  # a bar per loaded file would drown the progress that matters
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    try:
        encoder = AutoModel.from_pretrained(
            base_model, attn_implementation=attention, dtype=torch.float32, quantization_config=quantization
        )
    except (OSError, ValueError) as error:
        raise DataError(f"training.base_model: '{base_model}' holds no loadable model: {error}") from error
    encoder.config.use_cache = False  # a cache is for writing texts on, token by token
    return encoder


def load_tokenizer(base_model: str) -> Any:
    """Return the tokenizer that belongs to the encoder; raises DataError as `load_encoder` does."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
    except (OSError, ValueError) as error:
        raise DataError(f"training.base_model: '{base_model}' holds no loadable tokenizer: {error}") from error
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token  # decoders have none; the attention mask hides it
    return tokenizer


def check_pooling(config: Any, pooling: Pooling) -> None:
    """Raise DataError when a causal language model is pooled where a token has not seen the whole text."""
    kind = type(config)
    if pooling != "last" and kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING:
        raise DataError(
            f"training.pooling: '{pooling}' does not suit a causal language model ({config.model_type}): only its last "
            "token has read the whole text. Set training.pooling to last"
        )


def save_classifier(classifier: Classifier, tokenizer: Any, folder: Path) -> None:
    """Write encoder (Hugging Face format), heads (safetensors), shape and tokenizer.

    Of an encoder with an adapter on a known base model, only the adapter and the base model's identity are written.
    """
    if classifier.base is not None:
        save_adapter(classifier.encoder, classifier.base, folder / "encoder")
    else:
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
    base = read_base(folder / "encoder")
    if base is not None:
        encoder = load_encoder(resolve_base_model(base.base_model))
        encoder = load_adapter(encoder, base, folder / "encoder")
    else:
        encoder = load_encoder(str(folder / "encoder"))
    classifier = Classifier(encoder, shape)
    classifier.base = base
    classifier.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
    return classifier.eval()


def _rating_loss(predicted_B: Tensor, ratings_B: Tensor) -> Tensor:
    """Return squared errors [B] whose mean over the batch is the mean over the rows that have a rating."""
    known = ~torch.isnan(ratings_B)
    squared = (predicted_B.float() - torch.nan_to_num(ratings_B)) ** 2
    return squared * known * (len(ratings_B) / known.sum().clamp(min=1))
