"""Pages of Evidently: the only module that knows its API; tests/integration/test_evidently_page.py holds the contract.

Our numbers are its metrics: a `Panel` is one, with widgets of its own, and a test where it has a limit. Importing
Evidently costs seconds, so import this inside the task that writes a page.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

os.environ.setdefault("DO_NOT_TRACK", "true")  # before evidently is imported
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.metric_types import BoundTest, SingleValue, SingleValueCalculation, SingleValueMetric
    from evidently.core.report import Context
    from evidently.legacy.renderers.html_widgets import CounterData, counter, table_data, text_widget
    from evidently.presets import ValueStats
    from evidently.tests import gt


@dataclass(frozen=True)
class Table:
    """Rows of words and numbers under a title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Panel:
    """One metric of the page: its value, what is shown of it, and the limit that its test must lie above, if any.

    `lines` are Markdown.
    """

    title: str
    value: float
    counters: Sequence[tuple[str, str]] = ()
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    above: float | None = None


class PanelMetric(SingleValueMetric):  # type: ignore[misc]
    """A panel as Evidently's metric: plain fields, from which it makes the metric's fingerprint."""

    title: str
    number: float
    counters: list[tuple[str, str]]
    lines: list[str]
    tables: list[tuple[str, list[str], list[list[str]]]]
    above: float | None

    def _default_tests_with_reference(self, _context: Context) -> list[BoundTest]:
        return [] if self.above is None else [gt(self.above).bind_single(self.get_fingerprint())]


class PanelCalculation(SingleValueCalculation[PanelMetric]):  # type: ignore[misc]
    """Shows what was computed already."""

    def display_name(self) -> str:
        """Return the metric's title."""
        title: str = self.metric.title
        return title

    def calculate(self, _context: Context, _current_data: Dataset, _reference_data: Dataset | None) -> SingleValue:
        """Return the panel's value with its widgets."""
        metric, widgets = self.metric, []
        if metric.counters:
            shown = [CounterData(label, value) for label, value in metric.counters]
            widgets.append(counter(title=metric.title, counters=shown))
        if metric.lines:
            widgets.append(text_widget(text="\n".join(metric.lines)))
        widgets += [table_data(title=title, column_names=columns, data=rows) for title, columns, rows in metric.tables]
        result = self.result(metric.number)
        result.widget = widgets
        return result


def write_page(
    path: Path,
    panels: Sequence[Panel],
    *,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    numbers: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Write one self-contained html file: the panels, then each named column's statistics on both sides."""
    columns = [*numbers, *categories]
    definition = DataDefinition(numerical_columns=list(numbers), categorical_columns=list(categories))
    sides = [Dataset.from_pandas(frame[columns].reset_index(drop=True), data_definition=definition)
             for frame in (current, reference)]  # fmt: skip
    metrics = [*map(_as_metric, panels), *(ValueStats(column=column) for column in [*categories, *numbers])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Evidently divides by the spread of constant columns
        snapshot = Report(metrics, include_tests=True).run(current_data=sides[0], reference_data=sides[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        snapshot.save_html(str(partial))
    partial.replace(path)


def _as_metric(panel: Panel) -> PanelMetric:
    return PanelMetric(
        title=panel.title,
        number=panel.value,
        counters=list(panel.counters),
        lines=list(panel.lines),
        tables=[(table.title, list(table.columns), [list(row) for row in table.rows]) for table in panel.tables],
        above=panel.above,
    )
