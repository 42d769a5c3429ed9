"""Behavioural cases (CheckList; Ribeiro et al. 2020): what a model must know, ignore, and react to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

import numpy as np
import numpy.typing as npt

from configs.schema import Behaviour, Case
from tasks.core.errors import DataError

Floats = npt.NDArray[np.floating]
KINDS: tuple[str, ...] = get_args(Case.model_fields["kind"].annotation)
MAX_NAMED = 8  # failed cases that a reason names; all of them are listed


class Answered(Protocol):
    """What a model gives for B texts."""

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Probabilities [B, C] of the labels."""

    @property
    def answers(self) -> list[str]:
        """Labels, or `unknown`, of the texts."""


@dataclass(frozen=True)
class CaseResult:
    """How a model answered one case. `number` counts the cases of the YAML from 1."""

    number: int
    kind: str
    passed: bool
    text: str  # the one that failed, else the case's own
    expected: str
    answered: str
    score: float  # the probability of `answered`, or of the direction's label
    why: str


@dataclass(frozen=True)
class KindResult:
    """How many cases of one kind passed."""

    kind: str
    passed: int
    n: int
    needed: float  # share
    failed: tuple[int, ...]  # numbers of cases

    @property
    def is_met(self) -> bool:
        """Whether enough of them passed."""
        return self.n == 0 or self.passed / self.n >= self.needed


def judge_cases(
    behaviour: Behaviour, labels: Sequence[str], predict: Callable[[Sequence[str]], Answered]
) -> tuple[CaseResult, ...]:
    """Ask a model every case, all texts in one go.

    Raises DataError when a direction names a label whose probability the model does not give.
    """
    for number, case in enumerate(behaviour.cases, start=1):
        if case.kind == "direction" and case.label not in labels:
            raise DataError(f"case {number} asks for the label '{case.label}'; the model answers {list(labels)}")
    texts = [text for case in behaviour.cases for text in (case.text, *case.variants)]
    if not texts:
        return ()
    answered = predict(texts)
    results, start = [], 0
    for number, case in enumerate(behaviour.cases, start=1):
        end = start + 1 + len(case.variants)
        answers, probabilities = answered.answers[start:end], answered.probabilities[start:end]
        results.append(_judge_case(number, case, labels, answers, probabilities))
        start = end
    return tuple(results)


def count_by_kind(results: Sequence[CaseResult], behaviour: Behaviour) -> tuple[KindResult, ...]:
    """Return how many cases of each kind passed, and how many must; kinds without a case are left out."""
    shares = {str(kind): share for kind, share in behaviour.min_passed_share.items()}
    counted = []
    for kind in KINDS:
        of_kind = [result for result in results if result.kind == kind]
        failed = tuple(result.number for result in of_kind if not result.passed)
        if of_kind:
            counted.append(KindResult(kind, len(of_kind) - len(failed), len(of_kind), shares.get(kind, 1.0), failed))
    return tuple(counted)


def describe_kind(counted: KindResult) -> str:
    """Return one kind's outcome in words, with the numbers of its failed cases."""
    named = ", ".join(str(number) for number in counted.failed[:MAX_NAMED])
    more = f" and {len(counted.failed) - MAX_NAMED} more" if len(counted.failed) > MAX_NAMED else ""
    failed = f", failed: {named}{more}" if named else ""
    return f"{counted.kind} {counted.passed} of {counted.n} ({counted.needed:.0%} needed{failed})"


def _judge_case(
    number: int, case: Case, labels: Sequence[str], answers: Sequence[str], probabilities: Floats
) -> CaseResult:
    if case.kind == "must":
        wrong, expected = [0] if answers[0] != case.label else [], str(case.label)
    elif case.kind == "invariance":
        wrong, expected = [place for place, given in enumerate(answers) if given != answers[0]], answers[0]
    else:
        return _judge_direction(number, case, probabilities[:, labels.index(str(case.label))])
    shown = wrong[0] if wrong else 0
    text = (case.text, *case.variants)[shown]
    score = float(probabilities[shown].max())
    return CaseResult(number, case.kind, not wrong, text, expected, answers[shown], round(score, 4), case.why)


def _judge_direction(number: int, case: Case, chances: Floats) -> CaseResult:
    """Show the variant that comes closest to the text, or passes it."""
    gaps = float(chances[0]) - chances[1:].astype(np.float64)
    closest = int(gaps.argmin())
    passed = bool(gaps[closest] > case.margin) if case.margin == 0 else bool(gaps[closest] >= case.margin)
    expected = f"{case.label} below {max(0.0, float(chances[0]) - case.margin):.4f}"
    answered = f"{case.label} {float(chances[1 + closest]):.4f}"
    score = round(float(chances[1 + closest]), 4)
    return CaseResult(number, case.kind, passed, case.variants[closest], expected, answered, score, case.why)
