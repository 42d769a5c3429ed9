"""What a backtest found, as numbers and as lines for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core.backtest import Replay, Step, compare_policies
from tasks.core.search_report import draw_table

HEADS = ("policy", "retrains", "promoted", "cost", "accuracy", "worst step", "against nightly", "asked for labels")
MIN_TEXTS = 20  # of a step that may be called the worst


def summarise_policies(replays: Sequence[Replay], groups: Sequence[str]) -> list[dict[str, Any]]:
    """Return one record per policy, each with its steps."""
    nightly = next((replay for replay in replays if replay.policy == "nightly"), None)
    return [_summarise(replay, nightly, groups) for replay in replays]


def _summarise(replay: Replay, nightly: Replay | None, groups: Sequence[str]) -> dict[str, Any]:
    steps, retrains = replay.steps, [step for step in replay.steps if step.retrain]
    n = sum(step.n for step in steps)
    shares = [step.n_right / step.n for step in steps if step.n >= MIN_TEXTS]
    versus = compare_policies(replay, nightly, groups) if nightly is not None and nightly is not replay else None
    return {
        "policy": replay.policy,
        "retrains": len(retrains),
        "promoted": sum(step.retrain.promoted for step in retrains if step.retrain),
        "hours": round(sum(step.retrain.hours for step in retrains if step.retrain), 4),
        "accuracy": sum(step.n_right for step in steps) / n if n else None,
        "n": n,
        "worst_step": min(shares, default=None),
        "against_nightly": {"value": versus.value, "interval": list(versus.ci)} if versus else None,
        "asked_for_labels": sum(step.action == "label first" for step in steps),
        "steps": [_tell_step(step) for step in steps],
    }


def _tell_step(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {
        "until": step.until.isoformat(),
        "version": step.version,
        "n": step.n,
        "right": step.n_right,
        "verdict": step.verdict,
        "action": step.action,
        "reason": step.reason,
        "new_labels": step.new_labels,
    }
    if step.retrain is not None:
        told["retrain"] = vars(step.retrain)
    return told


def tabulate_policies(policies: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row per policy, in the order of HEADS."""
    return [
        [
            each["policy"],
            str(each["retrains"]),
            str(each["promoted"]),
            _duration(each["hours"]),
            _percent(each["accuracy"]),
            _percent(each["worst_step"]),
            _versus(each["against_nightly"]),
            str(each["asked_for_labels"]),
        ]
        for each in policies
    ]


def describe_backtest(record: Mapping[str, Any]) -> list[str]:
    """Return the record of a backtest as lines for a terminal."""
    model = "a linear head on the frozen base model stands in for the loop's recipe (--model recipe trains it)"
    lines = [
        f"{record['loop']}: {record['texts']} texts ({record['labelled']} labelled) from {record['begin'][:10]} to "
        f"{record['end'][:10]}, steps of {record['step_days']:g} days, {record['stock']} rows known before",
        "",
        *draw_table(HEADS, tabulate_policies(record["policies"])),
        "",
        f"cost: {record['cost']}; accuracy: of all answered texts whose label became known",
    ]
    if record["model"] == "head":
        lines.append(model)
    return [*lines, f"page {record['page']}", f"     {record['file']}"]


def _duration(hours: float) -> str:
    return f"{hours:.2f} h" if hours >= 0.1 else f"{3600 * hours:.1f} s"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _versus(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "–"
    low, high = difference["interval"]
    return f"{100 * difference['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"
