"""Changes keys in the text of a loop's YAML and leaves every other character as its author wrote it.

The text is cut at the places that the parser reports: dumping a parsed document again would reflow lines and comments.
"""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.load import ConfigError


def change_training(text: str, changes: Mapping[str, Any], file: Path) -> str:
    """Return a loop's YAML with keys of `training` changed, dotted where nested: lora.rank.

    A key that is not there yet is added below the section's last. Raises ConfigError when the text cannot be changed
    so that exactly these keys differ, as where an anchor is shared.
    """
    expected, changed = _parse(text), text
    try:
        for key, value in changes.items():
            path = ("training", *key.split("."))
            changed = _set(changed, path, value)
            _put(expected, path, value)
        found = _parse(changed)
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        found = None
    if found != expected:
        wanted = ", ".join(f"training.{key}={value}" for key, value in changes.items())
        raise ConfigError(f"{file}: its layout cannot be changed by evertune; set by hand: {wanted}")
    return changed


def refuse_temporary(changes: Sequence[str]) -> None:
    """Raise ConfigError where `key=value` changes of one run would be kept by writing a recipe into the loop's file."""
    for change in changes:
        if change.partition("=")[0].strip().split(".")[0] == "training":
            raise ConfigError(
                f"--write with --set {change}: what --set changes is meant for one run, and --write would keep it; "
                "write it into the loop's YAML first, or leave out one of the two"
            )


def show_difference(before: str, after: str, name: str) -> str:
    """Return a unified diff of two versions of a file, "" where they are equal."""
    names = {"fromfile": f"{name} (today)", "tofile": f"{name} (tuned)"}
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), n=2, lineterm="", **names))


def read_text(path: Path) -> str:
    """Return a file's text with its line ends as they are."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def replace_file(path: Path, text: str) -> None:
    """Put a text in a file's place; whoever reads meanwhile sees the old or the new one, whole."""
    target = path.resolve()  # a link stays a link
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.chmod(target.stat().st_mode & 0o777)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _parse(text: str) -> Any:
    """Return the document without shared parts: what an anchor names then shows as changed wherever it is used."""
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _put(document: Any, path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for key in parents:
        document = document.setdefault(key, {})
    document[last] = value


def _set(text: str, path: Sequence[str], value: Any) -> str:
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, key in enumerate(path):
        children = {child.value: below for child, below in node.value}
        if key not in children:
            inner = value
            for missing in reversed(path[depth + 1 :]):
                inner = {missing: inner}
            return _insert(text, node, f"{key}: {_flow(inner)}")
        node = children[key]
    return _replace(text, node, _flow(value))


def _replace(text: str, node: yaml.Node, value: str) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    rest = text[end:]
    gap = " " if text[start - 1] == ":" else ""  # a key without a value
    spaces = len(rest) - len(rest.lstrip(" "))
    if spaces and rest[spaces : spaces + 1] == "#":  # comments that stand in one column go on doing so
        rest = " " * max(1, spaces - len(gap + value) + end - start) + rest.lstrip(" ")
    return f"{text[:start]}{gap}{value}{rest}"


def _insert(text: str, mapping: yaml.MappingNode, pair: str) -> str:
    if mapping.flow_style:
        end = mapping.end_mark.index - 1
        return f"{text[:end]}{', ' if mapping.value else ''}{pair}{text[end:]}"
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    after = _last_line(mapping)
    if not lines[after].endswith(("\n", "\r")):
        lines[after] += newline
    indent = " " * mapping.value[0][0].start_mark.column
    return "".join([*lines[: after + 1], f"{indent}{pair}{newline}", *lines[after + 1 :]])


def _last_line(node: yaml.Node) -> int:
    """Return the number, from 0, of the last line that a node stands on; a block's own end mark lies beyond it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    mark = node.end_mark
    return int(mark.line - 1 if mark.column == 0 and mark.line > node.start_mark.line else mark.line)


def _flow(value: Any) -> str:
    """Return a value as YAML that may stand within braces too."""
    return yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
