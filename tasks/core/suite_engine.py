"""Great Expectations: the only module that knows its API; tests/integration/test_suite_engine.py holds the contract.

Imported inside the functions: it takes seconds.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

# COMPLETE names every failing row by its id. Values stay out: they are people's texts.
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}


class SuiteMistake(Exception):
    """An expectation that is unknown, is given wrong kwargs, or crashes; `place` is its place in the suite."""

    def __init__(self, place: int, problem: str) -> None:
        super().__init__(problem)
        self.place = place


@dataclass(frozen=True)
class Question:
    """One expectation to ask of a frame."""

    type: str
    kwargs: Mapping[str, Any]
    severity: Literal["critical", "warning"] = "warning"


@dataclass(frozen=True)
class Answer:
    """What was found: whether it holds, the ids of rows that fail it, and the numbers it saw."""

    success: bool
    unexpected_ids: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)  # observed_value, element_count, unexpected_count


def ask(frame: pd.DataFrame, questions: Sequence[Question], id_column: str) -> list[Answer]:
    """Return one answer per question, in their order; raises SuiteMistake for one that cannot be computed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Great Expectations imports deprecated modules and uses old pandas idioms
        report = _run(frame, questions, id_column)
    found = {result["expectation_config"]["meta"]["position"]: result for result in report["results"]}
    return [_read(found[place], place, id_column) for place in range(len(questions))]


def _run(frame: pd.DataFrame, questions: Sequence[Question], id_column: str) -> dict[str, Any]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # sets itself to INFO
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite("suite", expectations=[_build(one, place) for place, one in enumerate(questions)])
    result_format = {**RESULT_FORMAT, "unexpected_index_column_names": [id_column]}
    report: dict[str, Any] = batch.validate(suite, result_format=result_format).to_json_dict()
    return report


def _build(question: Question, place: int) -> Any:
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    configuration = ExpectationConfiguration(
        type=question.type, kwargs=dict(question.kwargs), severity=question.severity, meta={"position": place}
    )
    try:
        return configuration.to_domain_obj()
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise SuiteMistake(place, str(error)) from error


def _read(result: dict[str, Any], place: int, id_column: str) -> Answer:
    crash = _crash(result["exception_info"])
    if crash is not None:
        raise SuiteMistake(place, crash)
    details = result["result"]
    ids = [str(row_id) for entry in details.get("unexpected_index_list") or [] for row_id in entry[id_column]]
    return Answer(bool(result["success"]), list(dict.fromkeys(ids)), details)


def _crash(info: dict[str, Any]) -> str | None:
    """Return the message of a check that crashed: GE then nests one entry per metric, or sets raised_exception."""
    if "raised_exception" in info:
        return str(info["exception_message"]) if info["raised_exception"] else None
    return "; ".join(sorted({str(entry["exception_message"]) for entry in info.values()}))
