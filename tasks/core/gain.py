"""Says how far the best of several recipes is ahead of another, and how much of that chance would give.

Shapes: N rows, S seeds, T trials, C classes, R resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from tasks.core.metrics import Floats, Ints, count_answers, f1_of_counts, number_groups, resample_sums

BLOCK = 50  # resamples at a time, so that memory stays small


@dataclass(frozen=True)
class Gain:
    """What the best trial is ahead of today's configuration in macro-F1 on the validation rows.

    `standard_error` is that of the difference, over resampled groups. `chance` is how often the best of so many trials
    would come out that far ahead if none were better than today (White 2000, "A reality check for data snooping").
    """

    gain: float
    standard_error: float
    chance: float
    n_rows: int
    n_groups: int

    def is_real(self, confidence: float) -> bool:
        """Say whether the gain is worth a change: more than one standard error, and more than chance would give.

        One standard error alone (Breiman et al. 1984) is passed by the luckiest of many equal recipes in most searches.
        """
        return self.gain > self.standard_error and self.chance <= 1 - confidence


@dataclass(frozen=True)
class Choice:
    """Whether the loop's file should change, and why."""

    change: bool
    reason: str


def choose_recipe(best: int | None, today: int | None, gain: Gain | None, num_trials: int, confidence: float) -> Choice:
    """Say whether the best trial should take the place of today's recipe.

    `best` and `today` are numbers of complete trials, None where there is none; `confidence` is the gate's.
    """
    if best is None:
        return Choice(False, "no trial was finished")
    if today is None:
        why = "today's recipe has no value, so nothing can be said of a gain"
        return Choice(False, f"{why}; a search with --trials {num_trials + 1} tries it again")
    if gain is None and best != today:
        return Choice(False, "the answers of today's recipe or the best are gone, so nothing can be said of a gain")
    if gain is None or best == today:
        return Choice(False, f"today's recipe is the best of {num_trials} trials")
    ahead = (
        f"trial {best} is {gain.gain:+.4f} macro-F1 from today's recipe on {gain.n_rows} validation rows "
        f"({gain.n_groups} groups), standard error {gain.standard_error:.4f}"
    )
    luck = (
        f"the best of {num_trials} recipes no better than today's would look as good in {gain.chance:.1%} of cases "
        f"({1 - confidence:.0%} allowed)"
    )
    if gain.is_real(confidence):
        return Choice(True, f"{ahead}: more than one of them; {luck}")
    return Choice(False, f"{ahead}: within noise; {luck}")


def judge_gain(
    gold: Ints,
    groups: Sequence[str],
    predicted: Mapping[int, Ints],
    today: int,
    best: int,
    num_classes: int,
    resamples: int = 1000,
) -> Gain:
    """Compare trials on the same rows; `predicted` holds each one's classes [S, N] by its number."""
    codes, num_groups = number_groups(groups)
    numbers = list(predicted)
    num_seeds = len(predicted[best])
    counts = [
        count_answers(gold, classes, codes, num_groups, num_classes)
        for number in numbers
        for classes in predicted[number]
    ]
    stacked = sparse.vstack(counts, format="csr")  # one matrix: all trials meet the same resampled groups

    def score(sums: Floats) -> Floats:
        """Return macro-F1, the mean over seeds, [T, R] for sums [T * S * 3C, R]."""
        split = sums.reshape(len(numbers), num_seeds, 3 * num_classes, -1)
        scores: Floats = f1_of_counts(np.moveaxis(split, 2, 0), num_classes).mean(0).mean(1)
        return scores

    values_T = score(np.asarray(stacked.sum(1), dtype=np.float64)[:, None])[:, 0]
    blocks = range(-(-resamples // BLOCK))
    resampled_TR = np.concatenate([score(resample_sums(stacked, BLOCK, seed)) for seed in blocks], axis=1)
    base, place = numbers.index(today), numbers.index(best)
    gains_T, gains_TR = values_T - values_T[base], resampled_TR - resampled_TR[base]
    ahead_R = (gains_TR - gains_T[:, None]).max(0)
    return Gain(
        gain=float(gains_T[place]),
        standard_error=float(gains_TR[place].std()),
        chance=float((ahead_R >= gains_T[place]).mean()),
        n_rows=len(gold),
        n_groups=num_groups,
    )
