"""Changed copies of training rows: two of the operations of EDA (Wei & Zou 2019, arXiv:1901.11196).

Words are left out or change places. The paper's other two, synonyms and insertions, need a thesaurus of the language.
"""

import numpy as np
import pandas as pd

from configs.schema import Augmentation


def augment(train: pd.DataFrame, augmentation: Augmentation, seed: int) -> pd.DataFrame:
    """Return the training rows and, after them, their changed copies; the same seed gives the same copies.

    A copy keeps everything but the text. One that came out unchanged (a text of one word, say) is left out.
    """
    random = np.random.default_rng(seed)
    parts = [train]
    for _ in range(augmentation.copies):
        texts = [_change(text, augmentation, random) for text in train["text"]]
        copies = train.assign(text=texts)
        parts.append(copies[copies["text"] != train["text"]])
    return pd.concat(parts, ignore_index=True) if augmentation.copies else train


def _change(text: str, augmentation: Augmentation, random: np.random.Generator) -> str:
    words = text.split()
    if len(words) < 2:
        return text
    kept = [word for word in words if random.random() >= augmentation.delete] or [words[0]]
    # Each exchange moves two words; a share above 0 asks for one exchange at least, as in the paper.
    num_swaps = max(1, round(augmentation.swap * len(kept) / 2)) if augmentation.swap > 0 and len(kept) > 1 else 0
    for _ in range(num_swaps):
        one, other = random.choice(len(kept), 2, replace=False)
        kept[one], kept[other] = kept[other], kept[one]
    return " ".join(kept)
