"""When a retrain is worth its cost: drift alone does not make one useful, the same rows give the same model."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from configs.retraining_schema import Retraining
from tasks.core.retrain_history import History

Trigger = Literal["drift", "accuracy", "labels", "erasure"]
BY_MONITORING = get_args(Trigger)  # what a retrain that monitoring started was started by
NEEDS_LABELS = ("drift", "accuracy")  # reasons to ask people for labels where there are too few


@dataclass(frozen=True)
class Decision:
    """What to do about a window, and why. `trigger` is the first reason for a retrain, None where there is none."""

    action: Literal["retrain", "label first", "wait"]
    reason: str
    trigger: Trigger | Literal["schedule"] | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # the numbers behind it


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with its interval, on n rows."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class LiveAccuracy:
    """How good the champion is on live texts, beside how good it was on its test rows."""

    expected: float | None
    measured: Accuracy | None = None
    estimated: Accuracy | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a loop when it is decided."""

    now: datetime
    verdict: str
    num_new_labels: int  # that no training has seen, refused challengers included
    history: History
    is_running: bool
    learns_from_feedback: bool = True
    accuracy: LiveAccuracy = LiveAccuracy(None)
    champion: str = ""
    erased_at: datetime | None = None  # when rows that the champion learnt were erased
    tried_since: Literal["open", "refused"] | None = None  # what became of the newest retrain without them


def decide(facts: Facts, rules: Retraining) -> Decision:
    """Say whether monitoring should retrain, ask for labels, or wait.

    Reasons to retrain are drift, a loss of accuracy beyond chance, many new labels, and rows that were erased after the
    champion learnt them. Drift and losses need new labels to learn from; an erasure needs none, and no budget.
    """
    reasons = _find_reasons(facts, rules)
    numbers = _numbers(facts, rules)
    trigger = next(iter(reasons), None)

    def answer(action: Literal["retrain", "label first", "wait"], reason: str) -> Decision:
        return Decision(action, reason + _erasure_note(facts, reasons), trigger, numbers)

    if trigger is None:
        return answer("wait", {"too few": "too few rows for a verdict"}.get(facts.verdict, _no_reason(facts)))
    why, is_erasure = " and ".join(reasons.values()), "erasure" in reasons
    if not is_erasure and not facts.learns_from_feedback:
        return answer("wait", f"{why}, but data.use_feedback is off: no new label would reach the training rows")
    needed = labels_needed(facts.history, rules)
    if not is_erasure and facts.num_new_labels < needed:
        action: Literal["label first", "wait"] = "label first" if trigger in NEEDS_LABELS else "wait"
        return answer(action, f"{why}, but {_shortage(facts, needed, rules)}")
    enough = why if is_erasure else f"{why} and enough labels"
    if facts.is_running:
        return answer("wait", f"{enough}, but a retrain is already running or about to start")
    until = _cooldown_end(facts.history, rules)
    if until is not None and facts.now < until:
        return answer("wait", f"{enough}, but the cooldown lasts until {until:%Y-%m-%d %H:%M} UTC")
    too_dear = facts.history.over_budget(rules.budget_hours)
    if too_dear and not is_erasure:
        return answer("wait", f"{enough}, but {too_dear} (retraining.budget_hours)")
    labels = f"{facts.num_new_labels} labels that no training has seen"
    return answer("retrain", why if trigger == "labels" else f"{why}, and {labels}")


def decide_scheduled(
    num_changed_rows: int | None, history: History, rules: Retraining, is_erasure: bool = False
) -> Decision:
    """Say whether a retrain that the schedule started should train, now that it knows its rows.

    `num_changed_rows` are rows new, mended or gone since the last training; None where recipe or code changed, which is
    reason enough. So are rows that the champion learnt and that were erased since.
    """
    if is_erasure:
        return Decision("retrain", "the champion learnt rows that were erased", "erasure")
    too_dear = history.over_budget(rules.budget_hours)
    if too_dear:
        return Decision("wait", f"{too_dear} (retraining.budget_hours)")
    if num_changed_rows is None:
        return Decision("retrain", "recipe, code or limits changed since the last training", "schedule")
    needed = rules.schedule_min_new_rows
    if _is_stopped(history, rules):
        needed = max(needed, labels_needed(history, rules))
    changed = "rows that are new, mended or gone since the last training"
    if num_changed_rows < needed:
        return Decision("wait", f"only {num_changed_rows} of {needed} {changed}{_refusal_note(history, rules)}")
    return Decision("retrain", f"{num_changed_rows} {changed}", "schedule")


