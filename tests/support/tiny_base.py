"""A real BERT encoder, far too small to be good, that the tests can fine-tune in a second."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

GOOD = ["great", "lovely", "excellent", "superb"]
BAD = ["awful", "broken", "horrible", "useless"]
PLAIN = ["camera", "battery", "the", "a", "phone", "it", "is", "was", "this", "screen"]


def write_tiny_base(folder: Path) -> Path:
    """Write a two-layer encoder and its tokenizer in Hugging Face's format."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *PLAIN]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    backend = BertWordPieceTokenizer(str(folder / "vocab.txt"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, model_max_length=64, **names).save_pretrained(folder)
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,  # with the usual 0.02 a net this small stays near zero for long
    )
    BertModel(shape).save_pretrained(folder)
    return folder


def make_rows(num_rows: int, seed: int = 0, wrong_share: float = 0.0) -> pd.DataFrame:
    """Return rows whose label is told by one word; each group holds three rows."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        is_good = bool(random.integers(2))
        words = [*random.choice(PLAIN, 4), random.choice(GOOD if is_good else BAD)]
        random.shuffle(words)
        label = is_good if random.random() >= wrong_share else not is_good
        rows.append(
            {
                "row_id": f"row-{seed}-{number}",
                "text": " ".join([*words, f"n{number}"]),
                "label": "positive" if label else "negative",
                "group": f"group-{seed}-{number // 3}",
                "rating": 2.0 if label else -2.0,
                "source": "made",
            }
        )
    return pd.DataFrame(rows)
