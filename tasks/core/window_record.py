"""The record of one monitored window: what commands print, the ledger keeps and alerts say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from tasks.core.audit import LabelCounts
from tasks.core.drift import EFFECTS
from tasks.core.drift_decisions import Reference, Standing, record_standing
from tasks.core.expectations import ExpectationResult
from tasks.core.explanation import Explanation, as_record, describe_change, name_topic
from tasks.core.retraining import Decision
from tasks.core.seasons import Season
from tasks.core.window_check import WindowCheck

ALARMING = ("accuracy", "erasure")  # reasons to act that are news without any drift


def no_champion_record(loop: str) -> dict[str, Any]:
    """Return the JSON object of `evertune monitor --json` for a loop that has no champion yet: nothing to compare."""
    reason = f"no champion yet; train one: evertune retrain {loop}"
    return {
        "loop": loop,
        "report_id": None,
        "version": None,
        "verdict": "too few",
        "reason": reason,
        "since": None,
        "window": {"n": 0, "from": None, "to": None, "groups": 0, "is_vote": False},
        "tests": [],
        "season": None,
        "accuracy": {
            "measured": None,
            "interval": None,
            "method": None,
            "estimated": None,
            "band": None,
            "n_labelled": 0,
            "labels": asdict(LabelCounts()),
        },
        "shares": [],
        "live": [],
        "decision": {**asdict(Decision("wait", reason)), "flow_run_id": None},
        "report_url": None,
        "explanation": None,
        "muted": None,
        "reference": None,
    }


def build_record(
    loop: str,
    report_id: str,
    check: WindowCheck,
    live: Sequence[ExpectationResult],
    decision: Decision,
    flow_run_id: str | None,
    report_url: str | None,
    *,
    explanation: Explanation | None = None,
    standing: Standing | None = None,
    compared_with: Reference | None = None,
) -> dict[str, Any]:
    """Return the JSON object of `evertune monitor --json`; `flow_run_id` is the retrain that began, if one did."""
    measured, estimated = check.measured, check.estimated
    return {
        "loop": loop,
        "report_id": report_id,
        "version": check.version,
        "verdict": check.verdict.word,
        "reason": check.verdict.reason,
        "since": _iso(check.verdict.since),
        "window": {
            "n": check.n,
            "from": _iso(check.oldest),
            "to": _iso(check.newest),
            "groups": check.n_groups,
            "is_vote": check.is_vote,
        },
        "tests": [asdict(test) for test in check.tests],
        "season": _season(check.season),
        "accuracy": {
            "measured": measured.accuracy if measured else None,
            "interval": [measured.low, measured.high] if measured else None,
            "method": measured.method if measured else None,
            "estimated": estimated.accuracy if estimated else None,
            "band": [estimated.low, estimated.high] if estimated else None,
            "n_labelled": measured.n if measured else check.labelled.all,
            "labels": asdict(check.labelled),
        },
        "shares": [asdict(share) for share in check.shares],
        "live": [
            {"reason": each.reason, "severity": each.severity, "success": each.success, "observed": each.observed}
            for each in live
        ],
        "decision": {**asdict(decision), "flow_run_id": flow_run_id},
        "report_url": report_url,
        "explanation": as_record(explanation),
        **record_standing(standing, compared_with),
    }


def is_news(record: Mapping[str, Any], previous: Mapping[str, Any] | None) -> bool:
    """Say whether a window is worth an alert: new rows speak for drift, or verdict or decision changed since last time.

    A loss of accuracy and an erasure ask for something without any drift: they are news when the answer changes.
    """
    if record["verdict"] != "drift" or record.get("muted"):
        before = _asks(previous) if previous else None
        return record["decision"].get("trigger") in ALARMING and _asks(record) != before
    if previous is None or record["window"]["is_vote"] or previous.get("muted"):
        return True
    return (record["version"], "drift", record["decision"]["action"]) != (
        previous["version"],
        previous["verdict"],
        previous["decision"]["action"],
    )


def render_decision(record: Mapping[str, Any]) -> str:
    """Return the decision of a window as Markdown: verdict, tests, accuracy, what is done, and the link."""
    window, decision = record["window"], record["decision"]
    lines = [
        f"## {record['loop']} version {record['version']}: {record['verdict']}",
        "",
        f"{record['reason']}. Decision: **{decision['action']}** – {decision['reason']}.",
        "",
        f"Window: {window['n']} texts of {window['groups']} groups, {window['from']} to {window['to']}.",
        "",
        "| test | p-value | effect | fires |",
        "|---|---:|---:|---|",
        *[_test_line(test) for test in record["tests"]],
        "",
        "| accuracy | value | rows |",
        "|---|---:|---:|",
        *_accuracy_lines(record),
        "",
        "| predicted label | reference | current |",
        "|---|---:|---:|",
        *[f"| {each['label']} | {each['reference']:.1%} | {each['current']:.1%} |" for each in record["shares"]],
    ]
    lines += _change_lines(record)
    lines += [f"\nLive check failed: {each['reason']} ({each['observed']})" for each in _failed_checks(record)]
    return "\n".join([*lines, "", f"[Report]({record['report_url']})" if record["report_url"] else ""])


def _asks(record: Mapping[str, Any]) -> tuple[str, str | None, str]:
    return record["version"], record["decision"].get("trigger"), record["decision"]["action"]


def describe_drift(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of a drift alert: what, how bad in numbers, since when, and where to look."""
    fired = [test for test in record["tests"] if test["fires"]]
    worst = ", ".join(f"{test['name']} (p {test['p_value']:.3f}, effect {test['effect']:.2f})" for test in fired)
    is_drift = record["verdict"] == "drift" and not record.get("muted")
    told = "reads or answers other texts than it was judged on" if is_drift else record["decision"]["reason"]
    body = [
        f"Version {record['version']} of {record['loop']}{' ' if is_drift else ': '}{told}.",
        "",
        *[
            f"- {test['name']}: p {test['p_value']:.3f}, {EFFECTS.get(test['name'], 'effect')}: {test['effect']:.3f}"
            for test in fired
        ],
        *[f"- {line}" for line in describe_change(record.get("explanation"), with_words=False)],
        *[f"- accuracy {line}" for line in _accuracy_words(record)],
        f"- window: {record['window']['n']} texts; {record['reason']}",
        f"- since: {record['since']}",
        f"- decision: {record['decision']['action']}: {record['decision']['reason']}",
    ]
    return {
        "summary": f"{record['loop']}: " + (f"drift since {record['since']}: {worst}" if is_drift else told),
        "body": "\n".join(body),
        "link": record["report_url"] or "",
        **{key: record[key] for key in ("verdict", "since", "version", "tests", "accuracy", "decision", "report_id")},
    }


