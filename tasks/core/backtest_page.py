"""The page on which a person compares policies: one self-contained HTML file, without any row's text."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tasks.core.backtest_report import HEADS, tabulate_policies
from tasks.core.validation_page import render_page

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 900, 300, 52, 34, 12
MAX_POINTS = 45  # of a line: more steps are put together
MAX_RETRAINS = 200  # that the page lists per policy; --json has them all


def render_backtest_page(record: Mapping[str, Any], rules: Mapping[str, Any], made_at: datetime) -> str:
    """Return the page of a backtest; `rules` are the loop's `retraining` section."""
    policies = record["policies"]
    return render_page(
        "backtest_page.html",
        record=record,
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        heads=HEADS,
        table=tabulate_policies(policies),
        chart=_draw(policies),
        rules=[(name, value) for name, value in rules.items() if value is not None],
        retrains=[(each["policy"], _list_retrains(each["steps"])) for each in policies if each["retrains"]],
    )


def _list_retrains(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [step for step in steps if "retrain" in step][:MAX_RETRAINS]


def _draw(policies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return where each policy's line runs, and the marks of both axes."""
    lines = [(each["policy"], _put_together(each["steps"])) for each in policies]
    values = [share for _, points in lines for _, share in points]
    low = max(0.0, (int(20 * min(values, default=0.0)) - 1) / 20)
    high = min(1.0, (int(20 * max(values, default=1.0)) + 2) / 20)

    def x(place: float) -> float:
        return round(LEFT + place * (WIDTH - LEFT - 12), 1)

    def y(share: float) -> float:
        return round(HEIGHT - BOTTOM - (share - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    steps = policies[0]["steps"] if policies else []
    days = [(x((place + 1) / len(steps)), steps[place]["until"][:10])
            for place in sorted({0, len(steps) // 2, len(steps) - 1})] if steps else []  # fmt: skip
    shares = [low + (high - low) * part / 4 for part in range(5)]
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "lines": [
            (number, name, " ".join(f"{x(place)},{y(share)}" for place, share in points))
            for number, (name, points) in enumerate(lines)
        ],
        "y_ticks": [(y(share), f"{100 * share:.0f} %") for share in shares],
        "x_ticks": days,
    }


def _put_together(steps: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (place in time 0–1, accuracy) of so many neighbouring steps together that a line stays readable."""
    size = -(-len(steps) // MAX_POINTS)
    points = []
    for start in range(0, len(steps), max(1, size)):
        part = steps[start : start + size]
        n = sum(step["n"] for step in part)
        if n:
            points.append(((start + len(part)) / len(steps), sum(step["right"] for step in part) / n))
    return points
