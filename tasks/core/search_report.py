"""What a search found, as lines for a terminal and as a page in Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

TIME = "{:.0f} s"


def describe_trials(trials: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table of trials, best first: number, value, what differs from today's recipe, state, time."""
    order = sorted(trials, key=lambda trial: (-(trial["value"] if trial["value"] is not None else -1), trial["trial"]))
    return [
        [
            str(trial["trial"]),
            "" if trial["value"] is None else f"{trial['value']:.4f}",
            "today's recipe" if trial["today"] else describe_changes(trial["changes"]),
            trial["state"] + (f": {trial['reason']}" if trial.get("reason") else ""),
            "" if trial["seconds"] is None else TIME.format(trial["seconds"]),
        ]
        for trial in order
    ]


def describe_changes(changes: Mapping[str, Any]) -> str:
    """Return changed keys as people write them."""
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def draw_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns."""
    table = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


HEADS = ("trial", "macro-F1", "differs from today", "state", "time")


def describe_search(record: Mapping[str, Any]) -> list[str]:
    """Return the record of a search as lines for a terminal."""
    lines = ["", *draw_table(HEADS, describe_trials(record["trials"])), ""]
    if record["importance"]:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in record["importance"].items())
        lines.append(f"share of the spread: {shares}")
    if record["stopped"]:
        lines.append(f"{record['stopped']}; the same command goes on")
    lines.append(record["reason"])
    if record["diff"]:
        lines += ["", *record["diff"].splitlines(), ""]
    if record["written"]:
        return [*lines, f"written into {record['file']}; next: evertune retrain {record['loop']}"]
    hint = f"; evertune tune {record['loop']} --write writes it" if record["better"] else ""
    return [*lines, f"{record['file']} is as it was{hint}"]


def render_page(record: Mapping[str, Any]) -> str:
    """Return the record of a search as Markdown."""
    rows = [" | ".join(cell.replace("|", "/") for cell in row) for row in describe_trials(record["trials"])]
    lines = [
        f"**{record['reason'][0].upper()}{record['reason'][1:]}.**",
        "",
        f"Study `{record['study']}`, {record['validation_rows']} validation rows, {record['seeds']} seed(s) per trial; "
        "test rows were not read.",
        "",
        f"| {' | '.join(HEADS)} |",
        "|---:|---:|---|---|---:|",
        *(f"| {row} |" for row in rows),
    ]
    if record["importance"]:
        lines += ["", "| key | share of the trials' spread |", "|---|---:|"]
        lines += [f"| {key} | {share:.0%} |" for key, share in record["importance"].items()]
    if record["diff"]:
        told = "Written:" if record["written"] else "The best trial as a change of the loop's file:"
        lines += ["", told, "", "```diff", record["diff"], "```"]
    return "\n".join(lines)
