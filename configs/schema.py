"""The pydantic model of everything that may stand in a loop's YAML file.

One loop is one registered model and one API route. Knobs that change a result live here; knobs that change only a place
(ports, folders, secrets) are environment variables in `configs/settings.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator
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
from configs.monitoring_schema import Monitoring, Window
from configs.retraining_schema import Retraining
from configs.schedule import Schedule
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
