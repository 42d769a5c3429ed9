"""The data validation suite: what a loop's YAML expects of its rows, and what was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from configs.schema import Expectation, SetExpectation
from tasks.core.errors import DataError
from tasks.core.suite_engine import Answer, Question, SuiteMistake, ask


@dataclass(frozen=True)
class ExpectationResult:
    """What one expectation found; `row` severity means that failing rows are set aside and the run goes on."""

    type: str
    column: str | None
    reason: str
    severity: Literal["row", "critical", "warning"]
    success: bool
    unexpected_ids: list[str]  # rows that fail it, also where `mostly` forgives them; empty for expectations on a set
    observed: str


def validate(
    frame: pd.DataFrame, expectations: Sequence[Expectation | SetExpectation], id_column: str = "row_id"
) -> list[ExpectationResult]:
    """Judge a frame; one result per expectation, in their order.

    Raises DataError naming the expectation when one is unknown or cannot be computed: that is a mistake in the
    suite, and says nothing about the data.
    """
    if not expectations:
        return []
    questions = [
        Question(one.type, one.kwargs, one.severity if isinstance(one, SetExpectation) else "warning")
        for one in expectations
    ]
    try:
        answers = ask(frame, questions, id_column)
    except SuiteMistake as mistake:
        raise _suite_error(expectations[mistake.place], str(mistake)) from mistake
    return [_read(answer, one) for answer, one in zip(answers, expectations, strict=True)]


def _read(answer: Answer, expectation: Expectation) -> ExpectationResult:
    return ExpectationResult(
        type=expectation.type,
        column=expectation.kwargs.get("column"),
        reason=expectation.reason,
        severity=expectation.severity if isinstance(expectation, SetExpectation) else "row",
        success=answer.success,
        unexpected_ids=answer.unexpected_ids,
        observed=_observed(answer.details),
    )


def _observed(details: dict[str, Any]) -> str:
    value = details.get("observed_value")
    if isinstance(value, bool | int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, list | dict):
        return f"{len(value)} values"
    if "element_count" in details:
        return f"{details['unexpected_count']:,} of {details['element_count']:,} rows"
    return f"{details['unexpected_count']:,} unexpected" if "unexpected_count" in details else ""


def _suite_error(expectation: Expectation, problem: str) -> DataError:
    return DataError(
        f"expectation {expectation.type} ({expectation.reason}) cannot be computed: {' '.join(problem.split())[:300]}. "
        f"Mend its kwargs {expectation.kwargs} in data.expectations of the loop's YAML"
    )
