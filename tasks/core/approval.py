"""What waits for a person's yes before it serves, read from the audit log, and whether the question still stands."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol


class Entry(Protocol):
    """One row of the audit log."""

    @property
    def at(self) -> datetime:
        """When it was done."""

    @property
    def action(self) -> str:
        """What was done."""

    @property
    def who(self) -> str:
        """Who did it."""

    @property
    def why(self) -> str:
        """For which reason."""

    @property
    def from_version(self) -> str | None:
        """The champion before, or the one that the gate compared with."""

    @property
    def to_version(self) -> str | None:
        """The version that it is about."""


@dataclass(frozen=True)
class Question:
    """A version that the gate lets through and that a person has not answered for."""

    version: str
    champion: str | None  # that the gate compared it with
    asked_at: datetime
    closes_at: datetime


@dataclass(frozen=True)
class Ruling:
    """What becomes of a question before anyone's answer counts: it stands, or it ends for a reason."""

    action: Literal["stand", "lapse", "withdraw"]
    reason: str


def find_question(entries: Iterable[Entry], days: float) -> Question | None:
    """Return the question that is open; entries are the audit log, oldest first.

    A question ends with whatever the log says of its version next: a move of the champion to it, a refusal, or its end
    without an answer.
    """
    open_question: Question | None = None
    for entry in entries:
        if entry.action == "ask" and entry.to_version is not None:
            closes_at = entry.at + timedelta(days=days)
            open_question = Question(entry.to_version, entry.from_version, entry.at, closes_at)
        elif open_question is not None and entry.to_version == open_question.version:
            open_question = None
    return open_question


def describe_end(entries: Iterable[Entry], version: str | None = None) -> str | None:
    """Return how the last question (of a version, if one is named) ended; None if none was ever asked."""
    asked: str | None = None
    end: Entry | None = None
    for entry in entries:
        if entry.action == "ask" and version in (None, entry.to_version):
            asked, end = entry.to_version, None
        elif asked is not None and end is None and entry.to_version == asked:
            end = entry
    if end is None:
        return None
    verb = {"refuse": "was refused", "lapse": "was let go", "withdraw": "was withdrawn"}.get(end.action, "was released")
    why = f" ({end.why})" if end.why else ""
    return f"version {asked} {verb} by {end.who} on {end.at:%Y-%m-%d %H:%M} UTC{why}"


def judge_question(question: Question, champion: str | None, exists: bool, now: datetime) -> Ruling:
    """Say whether an answer may still count: in time, about a version that exists, against the same champion."""
    if not exists:
        return Ruling("withdraw", f"version {question.version} is no longer in the registry")
    if champion not in (question.champion, question.version):
        then, now_serving = (f"version {one}" if one else "no champion" for one in (question.champion, champion))
        return Ruling("withdraw", f"it was judged against {then}, and now {now_serving} serves")
    if now > question.closes_at:
        return Ruling("lapse", f"nobody answered until {question.closes_at:%Y-%m-%d %H:%M} UTC")
    return Ruling("stand", "")


def describe_question(loop: str, question: Question, evidence: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Return the gate's table as markdown that is also readable as plain text.

    `evidence` is the version's gate.json: `scores`, `champion_scores` (or null) and `decision.rules`.
    """
    champion = question.champion
    lines = [
        f"**{loop} version {question.version}** passes the gate and waits for a yes. "
        + (f"Version {champion} serves meanwhile." if champion else "Nothing serves meanwhile."),
        "",
        *_table(
            ("on the frozen test rows", f"version {question.version}", f"version {champion}" if champion else "–"),
            _compare(evidence["scores"], evidence["champion_scores"]),
        ),
        "",
        *[f"- {name}: {url}" for name, url in links.items()],
        "",
        "The gate's rules:",
        "",
        *[_rule(rule) for rule in evidence["decision"]["rules"]],
        "",
        f"Asked {question.asked_at:%Y-%m-%d %H:%M} UTC; let go without an answer after "
        f"{question.closes_at:%Y-%m-%d %H:%M} UTC.",
    ]
    return "\n".join(lines)


def _compare(scores: Mapping[str, Any], champion: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    rows = []
    for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1"), ("ECE", "ece"), ("rows", "n")):
        rows.append((name, _shown(scores, key), _shown(champion, key) if champion else "–"))
    return rows


def _shown(scores: Mapping[str, Any], key: str) -> str:
    value = scores[key]
    if not isinstance(value, float):
        return str(value)
    interval = scores.get(f"{key}_ci")
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else f"{value:.3f}"


def _rule(rule: Mapping[str, Any]) -> str:
    return f"- {'ok' if rule['passed'] else 'refused'}, **{rule['name']}**: {rule['reason']}"


def _table(head: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> list[str]:
    """Return a markdown table whose columns line up, so that a terminal shows it as well."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    shown = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines = [f"| {' | '.join(row)} |" for row in shown]
    return [lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]]
