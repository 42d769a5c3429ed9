"""The drift tests on frames: a window of the log against a reference, and where it fired, against earlier weeks.

A reference keeps vectors and descriptors beside its rows, and no texts; rows of the log bring their texts, which are
read in the same ways.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from configs.schema import Monitoring
from tasks.core.descriptors import DESCRIBED, list_features
from tasks.core.drift import DriftTest, Sample, compare
from tasks.core.errors import DataError
from tasks.core.permutations import Floats, can_fire, sample_groups
from tasks.core.readers import Describe, Embed, Readers
from tasks.core.seasons import Season, judge_season, list_spans
from tasks.core.verdict import Vote

ReadSeason = Callable[[Sequence[tuple[datetime, datetime]]], pd.DataFrame]  # spans of time to rows of the log


def run_tests(
    *, current: pd.DataFrame, reference: pd.DataFrame, rules: Monitoring, readers: Readers, seed: int = 0
) -> tuple[DriftTest, ...]:
    """Return the drift tests of a window; of large sides, whole groups drawn by chance are tested.

    Raises DataError where the reference was made for other labels or another base model.
    """
    current, reference = (_sample(side, rules.max_tested_rows, seed) for side in (current, reference))
    columns = [column for column in reference.columns if column.startswith("p_")]
    missing = [column for column in columns if column not in current.columns]
    if missing:
        raise DataError(f"the logged window has no column {', '.join(missing)}: its labels are not the reference's")
    current, reference = (_described(side, readers.describe) for side in (current, reference))
    features = list_features(reference, current)
    sides = [
        Sample(
            side[columns].to_numpy(),
            _vectors(side, "embedding", readers.embed),
            side["group"].tolist(),
            _vectors(side, "representation", readers.represent) if _is_represented(reference, readers) else None,
            {name: both[place] for name, both in features.items()},
        )
        for place, side in enumerate((reference, current))
    ]
    _check_widths(sides[0].embeddings, sides[1].embeddings)
    return compare(
        reference=sides[0],
        current=sides[1],
        alpha=rules.alpha,
        permutations=rules.permutations,
        min_effects=rules.min_effects.model_dump(),
        seed=seed,
    )


def look_for_season(
    *,
    current: pd.DataFrame,
    fired: Sequence[DriftTest],
    votes: Sequence[Vote],
    rules: Monitoring,
    readers: Readers,
    read_season: ReadSeason,
    version: str,
) -> Season | None:
    """Return what the same weekday of earlier weeks says about a window that fired; None where there is no history.

    Outputs of other versions are no measure, but their texts are.
    """
    oldest = current["at"].min().to_pydatetime()
    spans = list_spans(oldest, current["at"].max().to_pydatetime(), rules.season_weeks)
    earlier = read_season(spans) if spans else current.iloc[:0]
    groups = [side["group"].nunique() for side in (earlier, current)]
    if len(earlier) < rules.window.min_rows or not can_fire(
        num_reference_groups=groups[0], num_current_groups=groups[1], alpha=rules.alpha
    ):
        return None
    if (earlier["version"] != version).any():
        earlier = earlier.drop(columns=[column for column in earlier.columns if column.startswith("p_")])
    tests = run_tests(current=current, reference=earlier, rules=rules, readers=readers)
    return judge_season(fired=fired, tests=tests, n=len(earlier), votes=votes, oldest=oldest)


def _sample(side: pd.DataFrame, max_rows: int, seed: int) -> pd.DataFrame:
    return side.iloc[sample_groups(side["group"].tolist(), max_rows, seed)].reset_index(drop=True)


def _described(side: pd.DataFrame, describe: Describe | None) -> pd.DataFrame:
    if describe is None or "text" not in side or set(DESCRIBED) <= set(side.columns):
        return side
    kept = side.drop(columns=[column for column in DESCRIBED if column in side.columns])
    return kept.join(describe(side["text"].tolist()))


def _is_represented(reference: pd.DataFrame, readers: Readers) -> bool:
    return readers.represent is not None and ("representation" in reference or "text" in reference)


def _vectors(side: pd.DataFrame, column: str, read: Embed | None) -> Floats:
    if column in side:
        return np.stack(side[column].to_list())
    assert read is not None
    return read(side["text"].tolist())


def _check_widths(known: Floats, seen: Floats) -> None:
    if known.shape[1] != seen.shape[1]:
        raise DataError(
            f"the reference has embeddings of {known.shape[1]} dimensions, the base model now gives {seen.shape[1]}: "
            "set training.base_model to the one that the champion was trained from"
        )
