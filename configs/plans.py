"""What the prediction API sells: the plans of `configs/plans.yaml`, and every problem of that file by line."""

import logging
from collections.abc import Collection
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from configs.load import ConfigError, load_section
from configs.sections import Section

logger = logging.getLogger(__name__)
PlanName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class Plan(Section):
    """What one key may ask per second and per month, and what that costs."""

    name: str = Field("", exclude=True)  # the key it stands under
    description: str = ""
    requests_per_second: Annotated[int, Field(ge=1, le=100_000)]  # on average, over the time that `burst` takes
    burst: Annotated[int, Field(ge=1, le=1_000_000)]  # requests at once; a multiple of requests_per_second
    texts_per_month: Annotated[int, Field(ge=0, le=10**12)]  # included in the price, per UTC calendar month
    beyond: Literal["refuse", "bill"]  # the included texts: 429 until the month ends, or answered and billed
    loops: list[str] | None = None  # null: every loop; a key may be narrowed further
    monthly_price: Annotated[Decimal, Field(ge=0, le=10**9, decimal_places=2)]  # in the file's currency
    # Of texts beyond the included ones, where those are billed.
    price_per_1000_texts: Annotated[Decimal, Field(gt=0, le=10**6, decimal_places=6)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> "Plan":
        if self.burst % self.requests_per_second:
            raise ValueError(
                f"burst {self.burst} is no multiple of requests_per_second {self.requests_per_second}: "
                "a burst is what collects in whole seconds"
            )
        if (self.beyond == "bill") != (self.price_per_1000_texts is not None):
            needed = "needs" if self.beyond == "bill" else "takes no"
            raise ValueError(f"beyond: {self.beyond} {needed} price_per_1000_texts")
        return self

    @property
    def window_seconds(self) -> int:
        """Return the seconds in which `burst` requests collect."""
        return self.burst // self.requests_per_second


class Plans(Section):
    """The plans that a key can have."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]  # ISO 4217; one for all plans
    default_plan: PlanName  # of a key for which nobody names one
    plans: Annotated[dict[PlanName, Plan], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _name_plans(cls, document: Any) -> Any:
        plans = document.get("plans") if isinstance(document, dict) else None
        if not isinstance(plans, dict):
            return document
        given = [("plans", name, "name") for name, one in plans.items() if isinstance(one, dict) and "name" in one]
        if given:
            told = "unknown key; a plan is named by the key that it stands under"
            raise PydanticCustomError("named_twice", "named twice", {"places": [(place, told) for place in given]})
        named = {name: {**one, "name": name} if isinstance(one, dict) else one for name, one in plans.items()}
        return {**document, "plans": named}

    @model_validator(mode="after")
    def _names_what_there_is(self, info: ValidationInfo) -> "Plans":
        places: list[tuple[tuple[str | int, ...], str]] = []
        if self.default_plan not in self.plans:
            places.append((("default_plan",), f"no plan '{self.default_plan}'; there are: {', '.join(self.plans)}"))
        loops: Collection[str] | None = info.context
        for plan in self.plans.values():
            for position, loop in enumerate(plan.loops or []):
                if loops is not None and loop not in loops:
                    told = f"there is no loop '{loop}'; there are: {', '.join(sorted(loops)) or 'none'}"
                    places.append((("plans", plan.name, "loops", position), told))
        if places:
            raise PydanticCustomError("unknown_name", "no such name", {"places": places})
        return self

    def find(self, name: str) -> Plan:
        """Return a plan by its name; raises ConfigError naming the plans there are."""
        if name not in self.plans:
            raise ConfigError(f"no plan '{name}'; there are: {', '.join(self.plans)}")
        return self.plans[name]


def load_plans(path: Path, loops: Collection[str] | None = None) -> Plans:
    """Return the plans of a file; raises ConfigError with one line per problem.

    `loops`: the names that there are, to find a plan that sells one which does not exist.
    """
    return load_section(path, Plans, loops)


class PlanFile:
    """The plans of a file, read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._plans = load_plans(path)

    def read(self) -> Plans:
        """Return the plans as they are now; while the file has a problem, as they were before it."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._plans = load_plans(self._path)
                logger.info("%s: read again: %s", self._path, ", ".join(self._plans.plans))
            except ConfigError as error:
                logger.error("%s", error)
        return self._plans

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size
