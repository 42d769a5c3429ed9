"""Texts to label as files, and labels that come back in them: csv for a spreadsheet, JSON for Label Studio."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from tasks.core.errors import DataError
from tasks.core.spreadsheet import as_cell

FileFormat = Literal["csv", "label-studio"]
COLUMNS = ["prediction_id", "text", "picked", "label", "labeller"]


@dataclass(frozen=True)
class TextToLabel:
    """A text that waits for a label; what the model said is left out, so that nobody leans on it."""

    prediction_id: str
    text: str
    picked: str


@dataclass(frozen=True)
class FiledLabel:
    """A label as a file gives it, and where: a line of csv, a task of Label Studio."""

    prediction_id: str
    label: str
    labeller: str | None
    place: str


def write_label_file(texts: Sequence[TextToLabel], file: Path, file_format: FileFormat) -> None:
    """Write texts to label: csv with an empty column `label`, or tasks to import into Label Studio."""
    partial = file.with_name(file.name + ".partial")
    if file_format == "label-studio":
        partial.write_text(json.dumps([{"data": asdict(one)} for one in texts], ensure_ascii=False, indent=1), "utf-8")
    else:
        with partial.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, COLUMNS)
            writer.writeheader()
            writer.writerows(asdict(one) | {"text": as_cell(one.text)} for one in texts)
    partial.replace(file)


def labelling_config(labels: Sequence[str]) -> str:
    """Return Label Studio's labelling interface for a loop: one choice per text."""
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    choice = f'<Choices name="label" toName="text" choice="single">{choices}</Choices>'
    return f'<View><Text name="text" value="$text"/>{choice}</View>'


def read_label_file(file: Path, labels: Sequence[str]) -> list[FiledLabel]:
    """Return the labels of a csv file, or of Label Studio's exports JSON and JSON-MIN; texts without one are left out.

    Raises DataError naming the place for what is no label of the loop, and for a file of another form.
    """
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as UTF-8 text: {error}") from error
    read = _read_json if content.lstrip().startswith(("[", "{")) else _read_csv
    found = [one for one in read(file, content) if one.label]
    for one in found:
        if one.label not in labels:
            raise DataError(f"{file}: {one.place}: no label '{one.label}'; accepted: {', '.join(labels)}")
        if not one.prediction_id:
            raise DataError(f"{file}: {one.place}: no prediction_id; export the texts with: evertune label export")
    return found


def _read_csv(file: Path, content: str) -> Iterator[FiledLabel]:
    reader = csv.DictReader(io.StringIO(content, newline=""))
    missing = {"prediction_id", "label"} - set(reader.fieldnames or ())
    if missing:
        raise DataError(f"{file}: no column {', '.join(sorted(missing))}; found {reader.fieldnames}")
    for row in reader:
        known, label, labeller = ((row.get(name) or "").strip() for name in ("prediction_id", "label", "labeller"))
        yield FiledLabel(known, label, labeller or None, f"line {reader.line_num}")


def _read_json(file: Path, content: str) -> Iterator[FiledLabel]:
    try:
        tasks = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: not JSON: {error.msg}") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{file}: not a list of tasks; export from Label Studio as JSON or JSON-MIN")
    for number, task in enumerate(tasks, 1):
        place = f"task {task.get('id', number)}"
        if "annotations" in task:
            yield from _read_annotations(file, task, place)
        elif "prediction_id" in task:  # JSON-MIN: the task's data and the choice side by side
            chosen = task.get("label") or ""
            if not isinstance(chosen, str):
                raise DataError(f"{file}: {place}: one choice is needed (got {chosen})")
            yield FiledLabel(str(task["prediction_id"]), chosen, _name(task.get("annotator")), place)
        else:
            raise DataError(f"{file}: {place}: neither annotations nor prediction_id; found {sorted(task)}")


def _read_annotations(file: Path, task: Mapping[str, Any], place: str) -> Iterator[FiledLabel]:
    known = str(task.get("data", {}).get("prediction_id", ""))
    for annotation in task["annotations"]:
        chosen = [
            choice
            for result in annotation.get("result", [])
            if result.get("type") == "choices"
            for choice in result.get("value", {}).get("choices", [])
        ]
        if annotation.get("was_cancelled") or not chosen:
            continue
        if len(chosen) > 1:
            raise DataError(f"{file}: {place}: one choice is needed (got {', '.join(chosen)})")
        yield FiledLabel(known, str(chosen[0]), _name(annotation.get("completed_by")), place)


def _name(annotator: object) -> str | None:
    """Return a labeller's name of what Label Studio keeps: a number, or an object with e-mail and number."""
    if isinstance(annotator, dict):
        annotator = annotator.get("email") or annotator.get("id")
    return None if annotator in (None, "") else str(annotator)
