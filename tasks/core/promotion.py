"""The gate: the rules by which a challenger becomes champion. It ships closed: all of them must hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.schema import Gate
from tasks.core.metrics import Scores, accuracy, group_confusions, resample_groups


@dataclass(frozen=True)
class Rule:
    """One rule's outcome, with the words a person reads."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class GateDecision:
    """Whether the challenger takes the champion alias, and why."""

    promote: bool
    rules: tuple[Rule, ...]

    @property
    def reasons(self) -> list[str]:
        """Return one line per rule, the failed ones first."""
        ordered = sorted(self.rules, key=lambda rule: rule.passed)
        return [f"{'ok' if rule.passed else 'refused'}: {rule.name}: {rule.reason}" for rule in ordered]


@dataclass(frozen=True)
class Parity:
    """How closely the export repeats the training checkpoint on the test rows."""

    agreement: float  # share of rows with the same label
    largest_difference: float  # of any probability


def decide_promotion(
    challenger: Scores,
    parity: Parity,
    gate: Gate,
    accuracy_differences: npt.NDArray[np.floating] | None,
) -> GateDecision:
    """Say whether the challenger takes the champion alias.

    `accuracy_differences` holds challenger minus champion over paired resamples of the same test groups; it is None
    only when there is no champion yet.
    """
    rules = [_judge_rows(challenger, gate), _judge_floor(challenger, gate), _judge_parity(parity, gate)]
    rules.append(_judge_difference(accuracy_differences, gate))
    return GateDecision(all(rule.passed for rule in rules), tuple(rules))


def paired_accuracy_differences(
    gold: npt.NDArray[np.int64],
    challenger: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating],
    groups: Sequence[str],
    resamples: int,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Return challenger minus champion accuracy over R resamples of whole groups, both on the same rows."""
    num_classes = challenger.shape[1]
    counts = [
        resample_groups(group_confusions(gold, probabilities.argmax(1), groups, num_classes), resamples, seed)
        for probabilities in (challenger, champion)
    ]
    return accuracy(counts[0]) - accuracy(counts[1])


def measure_parity(export: npt.NDArray[np.floating], checkpoint: npt.NDArray[np.floating]) -> Parity:
    """Compare probabilities [N, C] of the export with those of the checkpoint."""
    agreement = float((export.argmax(1) == checkpoint.argmax(1)).mean())
    return Parity(agreement, float(np.abs(export - checkpoint).max()))


def _judge_rows(challenger: Scores, gate: Gate) -> Rule:
    passed = challenger.n >= gate.min_test_rows
    return Rule("test rows", passed, f"{challenger.n} rows, {gate.min_test_rows} needed")


def _judge_floor(challenger: Scores, gate: Gate) -> Rule:
    passed = challenger.macro_f1 >= gate.min_macro_f1
    verb = "reaches" if passed else "is below"
    return Rule("floor", passed, f"macro-F1 {challenger.macro_f1:.3f} {verb} the floor {gate.min_macro_f1:.3f}")


def _judge_parity(parity: Parity, gate: Gate) -> Rule:
    passed = parity.agreement >= gate.min_parity and parity.largest_difference <= gate.max_parity_difference
    reason = (
        f"export agrees with checkpoint on {parity.agreement:.2%} of rows ({gate.min_parity:.2%} needed), "
        f"largest difference {parity.largest_difference:.4f} ({gate.max_parity_difference:.4f} allowed)"
    )
    return Rule("export parity", passed, reason)


def _judge_difference(differences: npt.NDArray[np.floating] | None, gate: Gate) -> Rule:
    """Non-inferior when the one-sided lower bound stays above the margin (paired bootstrap)."""
    if differences is None:
        return Rule("non-inferiority", True, "no champion yet")
    bound = float(np.quantile(differences, 1 - gate.confidence))
    passed = bound >= -gate.max_accuracy_loss
    reason = (
        f"accuracy {float(np.mean(differences)):+.3f} against the champion, {gate.confidence:.0%} lower bound "
        f"{bound:+.3f}, {-gate.max_accuracy_loss:+.3f} allowed"
    )
    return Rule("non-inferiority", passed, reason)
