"""The data validation suite, judged by Great Expectations (imported only when needed: it takes seconds)."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from configs.schema import Expectation, SetExpectation
from tasks.core.errors import DataError

# COMPLETE names every failing row by its id. Values stay out: they are people's texts.
RESULT_FORMAT = {
    "result_format": "COMPLETE",
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Great Expectations imports deprecated modules and uses old pandas idioms
        report = _run(frame, expectations, id_column)
    found = {result["expectation_config"]["meta"]["position"]: result for result in report["results"]}
    return [_read(found[position], expectation, id_column) for position, expectation in enumerate(expectations)]


def _run(frame: pd.DataFrame, expectations: Sequence[Expectation], id_column: str) -> dict[str, Any]:
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)  # sets itself to INFO
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("rows").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite("suite", expectations=[_build(e, position) for position, e in enumerate(expectations)])
    result_format = {**RESULT_FORMAT, "unexpected_index_column_names": [id_column]}
    report: dict[str, Any] = batch.validate(suite, result_format=result_format).to_json_dict()
    return report


def _build(expectation: Expectation, position: int) -> Any:
    from great_expectations.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    severity = expectation.severity if isinstance(expectation, SetExpectation) else "warning"
    configuration = ExpectationConfiguration(
        type=expectation.type, kwargs=dict(expectation.kwargs), severity=severity, meta={"position": position}
    )
    try:
        return configuration.to_domain_obj()
    except (GreatExpectationsError, ValueError, TypeError) as error:
        raise _suite_error(expectation, str(error)) from error


def _read(result: dict[str, Any], expectation: Expectation, id_column: str) -> ExpectationResult:
    crash = _crash(result["exception_info"])
    if crash is not None:
        raise _suite_error(expectation, crash)
    details = result["result"]
    ids = [str(row_id) for entry in details.get("unexpected_index_list") or [] for row_id in entry[id_column]]
    return ExpectationResult(
        type=expectation.type,
        column=expectation.kwargs.get("column"),
        reason=expectation.reason,
        severity=expectation.severity if isinstance(expectation, SetExpectation) else "row",
        success=bool(result["success"]),
        unexpected_ids=list(dict.fromkeys(ids)),
        observed=_observed(details),
    )


def _crash(info: dict[str, Any]) -> str | None:
    """Return the message of a check that crashed: GE then nests one entry per metric, or sets raised_exception."""
    if "raised_exception" in info:
        return str(info["exception_message"]) if info["raised_exception"] else None
    return "; ".join(sorted({str(entry["exception_message"]) for entry in info.values()}))


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
