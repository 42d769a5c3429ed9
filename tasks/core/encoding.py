"""From rows to the numbers that a network is given: token ids, targets, and batches padded to their longest text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor


def encode_rows(frame: pd.DataFrame, tokenizer: Any, labels: Sequence[str], max_tokens: int) -> list[dict[str, Any]]:
    """Return one dict per row: input_ids (no padding), labels, ratings (NaN where unknown)."""
    ids = tokenizer(frame["text"].tolist(), truncation=True, max_length=max_tokens)["input_ids"]
    classes = [labels.index(label) for label in frame["label"]]
    ratings = frame["rating"].astype("float32").tolist()
    rows = zip(ids, classes, ratings, strict=True)
    return [{"input_ids": row, "labels": label, "ratings": rating} for row, label, rating in rows]


@dataclass(frozen=True)
class Collator:
    """Pads rows to the longest of their batch; int64 [B, T], one target per row."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one batch."""
        longest = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), longest), self.pad_token_id, dtype=torch.long)
        attention_mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for position, row in enumerate(rows):
            input_ids[position, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            attention_mask[position, : len(row["input_ids"])] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": torch.tensor([row["labels"] for row in rows]),
            "ratings": torch.tensor([row["ratings"] for row in rows], dtype=torch.float32),
        }
