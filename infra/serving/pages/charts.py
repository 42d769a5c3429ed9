"""Charts of the pages: where each mark stands on a drawing of a given width, for templates to write as SVG.

Each chart is laid out for several widths: a drawing that is only scaled down cannot be read on a phone.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from infra.serving.i18n.languages import Words
from tasks.core.drift_decisions import DriftDecision
from tasks.stores.ledger import ReportRow

WIDTHS = {"narrow": 330, "middle": 470, "wide": 950}
HEIGHT = 220
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 14, 44
SMALLEST_P = 0.001
LOUD_TESTS = ("outputs", "embeddings", "representation")  # drawn in colours; the others are told when pointed at


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A point; `title` is told when it is pointed at."""

    x: float
    y: float
    kind: str
    title: str


@dataclass(frozen=True)
class Bar:
    """A column or a square."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True)
class Whisker:
    """An interval."""

    x: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """A labelled line across the drawing, level or upright."""

    at: float
    text: str
    is_upright: bool = False


@dataclass(frozen=True)
class Drawing:
    """One layout of a chart."""

    width: int
    height: int
    x_label: str = ""
    y_label: str = ""
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    rules: tuple[Rule, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()  # points, kind
    whiskers: tuple[Whisker, ...] = ()
    dots: tuple[Dot, ...] = ()
    bars: tuple[Bar, ...] = ()
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


@dataclass(frozen=True)
class Chart:
    """A chart with its title, its legend (kind, text) and its layouts."""

    title: str
    layouts: tuple[tuple[str, Drawing], ...]  # by the name of a width
    legend: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True)
class _Frame:
    """Turns times and values into places on a drawing."""

    width: int
    first: datetime
    last: datetime
    low: float
    high: float

    def x(self, at: datetime) -> float:
        span = (self.last - self.first).total_seconds()
        share = (at - self.first).total_seconds() / span if span else 0.5
        return round(LEFT + 8 + share * (self.width - LEFT - RIGHT - 16), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    def time_ticks(self) -> tuple[Tick, ...]:
        n = 6 if self.width == WIDTHS["wide"] else 3
        span = self.last - self.first
        if not span:
            return (Tick(self.x(self.first), f"{self.first:%m-%d %H:%M}"),)
        form = "%H:%M" if span < timedelta(days=1) else "%m-%d %H:%M" if span < timedelta(days=4) else "%m-%d"
        return tuple(
            Tick(self.x(at), f"{at.astimezone(UTC):{form}}")
            for at in (self.first + span * i / (n - 1) for i in range(n))
        )


def draw_drift(
    reports: Sequence[ReportRow], alpha: float, words: Words, decisions: Sequence[DriftDecision] = ()
) -> Chart | None:
    """Return the p-values of each monitored window over time, oldest first; None without windows.

    What people decided about drift meanwhile is marked. Tests beyond the first three share a quiet line.
    """
    tested = [row for row in reports if row.record["tests"]]
    if not tested:
        return None
    found = {str(test["name"]) for row in tested for test in row.record["tests"]}
    names = [*(name for name in LOUD_TESTS if name in found), *sorted(found - set(LOUD_TESTS))]
    num_loud = len(found & set(LOUD_TESTS))
    legend = [(f"line-{place}", words.name("tests", name)) for place, name in enumerate(names[:num_loud])]
    if len(names) > num_loud:
        legend.append(("line-other", words("chart.others")))
    legend.append(("fires", words("chart.fires")))

    def lay_out(width: int) -> Drawing:
        frame = _Frame(width, tested[0].at, tested[-1].at, 0, -math.log10(SMALLEST_P))
        lines, dots = [], []
        for number, name in enumerate(names):
            place = number if number < num_loud else "other"
            points = []
            for row in tested:
                for test in (test for test in row.record["tests"] if test["name"] == name):
                    x, y = frame.x(row.at), frame.y(-math.log10(max(float(test["p_value"]), SMALLEST_P)))
                    points.append(f"{x},{y}")
                    title = f"{words.moment(row.at)} · {words.name('tests', name)}: {_tell_p(test['p_value'])}"
                    dots.append(Dot(x, y, "fires" if test["fires"] else f"dot-{place}", title))
            lines.append((" ".join(points), f"line-{place}"))
        ticks = tuple(Tick(frame.y(-math.log10(p)), f"{p:g}") for p in (1, 0.1, 0.01, 0.001))
        limit = Rule(frame.y(-math.log10(alpha)), words("chart.limit", alpha=f"{alpha:g}"))
        return Drawing(
            width, HEIGHT, words("chart.time"), words("chart.p-value"), frame.time_ticks(), ticks,
            (limit, *_version_rules(tested, frame), *_decision_rules(decisions, frame, words)), tuple(lines), (),
            tuple(dots),
        )  # fmt: skip

    return Chart(words("chart.drift-title"), _lay_out_all(lay_out), tuple(legend))


def draw_accuracy(reports: Sequence[ReportRow], words: Words) -> Chart | None:
    """Return the live accuracy over time, measured with its interval and estimated; None where there is none."""
    known = [row for row in reports if _accuracy_values(row)]
    if not known:
        return None
    lowest = min(min(_accuracy_values(row)) for row in known)
    low = max(0.0, math.floor(round(10 * lowest, 6) - 0.5) / 10)

    def lay_out(width: int) -> Drawing:
        frame = _Frame(width, known[0].at, known[-1].at, low, 1.0)
        dots, whiskers, guessed, found = [], [], [], []
        for row in known:
            accuracy, x = row.record["accuracy"], frame.x(row.at)
            if accuracy["estimated"] is not None:
                y = frame.y(accuracy["estimated"])
                guessed.append(f"{x},{y}")
                text = f"{words.moment(row.at)} · {words('accuracy.estimated')} {words.percent(accuracy['estimated'])}"
                dots.append(Dot(x, y, "dot-1", text))
            if accuracy["measured"] is not None:
                y = frame.y(accuracy["measured"])
                found.append(f"{x},{y}")
                whiskers.append(Whisker(x, frame.y(accuracy["interval"][0]), frame.y(accuracy["interval"][1])))
                dots.append(Dot(x, y, "dot-0", f"{words.moment(row.at)} · {describe_accuracy(row, words)}"))
        step = 0.1 if 1 - low <= 0.5 else 0.2
        n = round((1 - low) / step)
        ticks = tuple(
            Tick(frame.y(1 - step * i), words.percent(1 - step * i, 0))
            for i in range(n + 1)
            if 1 - step * i >= low - 1e-9
        )
        return Drawing(
            width, HEIGHT, words("chart.time"), words("chart.accuracy"), frame.time_ticks(), ticks,
            _version_rules(known, frame), ((" ".join(guessed), "line-1"), (" ".join(found), "line-0")),
            tuple(whiskers), tuple(dots),
        )  # fmt: skip

    legend = (("line-0", words("chart.measured")), ("line-1", words("chart.estimated")))
    return Chart(words("chart.accuracy-title"), _lay_out_all(lay_out), legend)


def draw_new(reports: Sequence[ReportRow], words: Words) -> Chart | None:
    """Return how much of each window was new, guessed and at least; None where no window was explained."""
    known = [(row, row.record["explanation"]["new"]) for row in reports if row.record.get("explanation")]
    if not known:
        return None

    def lay_out(width: int) -> Drawing:
        frame = _Frame(width, known[0][0].at, known[-1][0].at, 0, 1.0)
        lines, dots = [], []
        for place, part in enumerate(("estimate", "at_least")):
            marks = [(frame.x(row.at), frame.y(float(new[part]))) for row, new in known]
            lines.append((" ".join(f"{x},{y}" for x, y in marks), f"line-{place}"))
            label = words(f"chart.{part.replace('_', '-')}")
            dots += [
                Dot(x, y, f"dot-{place}", f"{words.moment(row.at)} · {label} {words.percent(float(new[part]), 0)}")
                for (x, y), (row, new) in zip(marks, known, strict=True)
            ]
        ticks = tuple(Tick(frame.y(share), words.percent(share, 0)) for share in (0, 0.25, 0.5, 0.75, 1))
        rows = [row for row, _ in known]
        return Drawing(
            width, HEIGHT, words("chart.time"), words("chart.new"), frame.time_ticks(), ticks,
            _version_rules(rows, frame), tuple(lines), (), tuple(dots),
        )  # fmt: skip

    legend = (("line-0", words("chart.estimate")), ("line-1", words("chart.at-least")))
    return Chart(words("chart.new-title"), _lay_out_all(lay_out), legend)


def draw_traffic(days: Sequence[tuple[date, int]], words: Words, height: int = 150) -> Chart:
    """Return texts per day as columns."""
    most = max((texts for _, texts in days), default=0)
    top = _round_up(most)

    def lay_out(width: int) -> Drawing:
        floor, room = height - BOTTOM, height - TOP - BOTTOM
        step = (width - LEFT - RIGHT) / len(days)
        bars = tuple(
            Bar(
                round(LEFT + place * step + step * 0.15, 1),
                round(floor - room * texts / top, 1),
                round(step * 0.7, 1),
                round(room * texts / top, 1),
                "column",
                f"{day.isoformat()}: {words.count('units.texts', texts)}",
            )
            for place, (day, texts) in enumerate(days)
        )
        shown = sorted({0, len(days) // 2, len(days) - 1})
        x_ticks = tuple(Tick(round(LEFT + (place + 0.5) * step, 1), f"{days[place][0]:%m-%d}") for place in shown)
        y_ticks = tuple(Tick(round(floor - room * part, 1), words.number(top * part)) for part in (0, 0.5, 1))
        return Drawing(
            width, height, words("chart.day"), words("chart.texts"), x_ticks, y_ticks, bars=bars
        )  # fmt: skip

    return Chart(words("chart.traffic-title"), _lay_out_all(lay_out))


def draw_strip(reports: Sequence[ReportRow], words: Words) -> Drawing | None:
    """Return the verdict of each window as a row of squares, oldest first; None without windows."""
    if not reports:
        return None
    side, gap = 12, 4
    bars = tuple(
        Bar(place * (side + gap), 0, side, side, f"verdict-{row.verdict.replace(' ', '-')}",
            f"{words.moment(row.at)}: {words.name('verdict', row.verdict)}")
        for place, row in enumerate(reports)
    )  # fmt: skip
    return Drawing(len(reports) * (side + gap) - gap, side, bars=bars)


def describe_accuracy(row: ReportRow, words: Words) -> str:
    """Return a window's measured accuracy with its interval, or the estimate, or an empty string."""
    accuracy = row.record["accuracy"]
    if accuracy["measured"] is not None:
        low, high = accuracy["interval"]
        shown = f"{100 * low:.1f}–{100 * high:.1f} %"
        return f"{words.percent(accuracy['measured'])} [{shown}], n = {words.number(accuracy['n_labelled'])}"
    return "" if accuracy["estimated"] is None else words.percent(accuracy["estimated"])


