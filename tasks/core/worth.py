"""Was a retrain worth it: what it gained on frozen and on newest test rows, beside what it cost."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.core.metrics import Scores
from tasks.core.paired import Difference
from tasks.core.slices import SliceScores

Worth = Literal["first", "gained", "no clear gain", "lost"]


def judge_worth(
    scores: Scores, champion: Scores | None, difference: Difference | None, slices: Sequence[SliceScores]
) -> dict[str, Any]:
    """Return the part of a retrain's record that says what it gained, challenger against champion on the same rows.

    `test` are all frozen test rows, `newest` the newest ones, where the loop has such a slice and a champion answered.
    """
    newest = next((one for one in slices if one.is_newest and one.difference is not None), None)
    test = None
    if difference is not None and champion is not None:
        test = {**_tell(difference, scores.n), "macro_f1": scores.macro_f1 - champion.macro_f1}
    new = _tell(newest.difference, newest.n) if newest is not None and newest.difference is not None else None
    return {"verdict": _verdict([one for one in (test, new) if one]), "test": test, "newest": new}


def _tell(difference: Difference, n: int) -> dict[str, Any]:
    return {"accuracy": difference.value, "interval": list(difference.ci), "n": n}


def _verdict(found: Sequence[Mapping[str, Any]]) -> Worth:
    """Say what is beyond chance: a loss anywhere is a loss, whatever was gained elsewhere."""
    if not found:
        return "first"
    if any(one["interval"][1] < 0 for one in found):
        return "lost"
    return "gained" if any(one["interval"][0] > 0 for one in found) else "no clear gain"
