"""The ledger of a loop as its page shows it: what each retrain cost and gained, the month, and what was erased."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.serving.i18n.languages import Words
from infra.serving.service import Service
from tasks.stores.ledger import RetrainRow
from tasks.stores.retrain_past import REMEMBERED, find_marked_versions, recall_past


@dataclass(frozen=True)
class Gain:
    """What a retrain gained on some rows, in words; `kind` is good, bad or empty."""

    text: str
    kind: str


@dataclass(frozen=True)
class ShownRetrain:
    """One line of the ledger."""

    row: RetrainRow
    test: Gain | None
    newest: Gain | None
    worth: str | None  # gained, no clear gain, lost, first


def list_retrains(retrains: Sequence[RetrainRow], words: Words) -> list[ShownRetrain]:
    """Return the lines of the ledger; retrains of earlier versions did not say what they gained."""
    return [_show(row, row.record.get("worth") or {}, words) for row in retrains]


def tell_month(service: Service, loop: str, budget_hours: float | None, words: Words) -> str:
    """Return what this month's retrains came to, beside the budget where there is one."""
    now = datetime.now(UTC)
    past = recall_past(service.ledger, loop, now)
    ended = [one for one in past.retrains if (one.at.year, one.at.month) == (now.year, now.month)]
    told = words(
        "ledger.month",
        n=sum(one.outcome != "untrained" for one in ended),
        promoted=sum(one.outcome == "promoted" for one in ended),
        hours=f"{past.history.spent_hours:.2f}",
    )
    if budget_hours is not None:
        told += words("ledger.budget", hours=f"{budget_hours:g}")
    return told + (words("ledger.in-a-row", n=len(past.history.refused)) if past.history.refused else "")


def find_marked(service: Service, loop: str) -> dict[str, datetime]:
    """Return the versions that learnt rows which were erased since, with the time of the erasure."""
    marked = service.erasures.list_marked(loop)
    return find_marked_versions(service.ledger.recent_retrains(loop, REMEMBERED), marked) if marked else {}


def _show(row: RetrainRow, worth: Mapping[str, Any], words: Words) -> ShownRetrain:
    test, newest = (_tell(worth.get(part), words) for part in ("test", "newest"))
    return ShownRetrain(row, test, newest, worth.get("verdict"))


def _tell(found: Mapping[str, Any] | None, words: Words) -> Gain | None:
    if not found:
        return None
    low, high = found["interval"]
    kind = "good" if low > 0 else "bad" if high < 0 else ""
    points = f"{100 * found['accuracy']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    return Gain(f"{points}, n = {words.number(found['n'])}", kind)
