"""The pydantic model of everything that may stand in a loop's YAML file.

One loop is one registered model and one API route. Knobs that change a result live here; knobs that change only a place
(ports, folders, secrets) are environment variables in `configs/settings.py`.
"""

import re
from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from configs.data_schema import (
    AnySource,
    Columns,
    Data,
    Expectation,
    Expectations,
    FileSource,
    HubSource,
    PackageSource,
    RatingLabels,
    SetExpectation,
    SourceBase,
    Splits,
    SqlSource,
)
from configs.gate_schema import Behaviour, Case, Gate, Slice, Unknown
from configs.sections import Name, Section
from configs.serving_schema import Release, Serving
from configs.training_schema import Augmentation, FewShot, LabelNoise, Lora, Replay, Training
from configs.tuning_schema import SearchRange, Tuning

__all__ = [
    "AnySource",
    "Augmentation",
    "Behaviour",
    "Case",
    "Channel",
    "Columns",
    "Data",
    "Expectation",
    "Expectations",
    "FewShot",
    "FileSource",
    "Gate",
    "HubSource",
    "LabelNoise",
    "Loop",
    "Lora",
    "Monitoring",
    "PackageSource",
    "RatingLabels",
    "Release",
    "Replay",
    "Retraining",
    "Schedule",
    "SearchRange",
    "Serving",
    "SetExpectation",
    "Slice",
    "SourceBase",
    "Splits",
    "SqlSource",
    "Training",
    "Tuning",
    "Unknown",
    "Window",
]


class Schedule(Section):
    """A cron line with its time zone."""

    cron: str  # minute, hour, day of month, month, day of week
    timezone: str = "UTC"  # a name of the IANA time zone database

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        problem = f"{len(cron.split())} fields, 5 are needed" if len(cron.split()) != 5 else None
        try:
            CronSim(cron, datetime(2024, 1, 1))  # any day: only the line is judged
        except CronSimError as error:
            problem = problem or str(error).lower()
        if problem is None and re.search(r"\dL|W", cron, re.IGNORECASE):  # CronSim knows them, Prefect does not
            problem = "L and W after a number are not known here"
        if problem is not None:
            raise ValueError(f"not a cron line ({problem}), for example '30 2 * * *' for half past two every night")
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: the name of a folder of zones
            raise ValueError("not a time zone, for example 'Europe/Berlin' or 'UTC'") from error
        return timezone


class Window(Section):
    """The current window: the newest logged texts."""

    max_rows: Annotated[int, Field(ge=20, le=1_000_000)] = 1000
    min_rows: Annotated[int, Field(ge=10)] = 50  # fewer: no verdict
    max_age_hours: Annotated[float, Field(gt=0)] | None = None


class Monitoring(Section):
    """The drift rule: k of the last n windows and the newest, each at a stated false-alarm rate."""

    schedule: Schedule
    window: Window = Window()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01  # false-alarm rate per window over all tests together
    permutations: Annotated[int, Field(ge=199, le=100_000)] = 999
    max_tested_rows: Annotated[int, Field(ge=50, le=5000)] = 1000  # per side, by group; costs grow squared
    k: Annotated[int, Field(ge=1)] = 2
    n: Annotated[int, Field(ge=1)] = 3

    @model_validator(mode="after")
    def _k_of_n(self) -> "Monitoring":
        if self.k > self.n:
            raise ValueError(f"k must not exceed n (got k={self.k}, n={self.n})")
        if (self.permutations + 1) * self.alpha < 1:
            raise ValueError(f"permutations must be at least {1 / self.alpha - 1:.0f} for alpha {self.alpha:g}")
        return self


class Retraining(Section):
    """When drift or time makes a retrain worth its cost."""

    schedule: Schedule | None = None
    cooldown_hours: Annotated[float, Field(ge=0)] = 6.0  # after a retrain that monitoring started
    min_new_labels: Annotated[int, Field(ge=1)] = 100  # labels that no training has seen


class Channel(Section):
    """Where alerts go: an Apprise URL (https://github.com/caronc/apprise) kept in an environment variable."""

    name: Name
    url_from: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]+$")]
    # approval: a version waits for a person's yes, or was let go without one; release: one enters its next stage
    events: list[Literal["drift", "failed", "refused", "rollback", "approval", "release"]] = [
        "drift",
        "failed",
        "refused",
        "rollback",
        "approval",
        "release",
    ]


class Loop(Section):
    """One loop: what `configs/loops/NAME.yaml` holds."""

    name: Name
    description: str = ""
    labels: Annotated[list[str], Field(min_length=2)]
    data: Data
    training: Training
    tuning: Tuning = Tuning()
    slices: list[Slice] = []
    unknown: Unknown | None = None  # null: every text gets one of the labels
    behaviour: Behaviour = Behaviour()  # read from NAME.cases.yaml beside this file
    gate: Gate
    release: Release = Release()
    serving: Serving = Serving()
    monitoring: Monitoring
    retraining: Retraining = Retraining()
    alerts: list[Channel] = []

    @model_validator(mode="after")
    def _labels_fit(self) -> "Loop":
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must differ from each other (got {self.labels})")
        thresholds = self.data.rating_labels.thresholds if self.data.rating_labels else None
        if thresholds is not None and (len(thresholds) != len(self.labels) - 1 or thresholds != sorted(thresholds)):
            raise ValueError(
                f"data.rating_labels.thresholds needs {len(self.labels) - 1} ascending numbers for "
                f"{len(self.labels)} labels (got {thresholds})"
            )
        if self.unknown is not None and "unknown" in self.labels:
            raise ValueError("labels: 'unknown' is what texts out of scope are answered; name the label otherwise")
        for source in self.data.sources:
            named = source.columns.soft_labels
            if named is not None and sorted(named) != sorted(self.labels):
                raise ValueError(
                    f"source '{source.name}': columns.soft_labels needs one column for each of {self.labels} "
                    f"(got {sorted(named)})"
                )
        return self

    @model_validator(mode="after")
    def _slices_and_cases_fit(self) -> "Loop":
        names = [one.name for one in self.slices]
        if len(set(names)) != len(names):
            raise ValueError(f"slices need different names (got {names})")
        problems: list[tuple[tuple[str | int, ...], str]] = []  # places below the loop, so that each line is named
        columns = {"source"}.union(*(source.columns.attributes for source in self.data.sources))
        for number, one in enumerate(self.slices):
            if one.column is not None and one.column not in columns:
                known_columns = f"there are: {', '.join(sorted(columns))}"
                told = f"no column {one.column}; {known_columns}. Others are named in data.sources[].columns.attributes"
                problems.append((("slices", number, "column"), told))
        for number, case in enumerate(self.behaviour.cases):
            known = {*self.labels, "unknown"} if self.unknown and case.kind == "must" else {*self.labels}
            if case.label is not None and case.label not in known:
                told = f"must be one of {sorted(known)} (got '{case.label}')"
                problems.append((("behaviour", "cases", number, "label"), told))
        if problems:
            message = "; ".join(f"{'.'.join(map(str, place))}: {told}" for place, told in problems)
            raise PydanticCustomError("places", "{told}", {"told": message, "places": problems})
        return self

    @model_validator(mode="after")
    def _sources_differ(self) -> "Loop":
        names = [source.name for source in self.data.sources]
        if len(set(names)) != len(names) or "feedback" in names:
            raise ValueError(f"data.sources need different names, none of them 'feedback' (got {names})")
        return self
