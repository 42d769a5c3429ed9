"""Reads a loop's YAML and reports every problem at once, each as `file:line: key: message`.

Two more files belong to a loop: the preset that `training.preset` names, and `NAME.cases.yaml` beside the loop's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError

from configs.schema import Loop
from configs.sections import Section

Place = tuple[str | int, ...]
Origins = dict[Place, tuple[Path, int]]  # the file and line that each key comes from
PRESETS = Path(__file__).parent / "presets"
CASES = ".cases.yaml"
AnySection = TypeVar("AnySection", bound=Section)
SOURCE_KINDS = {"csv", "jsonl", "parquet", "package", "sql", "hub"}  # the tags of schema.AnySource


class ConfigError(ValueError):
    """A configuration is wrong; the message has one line per problem."""


def load_loop(path: Path, changes: Sequence[str] = ()) -> Loop:
    """Return the loop that a YAML file describes, after `a.b=value` changes.

    Raises ConfigError when the file cannot be read, is not YAML, or does not fit `configs/schema.py`.
    """
    document, origins = _read_yaml(path)
    for change in changes:
        _apply_change(document, change)
    _add_preset(document, origins, path)
    _add_cases(document, origins, path)
    loop = _validated(document, path, origins, Loop)
    _check_searched_presets(loop, origins, path)
    return loop


def load_section(path: Path, section: type[AnySection], context: Any = None) -> AnySection:
    """Return the section that is all of a YAML file; raises ConfigError with one line per problem.

    `context`: what its validators know beyond the file.
    """
    document, origins = _read_yaml(path)
    return _validated(document, path, origins, section, context)


def find_loop(name_or_path: str, loops_dir: Path, changes: Sequence[str] = ()) -> Loop:
    """Return a loop by its name under `loops_dir`, or by the path of its YAML file."""
    return load_loop(find_loop_file(name_or_path, loops_dir), changes)


def find_loop_file(name_or_path: str, loops_dir: Path) -> Path:
    """Return the YAML file of a loop; raises ConfigError naming the loops there are."""
    if name_or_path.endswith((".yaml", ".yml")):
        return Path(name_or_path)
    path = loops_dir / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(path.stem for path in list_loop_files(loops_dir)) or "none"
        raise ConfigError(
            f"{loops_dir}: no loop '{name_or_path}'; there are: {known}. A path ending in .yaml is taken too."
        )
    return path


def list_loop_files(loops_dir: Path) -> list[Path]:
    """Return the files of a folder that describe a loop, by name."""
    return [path for path in sorted(loops_dir.glob("*.yaml")) if not path.name.endswith(CASES)]


def list_presets(folder: Path = PRESETS) -> list[str]:
    """Return the names of the training presets in a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_all_loops(loops_dir: Path) -> list[Loop]:
    """Return every loop of a folder by name; raises ConfigError with the problems of all files together."""
    loops, problems = [], []
    for path in list_loop_files(loops_dir):
        try:
            loop = load_loop(path)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if loop.name != path.stem:
            problems.append(f"{path}: name: must equal the file's name '{path.stem}' (got '{loop.name}')")
        loops.append(loop)
    problems += _lost_cases(loops_dir)
    if not loops and not problems:
        problems.append(f"{loops_dir}: no loop found; set EVERTUNE_LOOPS_DIR to a folder of *.yaml files")
    if problems:
        raise ConfigError("\n".join(problems))
    return loops


def _lost_cases(loops_dir: Path) -> list[str]:
    """Return what is wrong with cases files that belong to no loop: nothing would ask them, and the gate would open."""
    names = [path.stem for path in list_loop_files(loops_dir)]
    return [
        f"{path}: cases of no loop: there is no {path.name.removesuffix(CASES)}.yaml beside it; there are: "
        f"{', '.join(f'{name}.yaml' for name in names) or 'none'}"
        for path in sorted(loops_dir.glob(f"*{CASES}"))
        if path.name.removesuffix(CASES) not in names
    ]


def _add_preset(document: dict[str, Any], origins: Origins, path: Path) -> None:
    """Give `training` what its preset says and it leaves out; presets beside the loop's file win over shipped ones."""
    training = document.get("training")
    name = training.get("preset") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(name, str):
        return  # the schema says what is wrong, if anything is
    known = _known_presets(path)
    if name not in known:
        file, line = origins.get(("training", "preset"), (path, 1))
        raise ConfigError(f"{file}:{line}: training.preset: no preset '{name}'; there are: {', '.join(sorted(known))}")
    preset, lines = _read_yaml(known[name])
    _fill(training, preset, ("training",), {("training", *place): origin for place, origin in lines.items()}, origins)


def _known_presets(path: Path) -> dict[str, Path]:
    return {
        name: folder / f"{name}.yaml" for folder in (PRESETS, path.parent / "presets") for name in list_presets(folder)
    }


def _check_searched_presets(loop: Loop, origins: Origins, path: Path) -> None:
    searched = loop.tuning.space.get("preset")
    known = _known_presets(path)
    for position, name in enumerate((searched.choices if searched else None) or []):
        if name is not None and name not in known:
            place, (file, line) = _locate(("tuning", "space", "preset", "choices", position), origins, path)
            raise ConfigError(
                f"{file}:{line}: {_dotted(place)}: no preset '{name}'; there are: {', '.join(sorted(known))}"
            )


