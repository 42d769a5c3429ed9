"""When a retrain is worth its cost: drift alone does not make one useful, the same rows give the same model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from configs.schema import Retraining


@dataclass(frozen=True)
class Decision:
    """What to do about a window, and why."""

    action: Literal["retrain", "label first", "wait"]
    reason: str


def decide(
    *,
    verdict: str,
    num_new_labels: int,
    rules: Retraining,
    now: datetime,
    last_started_at: datetime | None,
    is_running: bool,
    learns_from_feedback: bool = True,
) -> Decision:
    """Say whether monitoring should retrain, ask for labels, or wait.

    `num_new_labels` counts labels that no training has seen, refused challengers included; `last_started_at` is when
    monitoring last started a retrain.
    """
    if verdict != "drift":
        return Decision(
            "wait", {"too few": "too few rows for a verdict"}.get(verdict, f"no drift (verdict: {verdict})")
        )
    if not learns_from_feedback:
        return Decision("wait", "drift, but data.use_feedback is off: no new label would reach the training rows")
    if num_new_labels < rules.min_new_labels:
        missing = rules.min_new_labels - num_new_labels
        counted = f"{num_new_labels} of {rules.min_new_labels} labels that no training has seen"
        return Decision("label first", f"drift, but only {counted}: {missing} more are needed")
    if is_running:
        return Decision("wait", "drift and enough labels, but a retrain is already running or about to start")
    if last_started_at is not None and now < last_started_at + timedelta(hours=rules.cooldown_hours):
        until = last_started_at + timedelta(hours=rules.cooldown_hours)
        return Decision("wait", f"drift and enough labels, but the cooldown lasts until {until:%Y-%m-%d %H:%M} UTC")
    return Decision("retrain", f"drift, and {num_new_labels} labels that no training has seen")


def started_at(ended_at: datetime, record: Mapping[str, Any]) -> datetime:
    """Return when an ended retrain read its rows: labels that came later are new to it. Without a record, its end."""
    read_at = record.get("read_at")
    return datetime.fromisoformat(read_at) if read_at else ended_at
