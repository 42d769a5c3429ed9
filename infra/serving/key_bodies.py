"""What the routes on keys, plans and usage take and give."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from infra.serving.bodies import Body, Name


def as_utc(moment: datetime) -> datetime:
    """Return a time in UTC; raises ValueError where that is beyond the calendar."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is beyond the calendar") from error


Moment = Annotated[AwareDatetime, AfterValidator(as_utc)]
GRACE_HOURS = Field(strict=True, ge=0, le=24 * 90, description="How long the secret before it opens; 0: not at all")
PlanField = Annotated[Name | None, Field(description="A plan of the plans file; null: no limits and no statement")]


class CreateKeyRequest(Body):
    """A new key; `loops` null: all of them. Without `plan` it gets the default plan of the plans file."""

    name: Name
    loops: Annotated[list[str], Field(min_length=1)] | None = None
    plan: PlanField = None
    expires_at: Moment | None = None

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "web-shop", "loops": ["product-sentiment"], "plan": "pro"}]},
    )


class ChangeKeyRequest(Body):
    """What shall be different from now on; what is not given stays."""

    plan: PlanField = None
    expires_at: Annotated[Moment | None, Field(description="null: it never ends")] = None

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"plan": "business"}]})


class RotateKeyRequest(Body):
    """How long the secret before the new one is good for."""

    grace_hours: Annotated[float, GRACE_HOURS] = 24.0

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"grace_hours": 24}]})


class KeyInfo(BaseModel):
    """A key without its secret."""

    key_id: str
    name: str
    loops: list[str] | None
    created_at: datetime
    revoked_at: datetime | None
    plan: str | None
    expires_at: datetime | None
    state: Literal["valid", "expired", "revoked"]


class NewKey(KeyInfo):
    """A key with its secret, which is shown this once."""

    secret: str


class NewSecret(BaseModel):
    """The new secret of a key, which is shown this once."""

    key_id: str
    secret: str
    former_until: datetime = Field(description="Until when the secret before it opens")


class PlanUsage(BaseModel):
    """What the plan of this key includes in the running UTC month, and what is used of it."""

    plan: str | None = Field(description="null: this key has no limits")
    description: str
    used: int = Field(description="Texts answered in this month, counted from the prediction log")
    included: int | None
    left: int | None = Field(description="Included texts that are left")
    beyond: Literal["refuse", "bill"] | None = Field(
        description="What happens beyond the included texts: 429 until `resets_at`, or they are answered and billed"
    )
    overage: int = Field(description="Texts beyond the included ones")
    resets_at: datetime
    requests_per_second: int | None
    burst: int | None = Field(description="Requests at once")
    currency: str | None
    monthly_price: str | None = Field(description="A decimal number", examples=["49.00"])
    price_per_1000_texts: str | None = Field(description="Of texts beyond the included ones", examples=["0.60"])
    amount: str | None = Field(
        description="What this month costs so far, by the dearest plan that the key had in it", examples=["51.40"]
    )
    expires_at: datetime | None = Field(description="When this key ends; null: it does not")
