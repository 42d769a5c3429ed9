"""The fine-tuned classifier as a user of transformers would load it, for the servers that we are compared with."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from tasks.core.classifier import load_classifier

CHECKPOINT = "BENCH_CHECKPOINT"
MAX_TOKENS = 128


class ForPipelines(PreTrainedModel):  # type: ignore[misc]  # transformers ships no type information
    """The same weights behind the interface that `transformers.pipeline` wants."""

    config_class = PretrainedConfig

    def __init__(self, folder: Path) -> None:
        classifier = load_classifier(folder)
        names = dict(enumerate(classifier.shape.labels))
        super().__init__(PretrainedConfig(id2label=names, label2id={name: at for at, name in names.items()}))
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        """Return logits [B, C]."""
        return SequenceClassifierOutput(logits=self.classifier(input_ids, attention_mask)["logits"])


def load() -> tuple[Any, Any]:
    """Return tokenizer and model of the checkpoint that the environment names."""
    folder = Path(os.environ[CHECKPOINT])
    tokenizer = AutoTokenizer.from_pretrained(folder / "encoder", model_max_length=MAX_TOKENS)
    return tokenizer, ForPipelines(folder).eval()


class Answers:
    """Answers batches of texts: what a user writes around a model for a serving framework."""

    def __init__(self) -> None:
        self._tokenizer, self._model = load()

    def __call__(self, texts: list[str]) -> list[dict[str, Any]]:
        """Return label, score and scores per text."""
        batch = self._tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            shares = self._model(batch["input_ids"], batch["attention_mask"]).logits.softmax(-1).numpy()
        names = self._model.config.id2label
        return [
            {
                "label": names[int(row.argmax())],
                "score": float(row.max()),
                "scores": {names[at]: float(value) for at, value in enumerate(row)},
            }
            for row in shares
        ]