def _change_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what changed as Markdown: a line each for shares, words, lengths and keys, and the topics as a table."""
    explanation = record.get("explanation")
    if explanation is None:
        return []
    moved = [topic for topic in explanation["topics"] if topic["outcome"] != "same"]
    lines = ["", "**What changed**", "", *[f"- {line}" for line in describe_change(explanation)]]
    if explanation["note"]:
        lines.append(f"- {explanation['note']}")
    if moved:
        lines += ["", "| topic | reference | current | |", "|---|---:|---:|---|"]
    return lines + [
        f"| {name_topic(topic)} | {topic['reference']:.1%} | {topic['current']:.1%} | {topic['outcome']} |"
        for topic in moved
    ]


def _season(season: Season | None) -> dict[str, Any] | None:
    """Return what the same weekday of earlier weeks said; their tests are told by their names and effects."""
    if season is None:
        return None
    effects = {test.name: test.effect for test in season.tests}
    return {"recurs": season.recurs, "reason": season.reason, "n": season.n, "effects": effects}


def _iso(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _failed_checks(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [each for each in record["live"] if not each["success"]]


def _test_line(test: Mapping[str, Any]) -> str:
    return f"| {test['name']} | {test['p_value']:.3f} | {test['effect']:.3f} | {'**yes**' if test['fires'] else 'no'} |"


def _accuracy_lines(record: Mapping[str, Any]) -> list[str]:
    accuracy, n = record["accuracy"], record["window"]["n"]
    lines = []
    if accuracy["measured"] is not None:
        low, high = accuracy["interval"]
        lines.append(f"| measured | {accuracy['measured']:.1%} [{low:.1%}, {high:.1%}] | {accuracy['n_labelled']} |")
    if accuracy["estimated"] is not None:
        low, high = accuracy["band"]
        lines.append(f"| estimated without labels | {accuracy['estimated']:.1%} [{low:.1%}, {high:.1%}] | {n} |")
    if accuracy["measured"] is None and accuracy["n_labelled"]:
        lines.append(f"| not measured: too few texts drawn by chance have a label | – | {accuracy['n_labelled']} |")
    return lines


def _accuracy_words(record: Mapping[str, Any]) -> list[str]:
    return [
        line.strip("| ").replace(" | ", ": ", 1).replace(" | ", " on ") + " rows" for line in _accuracy_lines(record)
    ]
