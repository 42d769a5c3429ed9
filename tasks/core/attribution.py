"""Which words of a text mattered for its answer: the text is answered again without each of them (occlusion).

The weight of a word is how many bits of evidence for the answered label go with it: the difference in log2 odds of the
label's probability (Robnik-Šikonja & Kononenko 2008, IEEE TKDE 20(5), "Explaining Classifications for Individual
Instances"). Odds, as a sure answer's probability hardly moves when one of several good reasons is taken away. Words
are judged one by one, so of two words that say the same neither seems to matter.

Shapes: P parts of a text, C classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_PARTS = 48  # answers per text; a longer text is cut into as many runs of neighbouring words
MIN_BITS = 0.15  # less is not shown as a reason: the odds change by a tenth
LEVELS = 4
_CERTAIN = 1e-6
# A word with its apostrophes and hyphens; scripts that write without spaces are cut into single characters.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f]"
    r"|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f])\w)+"
    r"(?:['’-](?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f])\w)+)*"
)


@dataclass(frozen=True)
class Span:
    """A part of a text, from one character up to another."""

    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """A piece of the text as it is shown: a judged part with its weight, or what stands between two of them.

    `bits` is the evidence for the answered label, negative against it, None between parts. `level` is how strongly it
    is shown, -LEVELS to LEVELS; 0 is too little to be a reason.
    """

    text: str
    bits: float | None = None
    level: int = 0


def find_parts(text: str, max_parts: int = MAX_PARTS) -> list[Span]:
    """Return the words of a text in order; of a long text, runs of neighbouring words, `max_parts` of them."""
    words = [Span(found.start(), found.end()) for found in _WORD.finditer(text)]
    if len(words) <= max_parts:
        return words
    runs = np.array_split(np.arange(len(words)), max_parts)
    return [Span(words[run[0]].start, words[run[-1]].end) for run in runs]


def leave_out(text: str, parts: Sequence[Span]) -> list[str]:
    """Return the text without each of its parts, one variant per part; none for a text of one part, nothing remains."""
    if len(parts) < 2:
        return []
    return [" ".join(f"{text[: part.start]} {text[part.end :]}".split()) for part in parts]


def weigh_parts(
    text: str, parts: Sequence[Span], whole: Sequence[float], without: npt.NDArray[np.floating]
) -> list[Part]:
    """Return the text in pieces with their weights.

    `whole` are the text's probabilities [C], `without` those of the variants of `leave_out` [P, C], or nothing.
    """
    if not len(without):
        return [Part(text)]
    label = int(np.argmax(whole))
    bits = _log_odds(np.asarray(whole)[label]) - _log_odds(without[:, label])
    strongest = float(np.abs(bits).max(initial=0.0))
    pieces, end = [], 0
    for part, weight in zip(parts, bits, strict=True):
        pieces += [Part(text[end : part.start])] if part.start > end else []
        pieces.append(Part(text[part.start : part.end], round(float(weight), 3), _level(float(weight), strongest)))
        end = part.end
    return pieces + ([Part(text[end:])] if end < len(text) else [])


def _log_odds(probability: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    certain = np.clip(np.asarray(probability, dtype=np.float64), _CERTAIN, 1 - _CERTAIN)
    odds: npt.NDArray[np.float64] = np.log2(certain / (1 - certain))
    return odds


def _level(bits: float, strongest: float) -> int:
    if abs(bits) < MIN_BITS:
        return 0
    level = round(LEVELS * abs(bits) / strongest)
    return level if bits > 0 else -level
