"""How a version comes to serve, and what one request may ask."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections import Section

StageName = Literal["shadow", "canary"]
EngineName = Literal["auto", "onnx-fp32", "onnx-int8", "openvino-bf16", "torch-cuda"]


class Shadow(Section):
    """A stage in which a new version answers beside the one that serves; nobody sees its answers."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2  # of the groups (texts without one: of the texts)
    minutes: Annotated[float, Field(ge=0, le=100_000)] = 60  # at least so long
    min_texts: Annotated[int, Field(ge=1)] = 500  # compared at least


class Canary(Section):
    """A stage in which a new version answers a part of the callers, always the same ones."""

    share: Annotated[float, Field(gt=0, le=0.5)] = 0.1  # of the groups (texts without one: of the API keys)
    minutes: Annotated[float, Field(ge=0, le=100_000)] = 60  # at least so long
    min_texts: Annotated[int, Field(ge=1)] = 200  # compared at least


class Stages(Section):
    """What a new version goes through before it serves everyone, and the limits beyond which it is taken back.

    Limits are held against the version that serves, on the same texts. `error_rate` is that of all limits together:
    a version within every one of them is taken back in at most this share of releases, however long it is watched.
    """

    shadow: Shadow | None = None  # null: no such stage
    canary: Canary | None = None  # both null: a version serves everyone as soon as it passed the checks
    max_error_share: Annotated[float, Field(gt=0, lt=1)] = 0.001  # of texts that it cannot answer
    max_latency_ratio: Annotated[float, Field(gt=0)] = 2.0  # median, for single texts
    max_disagreement: Annotated[float, Field(gt=0, lt=1)] = 0.25  # of groups it answers another label
    max_score_distance: Annotated[float, Field(gt=0, lt=1)] = 0.2  # Kolmogorov-Smirnov, between the scores
    max_accuracy_loss: Annotated[float, Field(ge=0, lt=1)] = 0.02  # where feedback gave labels
    needs_proof: bool = False  # true: stable only when labels rule out a larger loss of accuracy
    error_rate: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    max_days: Annotated[float, Field(gt=0, le=365)] = 14  # after that a release that is still on its way is let go

    @property
    def names(self) -> tuple[StageName, ...]:
        """Return the stages that a new version goes through, in order."""
        first: tuple[StageName, ...] = ("shadow",) if self.shadow is not None else ()
        return (*first, "canary") if self.canary is not None else first


class Release(Section):
    """What the service checks on a new version before it answers with it."""

    max_case_difference: Annotated[float, Field(gt=0, lt=1)] = 0.02  # of a stored case's probability
    max_latency_ms: Annotated[float, Field(gt=0)] = 500.0  # median of single-text predictions
    approval: Literal["none", "required"] = "none"  # required: a person says yes before a version serves
    approval_days: Annotated[float, Field(gt=0, le=365)] = 7  # after that the challenger is let go
    stages: Stages = Stages()


class Labelling(Section):
    """When what people say on the labelling page becomes the label of a text, as if it were feedback."""

    votes: Annotated[int, Field(ge=1, le=9)] = 1  # equal labels, each of another person
    max_votes: Annotated[int, Field(ge=1, le=15)] = 3  # so many without an agreement: a text that people dispute
    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.2  # of the queue, drawn by chance; the rest teaches most

    @model_validator(mode="after")
    def _can_agree(self) -> "Labelling":
        if self.max_votes < self.votes:
            raise ValueError(f"max_votes: {self.max_votes} votes can never hold {self.votes} equal ones (key votes)")
        return self


class Jobs(Section):
    """Limits of files of texts that are answered in the background."""

    max_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 64 * 2**20  # of one upload; longer is refused with 413
    max_texts: Annotated[int, Field(ge=1, le=10_000_000)] = 200_000  # rows of one upload
    max_open: Annotated[int, Field(ge=1, le=1000)] = 8  # unfinished jobs of a key; beyond it the answer is 429
    keep_days: Annotated[float, Field(gt=0, le=365)] = 7  # answers after a job's end; the upload goes at once


class Serving(Section):
    """Limits of the prediction route."""

    max_texts: Annotated[int, Field(ge=1, le=10_000)] = 128  # per request
    max_chars: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # per text; longer is refused with 413
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 32  # texts per micro-batch
    max_queue: Annotated[int, Field(ge=1)] = 2048  # texts waiting; beyond it the answer is 503 with Retry-After
    timeout_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90  # logged predictions without a label
    engine: EngineName = "auto"  # auto: the fastest that passes, measured where the version is made
    engine_max_macro_f1_loss: Annotated[float, Field(ge=0, lt=1)] = 0.005  # of an engine on validation rows
    long_texts: Literal["truncate", "window"] = "truncate"  # beyond training.max_tokens: cut off, or read in windows
    window_overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.25  # of max_tokens, that neighbouring windows share
    share_weights: bool = False  # hold weights that loops have in common once: less memory, slower single texts
    labelling: Labelling = Labelling()
    jobs: Jobs = Jobs()

    @model_validator(mode="after")
    def _can_share(self) -> "Serving":
        if self.share_weights and self.engine not in ("auto", "onnx-fp32"):
            raise ValueError(f"engine: {self.engine} keeps weights of its own; share_weights needs onnx-fp32 (or auto)")
        return self
