"""The part of a loop's YAML file that says when a retrain is worth its cost."""

from typing import Annotated

from pydantic import Field

from configs.schedule import Schedule
from configs.sections import Section


class Retraining(Section):
    """When drift, a loss of accuracy, new labels or time make a retrain worth its cost.

    What a person starts is never held back by any of this.
    """

    schedule: Schedule | None = None
    schedule_min_new_rows: Annotated[int, Field(ge=1)] = 1  # rows new, mended or gone since the last training
    cooldown_hours: Annotated[float, Field(ge=0)] = 6.0  # after a retrain that monitoring started
    min_new_labels: Annotated[int, Field(ge=1)] = 100  # labels that no training has seen
    labels_alone: Annotated[int, Field(ge=1)] | None = None  # so many of them are worth a retrain without any drift
    # Live accuracy below that on the champion's test rows by more than this, beyond chance; null: drift alone counts.
    max_accuracy_drop: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_accuracy_labels: Annotated[int, Field(ge=10)] = 50  # labelled texts of a window from which accuracy is measured
    budget_hours: Annotated[float, Field(gt=0)] | None = None  # of retrains in a calendar month (UTC), all of them
    # After so many refused challengers in a row, k of them, the next one needs k times the new labels or rows.
    stop_after_refused: Annotated[int, Field(ge=1)] | None = 3
