"""The page on which a person reads one monitored window: what was found, what changed, and each readable descriptor.

It gets numbers, labels and words that several groups use, never texts: it is copied to MLflow, where no erasure goes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.core.descriptors import CATEGORIES, NUMBERS, SHOWN
from tasks.core.drift import EFFECTS
from tasks.core.explanation import describe_change, name_topic
from tasks.stores.evidently_page import Panel, Table, write_page


def write_monitoring_page(
    path: Path, *, record: Mapping[str, Any], alpha: float, reference: pd.DataFrame, current: pd.DataFrame
) -> None:
    """Write one self-contained html file.

    `record` is what `evertune monitor --json` prints. Columns of SHOWN that both frames have are shown; `label` is the
    predicted one.
    """
    common = [column for column in SHOWN if column in reference.columns and column in current.columns]
    write_page(
        path,
        [_overview(record), *(_test(test, alpha) for test in record["tests"]), *_change(record)],
        reference=_plain(reference[common]),
        current=_plain(current[common]),
        numbers=[column for column in NUMBERS if column in common],
        categories=[column for column in CATEGORIES if column in common],
    )


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    words = [column for column in CATEGORIES if column in frame.columns]
    return frame.assign(**{column: frame[column].fillna("unknown").astype(str) for column in words})


def _overview(record: Mapping[str, Any]) -> Panel:
    window, accuracy = record["window"], record["accuracy"]
    counters = [
        ("verdict", str(record["verdict"])),
        ("texts in the window", str(window["n"])),
        (f"measured accuracy ({accuracy['n_labelled']} labels)", _percent(accuracy["measured"])),
        ("estimated accuracy", _percent(accuracy["estimated"])),
        ("decision", str(record["decision"]["action"])),
    ]
    lines = [f"**{record['loop']}**, version {record['version']}, window from {window['from']} to {window['to']}.", ""]
    lines += [f"- Verdict: {record['reason']}", f"- Decision: {record['decision']['reason']}"]
    lines += [f"- {line}" for line in _told(record.get("reference"), record.get("muted"))]
    lines += [f"- Live check failed: {check['reason']} ({check['observed']})"
              for check in record["live"] if not check["success"]]  # fmt: skip
    shares = Table(
        "Predicted labels",
        ["label", "reference", "current", "shift"],
        [_shift_row(each["label"], each["reference"], each["current"]) for each in record["shares"]],
    )
    return Panel("Window", float(window["n"]), counters, lines, [shares])


def _told(reference: Mapping[str, Any] | None, muted: Mapping[str, Any] | None) -> list[str]:
    lines = []
    if reference:
        named = f" {reference['report_id']}" if reference["report_id"] else ""
        note = f" ({reference['note']})" if reference["note"] else ""
        lines.append(f"Compared with: {reference['kind']}{named}, {reference['n']} texts{note}")
    if muted:
        lines.append(f"Drift is muted until {muted['until']} by {muted['who']}: {muted['why']}")
    return lines


def _test(test: Mapping[str, Any], alpha: float) -> Panel:
    """Return one of our drift tests; its value is the corrected p-value, and it fails where the test fires."""
    is_small = test["p_value"] <= alpha and not test["fires"]  # certain, and too small a shift to matter
    counters = [
        ("p-value, corrected for all tests", f"{test['p_value']:.3f}"),
        (EFFECTS.get(test["name"], test["name"]), f"{test['effect']:.3f}"),
        ("fires at or below", f"{alpha:g}"),
    ]
    if test.get("min_effect"):
        counters.append(("and with an effect of at least", f"{test['min_effect']:g}"))
    title = f"Drift of {test['name']}: p-value by permuting whole groups"
    return Panel(title, test["p_value"], counters, above=0.0 if is_small else alpha)


def _change(record: Mapping[str, Any]) -> list[Panel]:
    """Return what changed: words, topics, lengths and keys; nothing where the window was not judged."""
    explanation = record.get("explanation")
    if explanation is None:
        return []
    new = explanation["new"]
    counters = [("of the texts are new, about", _percent(new["estimate"])), ("at least", _percent(new["at_least"]))]
    lines = [f"- {line}" for line in describe_change(explanation)[1:]]
    lines += [f"- {explanation['note']}"] if explanation["note"] else []
    sides = ["reference", "current", "shift"]
    tables = [
        Table(title, ["word", *sides], [_shift_row(one["word"], one["reference"], one["current"]) for one in words])
        for title, words in (
            ("Words that came: share of texts", explanation["words_came"]),
            ("Words that went: share of texts", explanation["words_went"]),
        )
        if words
    ]
    topics = [[*_shift_row(name_topic(one), one["reference"], one["current"]), one["outcome"]]
              for one in explanation["topics"]]  # fmt: skip
    tables.append(Table("Topics, by their telling words", ["topic", *sides, "it"], topics))
    lengths = [[one["part"], f"{one['reference']:.0f}", f"{one['current']:.0f}"] for one in explanation["lengths"]]
    tables.append(Table("Words per text", ["length", "reference", "current"], lengths))
    keys = [[one["key_id"], f"{one['n']}", _percent(one["share"]), _percent(one["new"])] for one in explanation["keys"]]
    tables.append(Table("Whose texts", ["key", "texts", "share of the window", "new"], keys))
    return [Panel("What changed: share of new texts", new["estimate"], counters, lines, tables)]


def _shift_row(name: str, reference: float, current: float) -> list[str]:
    return [name, f"{reference:.1%}", f"{current:.1%}", f"{current - reference:+.1%}"]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