def _tell_p(p_value: float) -> str:
    return f"p < {SMALLEST_P:g}" if p_value < SMALLEST_P else f"p = {p_value:.3f}"


def _accuracy_values(row: ReportRow) -> list[float]:
    accuracy = row.record["accuracy"]
    values = [accuracy["estimated"], accuracy["measured"], *(accuracy["interval"] or [])]
    return [float(value) for value in values if value is not None]


def _version_rules(reports: Sequence[ReportRow], frame: _Frame) -> tuple[Rule, ...]:
    changes = [now for before, now in itertools.pairwise(reports) if before.version != now.version]
    return tuple(Rule(frame.x(row.at), f"v{row.version}", is_upright=True) for row in changes)


def _decision_rules(decisions: Sequence[DriftDecision], frame: _Frame, words: Words) -> tuple[Rule, ...]:
    """Return an upright line where drift was muted or the reference changed."""
    named = {"mute": "chart.muted", "acknowledge": "chart.acknowledged", "restore": "chart.restored"}
    return tuple(
        Rule(frame.x(one.at), words(named[one.action]), is_upright=True)
        for one in decisions
        if one.action in named and frame.first <= one.at <= frame.last
    )


def _lay_out_all(lay_out: Callable[[int], Drawing]) -> tuple[tuple[str, Drawing], ...]:
    return tuple((name, lay_out(width)) for name, width in WIDTHS.items())


def _round_up(value: int) -> int:
    """Return the next round number with an even half: 0 becomes 2, 37 becomes 40, 1,234 becomes 2,000."""
    if value <= 2:
        return 2
    unit = int(10 ** (len(str(value)) - 1))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)
