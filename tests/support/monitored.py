"""What the monitor reads: a window of the prediction log, and the reference of the version that answered it."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.stores.prediction_log import LoggedPrediction

START = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = {"camera": 0, "broken": 1, "senate": 2}  # the axes of a text's toy embedding


def embed_words(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return word counts as embeddings [N, 3], told apart a little by their length."""
    vectors = np.array([[text.split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
    return vectors + 0.01 * np.array([[len(text)] for text in texts], dtype=np.float32)


def make_texts(num_rows: int, topic: str = "camera", seed: int = 0) -> list[str]:
    """Return texts of one topic that differ in length."""
    return [f"{topic} {'very ' * int(length)}good" for length in np.random.default_rng(seed).integers(0, 9, num_rows)]


def make_reference(num_rows: int = 120, embeddings: npt.NDArray[np.float32] | None = None) -> pd.DataFrame:
    """Return reference rows, three a group, of a champion that is right on four of five."""
    texts = make_texts(num_rows, seed=99)
    good = np.random.default_rng(99).uniform(0.3, 0.9, num_rows)
    predicted = np.where(good > 0.5, "positive", "negative")
    gold = np.where(np.arange(num_rows) % 5 == 0, "negative", predicted)
    return pd.DataFrame(
        {
            "row_id": [f"row-{row}" for row in range(num_rows)],
            "group": [f"group-{row // 3}" for row in range(num_rows)],
            "label": gold,
            "predicted": predicted,
            "score": np.maximum(good, 1 - good),
            "n_chars": [len(text) for text in texts],
            "n_words": [len(text.split()) for text in texts],
            "n_tokens": 5,
            "p_negative": 1 - good,
            "p_positive": good,
            "embedding": list(embed_words(texts) if embeddings is None else embeddings),
        }
    )


def make_predictions(
    texts: Sequence[str], *, version: str = "1", seed: int = 0, start: datetime = START, loop: str = "toy", **fixed: Any
) -> list[LoggedPrediction]:
    """Return logged answers, one a second, whose probabilities are those of `make_reference`."""
    good = np.random.default_rng(seed).uniform(0.3, 0.9, len(texts)).tolist()
    return [
        LoggedPrediction(
            **{
                "prediction_id": f"{version}-{seed}-{row}",
                "at": start + timedelta(seconds=row),
                "loop": loop,
                "version": version,
                "stage": "stable",
                "text": text,
                "group": None,
                "label": "positive" if share > 0.5 else "negative",
                "score": max(share, 1 - share),
                "scores": {"negative": 1 - share, "positive": share},
                "n_tokens": 5,
                "truncated": False,
                "latency_ms": 1.0,
                "key_id": "key",
                **fixed,
            }
        )
        for row, (text, share) in enumerate(zip(texts, good, strict=True))
    ]


def make_window(texts: Sequence[str], **fixed: Any) -> pd.DataFrame:
    """Return the same answers as the prediction log reads them, without feedback."""
    columns = [field.name for field in fields(LoggedPrediction)]
    rows = pd.DataFrame([vars(row) for row in make_predictions(texts, **fixed)], columns=columns)
    scores = pd.DataFrame(rows["scores"].tolist(), index=rows.index, columns=["negative", "positive"])
    rows["group"] = rows["group"].fillna(rows["prediction_id"])
    return rows.assign(gold=None, picked=None, gold_at=pd.NaT).join(scores.add_prefix("p_"))
