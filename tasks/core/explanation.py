"""What changed between the reference and the current window, for a person: words, lengths, topics, whose traffic.

Nothing here is a drift test, and nothing is named for a difference that whole groups explain by chance. No text and no
word of fewer than five groups leaves this module: examples are ids, so that an erased text is gone from every report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.new_traffic import NewShare, Novelty, measure_novelty
from tasks.core.permutations import sample_groups
from tasks.core.readers import Embed
from tasks.core.topics import Rows, Topic, find_topics
from tasks.core.wording import WordShift, count_words, find_word_shifts

Floats = npt.NDArray[np.floating]

MAX_WORD_ROWS = 5000  # per side: texts whose words are counted
MAX_KEYS = 10
LENGTHS = {"short": 0.1, "median": 0.5, "long": 0.9}


@dataclass(frozen=True)
class LengthShift:
    """Words per text at a quantile of both sides."""

    part: str  # short, median, long: the tenth, fiftieth and ninetieth percent
    reference: float
    current: float


@dataclass(frozen=True)
class KeyShare:
    """A customer's key: its texts in the window, their share of it, and how much of them is new."""

    key_id: str
    n: int
    share: float
    new: float


@dataclass(frozen=True)
class Explanation:
    """What changed; `note` says what could not be compared, and why."""

    new: NewShare
    lengths: tuple[LengthShift, ...]
    words_came: tuple[WordShift, ...]
    words_went: tuple[WordShift, ...]
    topics: tuple[Topic, ...]
    keys: tuple[KeyShare, ...]
    note: str


def explain(
    *, reference: pd.DataFrame, current: pd.DataFrame, embed: Embed, max_rows: int, note: str = "", seed: int = 0
) -> Explanation:
    """Return what changed; both frames have `group` and `n_words`.

    The reference has `row_id`, `embedding` and, where they are kept, `text` (None where not); the current window has
    `prediction_id`, `text` and `key_id`. At most `max_rows` of each side, whole groups, are embedded and clustered.
    """
    known, seen = _sample(reference, max_rows), _sample(current, max_rows)
    known_vectors, seen_vectors = np.stack(known["embedding"].to_list()), embed(seen["text"].tolist())
    novelty = measure_novelty(
        reference=known_vectors,
        current=seen_vectors,
        reference_groups=known["group"].tolist(),
        current_groups=seen["group"].tolist(),
        seed=seed,
    )
    has_texts = "text" in reference.columns and bool(reference["text"].notna().any())
    came, went = _compare_words(reference, current) if has_texts else ((), ())
    return Explanation(
        new=novelty.share,
        lengths=_compare_lengths(reference, current),
        words_came=came,
        words_went=went,
        topics=find_topics(_join(known, seen, known_vectors, seen_vectors, has_texts), seed),
        keys=_share_by_key(current, seen, novelty),
        note=note,
    )


def describe_change(explanation: Mapping[str, Any] | None, with_words: bool = True) -> list[str]:
    """Return the explanation of a report record as a few lines; without words where they must not be sent."""
    if explanation is None:
        return []
    new, topics = explanation["new"], explanation["topics"]
    came, went = ([topic for topic in topics if topic["outcome"] == outcome] for outcome in ("came", "went"))
    lines = [f"new traffic: about {new['estimate']:.0%} of the texts, at least {new['at_least']:.0%}"]
    if with_words:
        lines += [_word_line(f"words that {verb}", explanation[f"words_{verb}"]) for verb in ("came", "went")]
    else:
        counts = f"{len(explanation['words_came'])} words came, {len(explanation['words_went'])} went"
        lines.append(f"{counts}; {len(came)} topics came, {len(went)} went")
    median = next((one for one in explanation["lengths"] if one["part"] == "median"), None)
    if median and median["reference"] != median["current"]:
        lines.append(f"median length: {median['reference']:.0f} words, now {median['current']:.0f}")
    if len(explanation["keys"]) > 1 and new["at_least"] > 0:
        loudest = explanation["keys"][0]
        told = f"key {loudest['key_id']} ({loudest['share']:.0%} of the texts, {loudest['new']:.0%} of them new)"
        lines.append(f"the largest part of what is new comes from {told}")
    return [line for line in lines if line]


def name_topic(topic: Mapping[str, Any]) -> str:
    """Return a topic's telling words, or that it has none."""
    return ", ".join(topic["words"]) or "(no word tells it from the others)"


def as_record(explanation: Explanation | None) -> dict[str, Any] | None:
    """Return the `explanation` of a report record, shares rounded to a hundredth of a percent."""
    if explanation is None:
        return None
    found: dict[str, Any] = _rounded(asdict(explanation))
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value


def _word_line(title: str, shifts: Sequence[Mapping[str, Any]]) -> str:
    named = ", ".join(f"{one['word']} ({one['reference']:.0%} → {one['current']:.0%})" for one in shifts[:6])
    return f"{title}: {named}" if named else ""


def _sample(side: pd.DataFrame, max_rows: int) -> pd.DataFrame:
    return side.iloc[sample_groups(side["group"].tolist(), max_rows)]


def _compare_words(
    reference: pd.DataFrame, current: pd.DataFrame
) -> tuple[tuple[WordShift, ...], tuple[WordShift, ...]]:
    known = _sample(reference[reference["text"].notna()], MAX_WORD_ROWS)
    seen = _sample(current, MAX_WORD_ROWS)
    usage = count_words([*known["text"], *seen["text"]])
    is_current = np.arange(len(known) + len(seen)) >= len(known)
    return find_word_shifts(usage, is_current, [*known["group"], *seen["group"]])


def _compare_lengths(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[LengthShift, ...]:
    sides = [side["n_words"].quantile(list(LENGTHS.values())) for side in (reference, current)]
    return tuple(LengthShift(part, float(sides[0][at]), float(sides[1][at])) for part, at in LENGTHS.items())


def _join(
    known: pd.DataFrame, seen: pd.DataFrame, known_vectors: Floats, seen_vectors: Floats, has_texts: bool
) -> Rows:
    texts = [*(known["text"].fillna("") if has_texts else [""] * len(known)), *seen["text"]]
    return Rows(
        np.concatenate([known_vectors, seen_vectors]).astype(np.float64),
        np.arange(len(known) + len(seen)) >= len(known),
        [*known["group"], *seen["group"]],
        [*known["row_id"], *seen["prediction_id"]],
        count_words(texts),
    )


def _share_by_key(current: pd.DataFrame, seen: pd.DataFrame, novelty: Novelty) -> tuple[KeyShare, ...]:
    """Return the keys that send most of what is new, then those that send most."""
    counts = current["key_id"].value_counts()
    outside = pd.Series(novelty.is_outside, index=seen["key_id"].to_numpy()).groupby(level=0).mean()
    keys = [
        KeyShare(str(key), int(n), float(n / len(current)), novelty.share_of(float(outside.get(key, 0.0))))
        for key, n in counts.items()
    ]
    return tuple(sorted(keys, key=lambda key: (-key.n * key.new, -key.n, key.key_id))[:MAX_KEYS])
