"""The search for better training keys: from a range to a suggestion, from a suggestion to a recipe.

`today` is what the loop's YAML says now; it is every study's first trial. A key is dotted where it is
nested: lora.rank.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from configs.schema import SearchRange, Training
from configs.tuning_schema import number_kind
from tasks.core.errors import DataError

Space = Mapping[str, SearchRange]
Bases = Mapping[str | None, Training]  # what the YAML gives under each preset that may be chosen
TENTHS_PER_SEED = 100_000
MAX_FAILURES = 3  # in a row: something is wrong with more than one suggestion
MAX_ATTEMPTS = 2  # of a trial whose process was killed


def suggest(trial: Any, space: Space, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a value for each key of the space, as an Optuna trial suggests them; `fixed` asks for its keys only."""
    return {key: _suggest_one(trial, key, found) for key, found in space.items() if fixed is None or key in fixed}


def _suggest_one(trial: Any, key: str, found: SearchRange) -> Any:
    if found.choices is not None:
        return trial.suggest_categorical(key, found.choices)
    assert found.low is not None
    assert found.high is not None
    if number_kind(key) == "int":
        return trial.suggest_int(key, int(found.low), int(found.high), log=found.log)
    value = trial.suggest_float(key, found.low, found.high, log=found.log)
    return min(max(float(f"{value:.3g}"), found.low), found.high)  # what is tried is what people read


def fixed_for_today(space: Space, today: Training) -> dict[str, Any]:
    """Return today's value of each key whose range holds it; the sampler cannot be told of others."""
    values = {key: read_key(today, key) for key in space}
    return {key: value for key, value in values.items() if _holds(space[key], value)}


def _holds(found: SearchRange, value: Any) -> bool:
    if found.choices is not None:
        return value in found.choices
    assert found.low is not None
    assert found.high is not None
    return isinstance(value, int | float) and found.low <= value <= found.high


def apply_suggestion(bases: Bases, suggestion: Mapping[str, Any], today: Training) -> Training:
    """Return the recipe that a suggestion makes of the loop's; raises DataError where the schema refuses it."""
    base = bases[suggestion.get("preset", today.preset)]
    document = base.model_dump(mode="json", by_alias=True)
    for key, value in suggestion.items():
        *parents, last = key.split(".")
        section = document
        for parent in parents:
            section = section[parent]
        section[last] = value
    try:
        return Training.model_validate(document)
    except ValidationError as error:
        told = "; ".join(str(problem["msg"]) for problem in error.errors(include_url=False))
        raise DataError(f"training refuses {dict(suggestion)}: {told}") from error


def read_key(training: Training, key: str) -> Any:
    """Return the value of a dotted key."""
    value: Any = training
    for step in key.split("."):
        value = getattr(value, step)
    return value


def find_changes(before: Training, after: Training) -> dict[str, Any]:
    """Return the keys that differ, dotted, with their new values."""
    old, new = (_flat(training.model_dump(mode="json", by_alias=True)) for training in (before, after))
    return {key: value for key, value in new.items() if old[key] != value}


def find_file_changes(bases: Bases, today: Training, after: Training) -> dict[str, Any]:
    """Return what a loop's file must say differently to give a recipe; `bases` are those of the file.

    A preset gives what the file leaves out, so under another preset only the rest has to be written.
    """
    preset = {"preset": after.preset} if after.preset != today.preset else {}
    return preset | find_changes(bases.get(after.preset, today), after)


def _flat(document: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def study_key(
    fingerprint: str, start: str | None, space: Space, seeds: int, bases: Bases, today: Training, code: str
) -> str:
    """Return what identifies a study: with the same key, trials may be compared and a search goes on.

    `start` is the version whose weights trials start from, None for the base model.
    """
    parts = [
        fingerprint,
        start,
        {key: found.model_dump(mode="json") for key, found in space.items()},
        seeds,
        {str(preset): base.model_dump(mode="json") for preset, base in bases.items()},
        today.model_dump(mode="json"),
        code,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def recipe_key(training: Training) -> str:
    """Return a hash of a recipe: the same one gives the same value again."""
    return hashlib.sha256(training.model_dump_json().encode()).hexdigest()[:16]


def place_report(seed: int, epoch: float) -> int:
    """Return where an evaluation stands, for trials to be compared there: the seed's number and tenths of an epoch.

    Trials with other batch sizes or numbers of evaluations then meet at the same share of the rows.
    """
    return seed * TENTHS_PER_SEED + round(10 * epoch)


def should_give_up(failures_in_a_row: int) -> bool:
    """Say whether a search ends because trials keep failing."""
    return failures_in_a_row >= MAX_FAILURES


def should_redo(attempts: int) -> bool:
    """Say whether a trial whose process was killed is tried again."""
    return attempts < MAX_ATTEMPTS
