"""The section `tuning`: where `evertune tune` may look for better training keys, and for how long."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from configs.sections import Section
from configs.training_schema import Training

Number = Literal["int", "float"]
NOT_SEARCHED = {
    "seed": "a trial's seeds follow from it, and a lucky one is no better recipe",
    "from": "it decides what the trials start from",
    "replay": "it chooses the rows",
    "label_noise": "it weighs the rows",
}


class SearchRange(Section):
    """Where one key may lie: numbers between low and high (`log`: evenly by order of magnitude), or one of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Annotated[list[str | bool | int | float | None], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _numbers_or_choices(self) -> "SearchRange":
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("give either low and high, or choices")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low must be below high (got {self.low:g} and {self.high:g})")
            if self.log and self.low <= 0:
                raise ValueError(f"log needs low above 0 (got {self.low:g})")
        return self


class Tuning(Section):
    """`evertune tune`: the search for better training keys, judged by validation macro-F1 only."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = 20  # of a study, those of earlier calls included
    minutes: Annotated[float, Field(gt=0)] | None = None  # of one call; stops earlier
    space: Annotated[dict[str, SearchRange], Field(min_length=1)] = {  # keys of `training`, dotted: lora.rank
        "learning_rate": SearchRange(low=1e-5, high=3e-4, log=True),
        "batch_size": SearchRange(choices=[8, 16, 32]),
        "epochs": SearchRange(low=2, high=6),
        "layer_decay": SearchRange(low=0.7, high=1.0),
        "label_smoothing": SearchRange(low=0.0, high=0.15),
    }
    seeds: Annotated[int, Field(ge=1, le=20)] = 1  # a trial's value is the mean over seeds
    prune: bool = True  # end trials whose evaluations fall behind (median rule)

    @model_validator(mode="after")
    def _space_fits_training(self) -> "Tuning":
        problems = [
            (("space", key, *place), told) for key, found in self.space.items() for place, told in _problems(key, found)
        ]
        if problems:
            told = "; ".join(f"{'.'.join(map(str, place))}: {message}" for place, message in problems)
            raise PydanticCustomError("places", "{told}", {"told": told, "places": problems})
        return self


def training_field(key: str) -> FieldInfo | None:
    """Return the field of `training` that a dotted YAML key names, or None: no such key, or a whole section."""
    section: Any = Training
    field: FieldInfo | None = None
    for step in key.split("."):
        field = getattr(section, "model_fields", {}).get(step)
        section = field.annotation if field is not None else None
    is_key = field is not None and field.alias is None and not hasattr(section, "model_fields")
    return field if is_key else None


def number_kind(key: str) -> Number | None:
    """Return what numbers a key takes, or None when it takes none, or words too."""
    field = training_field(key)
    kinds = {kind for kind in _plain_types(field.annotation) if kind is not type(None)} if field is not None else set()
    if kinds <= {int, float} and kinds:
        return "float" if float in kinds else "int"
    return None


def _problems(key: str, found: SearchRange) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with a key's range, and where: below the key, or at it."""
    reason = NOT_SEARCHED.get(key.split(".")[0])
    field = training_field(key)
    if reason is not None:
        yield (), f"'{key}' is not searched: {reason}"
    elif field is None:
        yield (), f"no key of training; accepted here: {', '.join(_searchable())}"
    elif found.choices is not None:
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        for position, choice in enumerate(found.choices):
            yield from ((("choices", position), told) for told in _refusals(adapter, choice))
    elif number_kind(key) is None:
        yield (), "takes no numbers between low and high: give choices"
    else:
        adapter = TypeAdapter(field.rebuild_annotation())
        for name, value in (("low", found.low), ("high", found.high)):
            yield from (((name,), told) for told in _refusals(adapter, value))


def _refusals(adapter: TypeAdapter[Any], value: Any) -> list[str]:
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        return [f"{problem['msg']} (got {value!r})" for problem in error.errors(include_url=False)[:1]]
    return []


def _searchable() -> list[str]:
    keys = []
    for name, field in Training.model_fields.items():
        nested = getattr(field.annotation, "model_fields", None)
        keys += [f"{name}.{inner}" for inner in nested] if nested else [field.alias or name]
    return [key for key in keys if key.split(".")[0] not in NOT_SEARCHED]


def _plain_types(annotation: Any) -> set[Any]:
    """Return the types of an annotation, without Annotated and unions around them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _plain_types(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*(_plain_types(part) for part in get_args(annotation)))
    return {annotation}
