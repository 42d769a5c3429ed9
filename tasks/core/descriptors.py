"""What a person can read off a text: its length, its language, words that the tokenizer does not know, copies.

None of it is kept with the text: a reference holds these numbers, not what they were counted from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.rows import normalise_text

Floats = npt.NDArray[np.floating]

DESCRIBED = ("pieces", "unknown_share", "wordless", "language", "copy_of")  # columns of `describe`
NUMBERS = ("n_chars", "n_words", "score", "pieces", "unknown_share")
CATEGORIES = ("label", "language", "wordless")
SHOWN = (*CATEGORIES, *NUMBERS)  # columns of a row that a page may show: no texts
MIN_LETTERS = 12  # a recogniser's answer for less is a guess
MIN_LANGUAGE_SHARE = 0.01  # of both sides together; rarer languages count as one
MAX_LANGUAGES = 8
UNKNOWN_LANGUAGE = ""


def describe(texts: Sequence[str], tokenizer: Any) -> pd.DataFrame:
    """Return one row per text, in order.

    Columns: `pieces` (tokens per word), `unknown_share` of its tokens, `wordless` (no letter and no digit), `language`
    (ISO 639, "" for too few letters to tell), and `copy_of`, equal numbers for equal texts, -1 for one of a kind.
    """
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []
    n_words = np.array([max(len(text.split()), 1) for text in texts], dtype=np.float64)
    n_tokens = np.array([len(row) for row in ids], dtype=np.float64)
    unknown = np.array([sum(token == tokenizer.unk_token_id for token in row) for row in ids], dtype=np.float64)
    return pd.DataFrame(
        {
            "pieces": n_tokens / n_words,
            "unknown_share": unknown / np.maximum(n_tokens, 1),
            "wordless": [not any(map(str.isalnum, text)) for text in texts],
            "language": pd.Series(recognise_languages(texts), dtype="str"),
            "copy_of": number_copies(texts),
        }
    )


def recognise_languages(texts: Sequence[str]) -> list[str]:
    """Return each text's language, "" where it has too few letters."""
    import py3langid  # half a second: whoever reads no language does not pay for it

    return [
        str(py3langid.classify(text)[0]) if sum(map(str.isalpha, text)) >= MIN_LETTERS else UNKNOWN_LANGUAGE
        for text in texts
    ]


def number_copies(texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return equal numbers for texts that are equal up to case and white space, and -1 for one of a kind."""
    _, numbers, counts = np.unique(
        np.array([normalise_text(text) for text in texts], dtype=np.object_), return_inverse=True, return_counts=True
    )
    copies: npt.NDArray[np.int64] = np.where(counts[numbers] > 1, numbers, -1)
    return copies


def list_features(reference: pd.DataFrame, current: pd.DataFrame) -> dict[str, tuple[Floats, Floats]]:
    """Return what can be compared, per drift test: numbers of both sides, [N, K] each, NaN where a row says nothing.

    Columns that the reference of an older version lacks are left out.
    """
    columns = {"length": "n_words", "pieces": "pieces", "unknown_tokens": "unknown_share", "wordless": "wordless"}
    features = {
        name: (_column(reference[column]), _column(current[column]))
        for name, column in columns.items()
        if column in reference and column in current
    }
    if "copy_of" in reference and "copy_of" in current:
        num_rows = min(len(reference), len(current))
        features["copies"] = _repeated(reference["copy_of"], num_rows), _repeated(current["copy_of"], num_rows)
    if "language" in reference and "language" in current:
        languages = _frequent(pd.concat([reference["language"], current["language"]]))
        if len(languages) > 1:
            spoken = [_indicate(side["language"], languages) for side in (reference, current)]
            features["language"] = spoken[0], spoken[1]
    return features


def _column(values: pd.Series) -> Floats:
    column: Floats = values.to_numpy(dtype=np.float64)[:, None]
    return column


def _repeated(copy_of: pd.Series, num_rows: int) -> Floats:
    """Return 1 for the first of texts that are equal, among as many rows as the other side has, 0 for all others.

    The more rows, the more copies: a side is only asked about so many of its rows, drawn by chance. Only the first one
    counts, as copies come together: with each of them marked, texts from one pool fire two to five times too often.
    """
    chosen = np.random.default_rng(0).permutation(len(copy_of))[:num_rows]
    known, first, counts = np.unique(copy_of.to_numpy()[chosen], return_index=True, return_counts=True)
    repeated: Floats = np.full((len(copy_of), 1), np.nan)
    repeated[chosen] = 0.0
    repeated[chosen[first[(known >= 0) & (counts > 1)]]] = 1.0
    return repeated


def _frequent(languages: pd.Series) -> list[str]:
    """Return the languages that count by themselves, and one name for the rest."""
    shares = languages[languages != UNKNOWN_LANGUAGE].value_counts(normalize=True)
    named = [str(name) for name in shares[shares >= MIN_LANGUAGE_SHARE].index[:MAX_LANGUAGES]]
    return [*named, "others"] if len(named) < len(shares) else named


def _indicate(spoken: pd.Series, languages: Sequence[str]) -> Floats:
    named = spoken.where(spoken.isin(languages), "others").to_numpy(dtype=np.str_)
    indicated: Floats = (named[:, None] == np.asarray(languages, dtype=np.str_)[None]).astype(np.float64)
    indicated[(spoken == UNKNOWN_LANGUAGE).to_numpy()] = np.nan
    return indicated
