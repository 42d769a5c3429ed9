"""What the API takes and gives, as its OpenAPI page shows it."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.core.scorable import CONTROL

MAX_FEEDBACK_ITEMS = 1000


def check_unicode(value: str) -> str:
    """Return a string that can be stored; raises ValueError for half of a surrogate pair, which JSON can smuggle in."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid Unicode (a lone surrogate)") from error
    return value


def check_name(value: str) -> str:
    """Return a string that can be stored and shown; raises ValueError for one with control characters."""
    if value.isprintable():  # the usual case, told in one pass: printable are neither controls nor surrogates
        return value
    check_unicode(value)
    control = CONTROL.search(value)
    if control is not None:
        at = control.start()
        raise ValueError(f"holds a control character at position {at}; only tab and line breaks are accepted")
    return value


def check_text(text: str) -> str:
    """Return a text that a model can be asked about; raises ValueError for an empty one or control characters."""
    if not text or text.isspace():
        raise ValueError("is empty; accepted is text of at least one visible character")
    return check_name(text)


Text = Annotated[str, AfterValidator(check_text)]
Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(check_name)]
PredictionId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(check_name)]


class Body(BaseModel):
    """A request body that accepts no unknown key."""

    model_config = ConfigDict(extra="forbid")


class PredictInput(Body):
    """One text, and optionally the session, user or document it belongs to."""

    text: Text
    group: Name | None = None


class PredictRequest(Body):
    """Either `inputs`, or the shorthand for a single text."""

    inputs: Annotated[list[PredictInput], Field(min_length=1)] | None = None
    text: Text | None = None
    group: Name | None = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "Great picture, and it was easy to set up."},
                {"inputs": [{"text": "It broke after a week.", "group": "session-17"}, {"text": "It is a camera."}]},
            ],
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}, "inputs": {"type": "null"}}},
                {
                    "required": ["inputs"],
                    "properties": {"inputs": {"type": "array"}, "text": {"type": "null"}, "group": {"type": "null"}},
                },
            ],
        },
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "PredictRequest":
        if (self.inputs is None) == (self.text is None):
            raise ValueError("give either 'text' or 'inputs': [{'text': …, 'group': …}]")
        if self.inputs is not None and self.group is not None:
            raise ValueError("'group' beside 'inputs' is not accepted; give each input its own")
        return self

    def as_inputs(self) -> list[PredictInput]:
        """Return the texts in either form as one list."""
        if self.inputs is not None:
            return self.inputs
        assert self.text is not None
        return [PredictInput.model_construct(text=self.text, group=self.group)]


class PredictedText(BaseModel):
    """The answer to one text."""

    prediction_id: str
    label: str = Field(
        description="One of the loop's labels; or `unknown`, where the loop answers so to texts outside its scope"
    )
    score: float = Field(description="The probability of the likeliest label, also where the answer is `unknown`")
    scores: dict[str, float] = Field(description="The probability of every label; they sum to 1")
    truncated: bool = Field(description="The text was longer than the model reads; its tail was left out")
    version: str | None = Field(
        None, description="The version that answered this text, where it is another than the call's (a canary)"
    )


class PredictAnswer(BaseModel):
    """The answers, in the order of the texts."""

    loop: str
    version: str
    predictions: list[PredictedText]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "loop": "product-sentiment",
                    "version": "3",
                    "predictions": [
                        {
                            "prediction_id": "0198c2a57b1e4f0d9c3a6b8e2d714f05",
                            "label": "negative",
                            "score": 0.98,
                            "scores": {"negative": 0.98, "neutral": 0.01, "positive": 0.01},
                            "truncated": False,
                        }
                    ],
                }
            ]
        }
    )


class FeedbackItem(Body):
    """The true label of an earlier prediction."""

    prediction_id: PredictionId
    label: Annotated[Name, Field(description="One of the loop's labels, or `unknown` where the loop answers so")]
    labeller: Name | None = None


class FeedbackRequest(Body):
    """Either one item's fields, or `items`."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=MAX_FEEDBACK_ITEMS)] | None = None
    prediction_id: PredictionId | None = None
    label: Name | None = None
    labeller: Name | None = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prediction_id": "0198c2a57b1e4f0d9c3a6b8e2d714f05", "label": "negative", "labeller": "ana"},
                {"items": [{"prediction_id": "0198c2a57b1e4f0d9c3a6b8e2d714f05", "label": "positive"}]},
            ],
            "oneOf": [
                {
                    "required": ["prediction_id", "label"],
                    "properties": {
                        "prediction_id": {"type": "string"},
                        "label": {"type": "string"},
                        "items": {"type": "null"},
                    },
                },
                {
                    "required": ["items"],
                    "properties": {
                        "items": {"type": "array"},
                        **{name: {"type": "null"} for name in ("prediction_id", "label", "labeller")},
                    },
                },
            ],
        },
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "FeedbackRequest":
        single = self.prediction_id is not None and self.label is not None
        if self.items is not None and (self.prediction_id or self.label or self.labeller):
            raise ValueError("give either 'prediction_id' and 'label', or 'items'")
        if self.items is None and not single:
            raise ValueError("give 'prediction_id' and 'label', or 'items': [{'prediction_id': …, 'label': …}]")
        return self

    def as_item(self) -> FeedbackItem:
        """Return the single item of the short form."""
        assert self.prediction_id is not None
        assert self.label is not None
        return FeedbackItem(prediction_id=self.prediction_id, label=self.label, labeller=self.labeller)


class FeedbackStatus(BaseModel):
    """`repeated`: this very label was there before."""

    status: Literal["recorded", "repeated"]


class FeedbackItemStatus(BaseModel):
    """What became of one item; `message` says why it was not recorded."""

    prediction_id: str
    status: Literal["recorded", "repeated", "conflict", "unknown", "invalid"]
    message: str | None = None


class FeedbackAnswer(BaseModel):
    """One status per item, in their order."""

    items: list[FeedbackItemStatus]


class LoopLimits(BaseModel):
    """What one request may hold."""

    max_texts: int
    max_chars: int


class LoopInfo(BaseModel):
    """What a loop answers, and with which version since when; `version` is null before the first release."""

    name: str
    description: str
    labels: list[str]
    answers_unknown: bool = Field(description="Whether texts outside the loop's scope are answered `unknown`")
    version: str | None
    since: datetime | None
    limits: LoopLimits


class UsageRow(BaseModel):
    """What one key used of one loop on one UTC day."""

    key_id: str
    loop: str
    day: str
    requests: int
    texts: int


class Problem(BaseModel):
    """What went wrong."""

    code: str
    message: str


class ProblemAnswer(BaseModel):
    """The body of every answer that is no success."""

    error: Problem


class ReleaseRequest(Body):
    """The version to serve; with `check_only` to load and check beside the one that serves on."""

    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
    check_only: bool = False

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": "7", "check_only": True}]})