def _fill(target: dict[str, Any], preset: dict[str, Any], place: Place, lines: Origins, origins: Origins) -> None:
    for key, value in preset.items():
        here = (*place, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _fill(target[key], value, here, lines, origins)
        elif key not in target:
            target[key] = value
            origins |= {found: origin for found, origin in lines.items() if found[: len(here)] == here}


def _add_cases(document: dict[str, Any], origins: Origins, path: Path) -> None:
    """Read the behavioural cases that stand beside the loop's file."""
    file = path.with_name(path.stem + CASES)
    if "behaviour" in document:
        _, line = origins.get(("behaviour",), (path, 1))
        raise ConfigError(f"{path}:{line}: behaviour: stands in its own file, {file.name}")
    if file.is_file():
        document["behaviour"], lines = _read_yaml(file)
        origins |= {("behaviour", *place): origin for place, origin in lines.items()}


def _read_yaml(path: Path) -> tuple[dict[str, Any], Origins]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
        lines: dict[Place, int] = {}
        twice = _index_lines(node, (), lines)
    except RecursionError as error:
        raise ConfigError(f"{path}: not YAML: nested too deeply") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}:1: expected keys and values, found {type(document).__name__}")
    if twice:
        raise ConfigError("\n".join(f"{path}:{line}: {_dotted(place)}: key given twice" for place, line in twice))
    return document, {place: (path, line) for place, line in lines.items()}


def _index_lines(
    node: yaml.Node | None, place: Place, lines: dict[Place, int], above: tuple[yaml.Node, ...] = ()
) -> list[tuple[Place, int]]:
    """Record the line of every key and list item; return the keys that stand twice.

    Raises a YAML error for a node that contains itself through an anchor.
    """
    twice: list[tuple[Place, int]] = []
    if node is None:
        return twice
    if any(node is one for one in above):
        raise yaml.MarkedYAMLError(problem="an anchor that contains itself", problem_mark=node.start_mark)
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, key.value)
            if here in lines:
                twice.append((here, key.start_mark.line + 1))
            lines[here] = key.start_mark.line + 1
            twice += _index_lines(value, here, lines, above)
    elif isinstance(node, yaml.SequenceNode):
        for position, value in enumerate(node.value):
            lines[*place, position] = value.start_mark.line + 1
            twice += _index_lines(value, (*place, position), lines, above)
    return twice


def _apply_change(document: dict[str, Any], change: str) -> None:
    dotted, equals, value = change.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {change}: expected key=value, for example training.epochs=1")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}: the value is not YAML") from error
    *parents, last = dotted.split(".")
    target: Any = document
    for key in parents:
        target = _step_into(target, key, change)
    if isinstance(target, dict):
        target[last] = parsed
    else:
        _step_into(target, last, change)
        target[int(last)] = parsed


def _step_into(target: Any, key: str, change: str) -> Any:
    if isinstance(target, list):
        if not key.isdigit() or int(key) >= len(target):
            raise ConfigError(f"--set {change}: '{key}' is not a position in a list of {len(target)}")
        return target[int(key)]
    if not isinstance(target, dict):
        raise ConfigError(f"--set {change}: '{key}' stands below a plain value")
    return target.setdefault(key, {})


def _validated(
    document: dict[str, Any], path: Path, origins: Origins, section: type[AnySection], context: Any = None
) -> AnySection:
    try:
        return section.model_validate(document, context=context)
    except ValidationError as error:
        found = [one for problem in error.errors(include_url=False) for one in _spread(problem)]
        raise ConfigError("\n".join(_describe(problem, path, origins, section) for problem in found)) from error


def _spread(problem: Any) -> list[Any]:
    """Return a problem as it is, or one per place: a validator that sees several at once names them in its context."""
    places = problem.get("ctx", {}).get("places")
    if places is None:
        return [problem]
    return [{**problem, "loc": (*problem["loc"], *place), "msg": told, "input": None} for place, told in places]


def _describe(problem: Any, path: Path, origins: Origins, section: type[Section]) -> str:
    place, (file, line) = _locate(tuple(problem["loc"]), origins, path)
    found = problem["input"]
    shown = f" (got {found!r})" if isinstance(found, str | int | float | bool) else ""
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message, shown = (
            f"unknown key; accepted here: {', '.join(_accepted(section, place[:-1])) or 'see configs/schema.py'}",
            "",
        )
    if problem["type"] == "missing":
        message, shown = "required, but not given", ""
    if "(got" in message:
        shown = ""
    return f"{file}:{line}: {_dotted(place) or 'file'}: {message}{shown}"


def _locate(place: Place, origins: Origins, path: Path) -> tuple[Place, tuple[Path, int]]:
    """Return the place without pydantic's union tags, and file and line of its nearest known ancestor."""
    has_tag = place[:2] == ("data", "sources") and len(place) > 4 and place[3] in SOURCE_KINDS
    clean = (*place[:3], *place[4:]) if has_tag else place
    for length in range(len(clean), 0, -1):
        if clean[:length] in origins:
            return clean, origins[clean[:length]]
    return clean, (path, 1)


def _accepted(root: type[Section], place: Place) -> list[str]:
    """Return the keys that the schema accepts at a place, as far as it is a plain section or one of several by name."""
    section: Any = root
    for step in place:
        if get_origin(section) is dict:
            section = get_args(section)[1]
            continue
        field = getattr(section, "model_fields", {}).get(step)
        section = field.annotation if field is not None else None
    fields = getattr(section, "model_fields", {})
    return [field.alias or name for name, field in fields.items() if not field.exclude]


def _dotted(place: Place) -> str:
    return ".".join(str(step) for step in place)
