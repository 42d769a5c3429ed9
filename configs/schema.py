"""The pydantic model of everything that may stand in a loop's YAML file.

One loop is one registered model and one API route. Knobs that change a result live here; knobs that change only a place
(ports, folders, secrets) are environment variables in `configs/settings.py`.
"""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{1,62}$")]
Share = Annotated[float, Field(ge=0, lt=1)]
Delimiter = Annotated[str, Field(min_length=1, max_length=1)]  # a tab is "\t" in double quotes


class Section(BaseModel):
    """A frozen part of the file that accepts no unknown key."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Section):
    """Which column of the source holds what; a missing `group` makes each text its own group."""

    text: str = "text"
    label: str | None = "label"
    rating: str | None = None  # a number per row: auxiliary target, and the label's origin under data.rating_labels
    row_id: str | None = None  # absent: a hash of source, group and text
    group: str | None = None  # rows of one group never straddle two splits
    group_pattern: str | None = None  # regular expression; its match inside the group column is the group
    observed_at: str | None = None  # ISO 8601; absent: the row counts as older than every dated row
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
    use_feedback: bool = True  # labels that came back through the API join the next snapshot
    feedback_retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None  # labelled texts; null: kept, as rows

    @model_validator(mode="after")
    def _labels_have_an_origin(self) -> "Data":
        for source in self.sources:
            columns = source.columns
            if columns.label is None and (columns.rating is None or self.rating_labels is None):
                raise ValueError(
                    f"source '{source.name}' needs columns.label, or columns.rating with data.rating_labels"
                )
        return self


class Lora(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): rank and scale of the low-rank update."""

    rank: Annotated[int, Field(ge=1, le=512)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    dropout: Share = 0.0


class Training(Section):
    """How the base model becomes the challenger."""

    base_model: str  # `package:NAME` (an installed package that carries the files), a folder, or a hub id
    method: Literal["full", "lora"] = "full"
    lora: Lora = Lora()
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 128
    epochs: Annotated[float, Field(gt=0, le=100)] = 3
    max_steps: Annotated[int, Field(ge=1)] | None = None  # stops earlier than epochs would
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 5e-5
    head_learning_rate: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.01
    dropout: Share = 0.0
    freeze_embeddings: bool = True
    class_weights: Literal["none", "balanced"] = "none"
    rating_weight: Annotated[float, Field(ge=0, le=100)] = 0.0  # weight of the auxiliary rating loss (squared error)
    evaluations_per_epoch: Annotated[int, Field(ge=1, le=100)] = 2
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = 4  # evaluations without a better validation macro-F1
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 where a trial shows it faster
    seed: int = 13


class Gate(Section):
    """The rules a challenger must pass to become champion. All of them hold, or it stays a challenger."""

    min_macro_f1: Annotated[float, Field(gt=0, lt=1)]
    max_accuracy_loss: Annotated[float, Field(ge=0, lt=1)] = 0.01  # non-inferiority margin of the paired bootstrap
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    min_test_rows: Annotated[int, Field(ge=1)] = 100
    min_parity: Annotated[float, Field(gt=0, le=1)] = 0.995  # share of test rows where export and checkpoint agree
    max_parity_difference: Annotated[float, Field(gt=0, lt=1)] = 0.02  # largest difference of a probability


class Release(Section):
    """What the service checks on a new version before it answers with it."""

    max_case_difference: Annotated[float, Field(gt=0, lt=1)] = 0.02  # of a stored case's probability
    max_latency_ms: Annotated[float, Field(gt=0)] = 500.0  # median of single-text predictions


class Serving(Section):
    """Limits of the prediction route."""

    max_texts: Annotated[int, Field(ge=1, le=10_000)] = 128  # per request
    max_chars: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # per text; longer is refused with 413
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32  # texts per micro-batch
    max_queue: Annotated[int, Field(ge=1)] = 2048  # texts waiting; beyond it the answer is 503 with Retry-After
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90  # logged predictions without a label


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
    max_tested_rows: Annotated[int, Field(ge=50, le=20_000)] = 1000  # per side, sampled by group
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
    events: list[Literal["drift", "failed", "refused", "rollback"]] = ["drift", "failed", "refused", "rollback"]


class Loop(Section):
    """One loop: what `configs/loops/NAME.yaml` holds."""

    name: Name
    description: str = ""
    labels: Annotated[list[str], Field(min_length=2)]
    data: Data
    training: Training
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
        return self

    @model_validator(mode="after")
    def _sources_differ(self) -> "Loop":
        names = [source.name for source in self.data.sources]
        if len(set(names)) != len(names) or "feedback" in names:
            raise ValueError(f"data.sources need different names, none of them 'feedback' (got {names})")
        return self
