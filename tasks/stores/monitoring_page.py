"""The page on which a person reads one monitored window: Evidently's, with our tests as its metrics.

The only module that knows Evidently. Importing it costs seconds, so import it inside the task that writes a page. It
gets numbers and labels, never texts.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.core.window_record import EFFECTS

os.environ.setdefault("DO_NOT_TRACK", "true")  # before evidently is imported
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import BoundTest, SingleValue, SingleValueCalculation, SingleValueMetric
    from evidently.core.report import Context
    from evidently.legacy.renderers.html_widgets import CounterData, counter, table_data, text_widget
    from evidently.presets import ValueStats
    from evidently.tests import gt

NUMBERS = ["n_chars", "n_words", "score"]


class Overview(SingleValueMetric):  # type: ignore[misc]
    """The verdict, the accuracy and the decision, in words; its value is the number of rows."""

    counters: list[tuple[str, str]]
    lines: list[str]
    shares: list[list[str]]


class OverviewCalculation(SingleValueCalculation[Overview]):  # type: ignore[misc]
    """Shows what was found already."""

    def display_name(self) -> str:
        """Return the metric's title."""
        return "Window"

    def calculate(self, _context: Context, current_data: Dataset, _reference_data: Dataset | None) -> SingleValue:
        """Return the number of rows, with the widgets of the overview."""
        result = self.result(len(current_data.as_dataframe()))
        result.widget = [
            counter(counters=[CounterData(label, value) for label, value in self.metric.counters]),
            text_widget(text="\n".join(self.metric.lines)),
            table_data(title="Predicted labels", column_names=["label", "reference", "current", "shift"],
                       data=self.metric.shares),
        ]  # fmt: skip
        return result


class GroupPermutationTest(SingleValueMetric):  # type: ignore[misc]
    """One of our drift tests; its value is the corrected p-value, and it fails where the test fires."""

    test_name: str
    p_value: float
    effect: float
    alpha: float

    def _default_tests_with_reference(self, _context: Context) -> list[BoundTest]:
        return [gt(self.alpha).bind_single(self.get_fingerprint())]


class GroupPermutationCalculation(SingleValueCalculation[GroupPermutationTest]):  # type: ignore[misc]
    """Shows a p-value that `core.drift` computed."""

    def display_name(self) -> str:
        """Return the metric's title."""
        return f"Drift of {self.metric.test_name}: p-value by permuting whole groups"

    def calculate(self, _context: Context, _current_data: Dataset, _reference_data: Dataset | None) -> SingleValue:
        """Return the p-value, with its counters."""
        metric = self.metric
        shown = [
            ("p-value, corrected for all tests", f"{metric.p_value:.3f}"),
            (EFFECTS[metric.test_name], f"{metric.effect:.3f}"),
            ("fires at or below", f"{metric.alpha:g}"),
        ]
        result = self.result(metric.p_value)
        result.widget = [counter(title=self.display_name(), counters=[CounterData(*each) for each in shown])]
        return result


def write_monitoring_page(
    path: Path, *, record: Mapping[str, Any], alpha: float, reference: pd.DataFrame, current: pd.DataFrame
) -> None:
    """Write one self-contained html file.

    `record` is what `evertune monitor --json` prints. Both frames have the columns label (predicted), score, n_chars
    and n_words; nothing else of them is shown.
    """
    definition = DataDefinition(numerical_columns=NUMBERS, categorical_columns=["label"])
    sides = [Dataset.from_pandas(frame[[*NUMBERS, "label"]].reset_index(drop=True), data_definition=definition)
             for frame in (current, reference)]  # fmt: skip
    tests = [GroupPermutationTest(test_name=test["name"], p_value=test["p_value"], effect=test["effect"], alpha=alpha)
             for test in record["tests"]]  # fmt: skip
    overview = Overview(counters=_counters(record), lines=_lines(record), shares=_shares(record["shares"]))
    columns = [ValueStats(column=column) for column in ("label", *NUMBERS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Evidently divides by the spread of constant columns
        report = Report([overview, *tests, *columns], include_tests=True)
        snapshot = report.run(current_data=sides[0], reference_data=sides[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        snapshot.save_html(str(partial))
    partial.replace(path)


def _counters(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracy = record["accuracy"]
    return [
        ("verdict", str(record["verdict"])),
        ("texts in the window", str(record["window"]["n"])),
        (f"measured accuracy ({accuracy['n_labelled']} labels)", _percent(accuracy["measured"])),
        ("estimated accuracy", _percent(accuracy["estimated"])),
        ("decision", str(record["decision"]["action"])),
    ]


def _lines(record: Mapping[str, Any]) -> list[str]:
    window = record["window"]
    lines = [f"**{record['loop']}**, version {record['version']}, window from {window['from']} to {window['to']}.", ""]
    lines += [f"- Verdict: {record['reason']}", f"- Decision: {record['decision']['reason']}"]
    lines += [f"- Live check failed: {check['reason']} ({check['observed']})"
              for check in record["live"] if not check["success"]]  # fmt: skip
    return lines


def _shares(shares: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[each["label"], f"{each['reference']:.1%}", f"{each['current']:.1%}",
             f"{each['current'] - each['reference']:+.1%}"] for each in shares]  # fmt: skip


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