def labels_needed(history: History, rules: Retraining) -> int:
    """Return how many labels that no training has seen a retrain needs: after many refusals, as many times more."""
    return rules.min_new_labels * _refusal_factor(history, rules)


def has_reason(facts: Facts, rules: Retraining) -> bool:
    """Say whether anything speaks for a retrain, whatever then speaks against it."""
    return bool(_find_reasons(facts, rules))


def find_drop(accuracy: LiveAccuracy, rules: Retraining) -> str | None:
    """Say by how much live accuracy fell below that on test rows, or None where it did not, or not beyond chance.

    Enough labels overrule the estimate: it is what one has without them.
    """
    if rules.max_accuracy_drop is None or accuracy.expected is None:
        return None
    known, name = accuracy.measured, "measured"
    if known is None or known.n < rules.min_accuracy_labels:
        known, name = accuracy.estimated, "estimated"
    if known is None or known.high >= accuracy.expected - rules.max_accuracy_drop:
        return None
    return (
        f"{name} accuracy {known.value:.1%} [{known.low:.1%}, {known.high:.1%}] against {accuracy.expected:.1%} on "
        f"test rows ({rules.max_accuracy_drop:.1%} allowed)"
    )


def _find_reasons(facts: Facts, rules: Retraining) -> dict[Trigger, str]:
    reasons: dict[Trigger, str] = {}
    if facts.verdict == "drift":
        reasons["drift"] = "drift"
    drop = find_drop(facts.accuracy, rules)
    if drop is not None:
        reasons["accuracy"] = drop
    if rules.labels_alone is not None and facts.num_new_labels >= rules.labels_alone:
        reasons["labels"] = f"{facts.num_new_labels} labels that no training has seen ({rules.labels_alone} suffice)"
    if facts.erased_at is not None and facts.tried_since is None:
        reasons["erasure"] = _tell_erasure(facts)
    return reasons


def _tell_erasure(facts: Facts) -> str:
    return f"version {facts.champion} learnt rows that were erased on {facts.erased_at:%Y-%m-%d}"


def _no_reason(facts: Facts) -> str:
    return f"no drift (verdict: {facts.verdict})"


def _erasure_note(facts: Facts, reasons: dict[Trigger, str]) -> str:
    """Keep saying that the champion knows erased rows while no challenger without them has taken its place."""
    if facts.erased_at is None or "erasure" in reasons:
        return ""
    if facts.tried_since == "open":
        return f"; {_tell_erasure(facts)}, and a version without them waits for its release"
    return (
        f"; {_tell_erasure(facts)}, and a retrain without them did not win: somebody must look at the gate, or release "
        "that version by hand"
    )


def _cooldown_end(history: History, rules: Retraining) -> datetime | None:
    if history.last_started_at is None:
        return None
    return history.last_started_at + timedelta(hours=rules.cooldown_hours)


def _is_stopped(history: History, rules: Retraining) -> bool:
    return rules.stop_after_refused is not None and len(history.refused) >= rules.stop_after_refused


def _refusal_factor(history: History, rules: Retraining) -> int:
    return len(history.refused) if _is_stopped(history, rules) else 1


def _shortage(facts: Facts, needed: int, rules: Retraining) -> str:
    missing = needed - facts.num_new_labels
    counted = f"only {facts.num_new_labels} of {needed} labels that no training has seen: {missing} more are needed"
    return counted + _refusal_note(facts.history, rules)


def _refusal_note(history: History, rules: Retraining) -> str:
    if not _is_stopped(history, rules):
        return ""
    named = ", ".join(history.refused[:5])
    return (
        f" (stopped: {len(history.refused)} challengers in a row were refused, versions {named}; look at gate and "
        "labels; a retrain that a person starts begins the count anew)"
    )


def _numbers(facts: Facts, rules: Retraining) -> dict[str, Any]:
    return {
        "new_labels": facts.num_new_labels,
        "needed_labels": labels_needed(facts.history, rules),
        "refused_in_a_row": len(facts.history.refused),
        "spent_hours": round(facts.history.spent_hours, 4),
        "budget_hours": rules.budget_hours,
        "expected_accuracy": facts.accuracy.expected,
        "erased_at": facts.erased_at.isoformat() if facts.erased_at else None,
    }
