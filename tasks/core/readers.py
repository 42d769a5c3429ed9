"""How texts are read for monitoring: as vectors, and as what a person can read off them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.core.permutations import Floats

Embed = Callable[[Sequence[str]], Floats]  # texts to vectors [N, D], as those of the reference were made
Describe = Callable[[Sequence[str]], pd.DataFrame]  # texts to the columns of `core/descriptors.py`


@dataclass(frozen=True)
class Readers:
    """How texts are read: by the frozen base encoder, by the champion's own, and by what a person can read off them.

    The last two are left out where they are None, as their tests are.
    """

    embed: Embed
    represent: Embed | None = None
    describe: Describe | None = None


def remember(embed: Embed) -> Embed:
    """Return an `embed` that asks for each different text once: tests, estimate and explanation share vectors."""
    known: dict[str, Floats] = {}

    def embed_once(texts: Sequence[str]) -> Floats:
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        if fresh or not texts:
            known.update(zip(fresh, embed(fresh), strict=True))
        return np.stack([known[text] for text in texts]) if texts else embed([])

    return embed_once
