"""Which texts of a file can be scored, and under which names the answers join its columns."""

import re
from collections.abc import Sequence

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # tab and line breaks are ordinary in text


def find_flaw(value: object, max_chars: int) -> str | None:
    """Return why a value cannot be scored, or None when it can."""
    if value is None or value != value:  # NaN: an empty cell
        return "empty"
    if not isinstance(value, str):
        return f"not text ({type(value).__name__})"
    if not value.strip():
        return "empty"
    if len(value) > max_chars:
        return f"too long ({len(value)} characters, at most {max_chars})"
    if CONTROL.search(value):
        return "control characters"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return "not valid Unicode"
    return None


def name_answer_columns(existing: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Return the column for each answer: label, score and p_<label>, each after predicted_ where it is taken."""
    wanted = ["label", "score", *(f"p_{label}" for label in labels)]
    taken = set(existing)
    names = {}
    for name in wanted:
        column = name
        while column in taken:
            column = f"predicted_{column}"
        names[name] = column
        taken.add(column)
    return names
