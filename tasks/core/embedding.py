"""Sentence vectors of the frozen base encoder: what drift tests compare, whatever the champion has learned since."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from tasks.core.classifier import load_encoder, load_tokenizer
from tasks.core.padding import pad
from tasks.core.pooling import pool


def embed(
    texts: Sequence[str], base_model: str, max_tokens: int = 128, batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Return mean-pooled vectors of length 1, float32 [N, D], in the order of the texts."""
    tokenizer = load_tokenizer(base_model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = load_encoder(base_model).eval().to(device)
    ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"] if texts else []
    by_length = np.argsort([len(row) for row in ids], kind="stable")
    vectors = np.empty((len(ids), encoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(ids), batch_size):
        rows = by_length[start : start + batch_size]
        arrays = pad([ids[row] for row in rows], tokenizer.pad_token_id or 0)
        input_ids, attention_mask = (torch.from_numpy(array).to(device) for array in arrays)
        with torch.inference_mode():
            hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            vectors[rows] = torch.nn.functional.normalize(pool(hidden, attention_mask, "mean")).cpu().numpy()
    return vectors
