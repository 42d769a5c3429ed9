"""The version's description: what it is, how good on what, how the gate judged it, and how it was made."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tasks.core.behaviour import CaseResult, KindResult
from tasks.core.engine_choice import Trial
from tasks.core.metrics import Scores
from tasks.core.promotion import GateDecision, SliceVerdict
from tasks.core.slices import SliceScores

MAX_DESCRIPTION = 5000  # characters that MLflow's own database takes
CUT = "\n\n… the whole card: evidence/model_card.md"
INTERVALS = "Brackets hold 95 % intervals over resampled groups."


def write_model_card(
    loop: str,
    description: str,
    scores: Scores,
    champion: Scores | None,
    decision: GateDecision,
    facts: Mapping[str, Any],
    slices: Sequence[tuple[SliceScores, SliceVerdict]] = (),
    behaviour: Sequence[KindResult] = (),
    failed: Sequence[CaseResult] = (),
    engines: Sequence[Trial] = (),
) -> str:
    """Return the card as markdown."""
    verdict = "promoted" if decision.promote else "not promoted"
    lines = [
        f"# {loop}",
        "",
        description,
        "",
        "| on the frozen test rows | this version | champion then |",
        "|---|---|---|",
    ]
    lines += [_score_row(name, scores, champion) for name in ("accuracy", "macro_f1", "ece")]
    lines += [f"| n | {scores.n} | {champion.n if champion else '–'} |", "", INTERVALS, ""]
    lines += [f"**Gate: {verdict}**", "", *[f"- {reason}" for reason in decision.reasons], ""]
    lines += list_slices(slices)
    lines += list_cases(behaviour, failed)
    lines += list_engines(engines)
    lines += ["| fact | value |", "|---|---|", *[f"| {name} | {value} |" for name, value in facts.items()]]
    return "\n".join(lines)


def cut_description(card: str) -> str:
    """Return as much of a card as MLflow's description may hold, cut at the end of a line."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    return card[: card.rfind("\n", 0, MAX_DESCRIPTION - len(CUT))] + CUT


def list_slices(slices: Sequence[tuple[SliceScores, SliceVerdict]]) -> list[str]:
    """Return the per-slice table as lines of markdown; nothing without slices."""
    if not slices:
        return []
    lines = [
        "| slice | n | accuracy | macro-F1 | champion then | difference | verdict (corrected p of a loss) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, verdict in slices:
        difference = one.difference
        cells = [
            _escape(one.name),
            str(one.n),
            _with_interval(one.accuracy, one.accuracy_ci),
            _with_interval(one.macro_f1, one.macro_f1_ci),
            _with_interval(one.champion_accuracy, None),
            f"{difference.value:+.3f} [{difference.ci[0]:+.3f}, {difference.ci[1]:+.3f}]" if difference else "–",
            _escape(verdict.outcome) + (f", p {verdict.p_value:.3f}" if verdict.p_value is not None else ""),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def list_engines(engines: Sequence[Trial]) -> list[str]:
    """Return what the engines were measured to do, as lines of markdown; nothing for a version older than engines."""
    if not engines:
        return []
    batch_size = next((one.batch_size for one in engines if one.batch_size), None)
    lines = [
        f"| engine, on validation rows | agreement | largest difference | macro-F1 | texts/s alone | in batches of "
        f"{batch_size} | MB | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in engines:
        cells = [
            one.engine,
            _number(one.agreement, ".2%"),
            _number(one.largest_difference, ".4f"),
            _number(one.macro_f1, ".3f"),
            _number(one.single_texts_per_second, ".0f"),
            _number(one.batch_texts_per_second, ".0f"),
            _number(one.size_mb, ".1f"),
            "**serves**" if one.is_chosen else _escape(one.why_not) or "slower",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def summarise_slices(slices: Sequence[SliceScores], verdicts: Sequence[SliceVerdict]) -> list[dict[str, Any]]:
    """Return the few numbers per slice that a retrain's record keeps."""
    return [
        {
            "name": one.name,
            "n": one.n,
            "accuracy": one.accuracy,
            "champion_accuracy": one.champion_accuracy,
            "difference": one.difference.value if one.difference else None,
            "verdict": verdict.outcome,
        }
        for one, verdict in zip(slices, verdicts, strict=True)
    ]


def summarise_cases(behaviour: Sequence[KindResult]) -> dict[str, dict[str, Any]]:
    """Return, by kind, how many behavioural cases a retrain's record says passed, and which failed."""
    return {one.kind: {"passed": one.passed, "n": one.n, "failed": list(one.failed)} for one in behaviour}


def list_cases(behaviour: Sequence[KindResult], failed: Sequence[CaseResult] = ()) -> list[str]:
    """Return how many behavioural cases passed, and which failed, as lines of markdown; nothing without cases."""
    if not behaviour:
        return []
    lines = ["| behavioural cases | passed | needed |", "|---|---|---|"]
    lines += [f"| {one.kind} | {one.passed} of {one.n} | {one.needed:.0%} |" for one in behaviour]
    lines += [""] if failed else []
    lines += [f"- case {case.number} ({case.why or case.kind}): {_escape(case.text)} Expected {case.expected}, "
              f"answered {case.answered}." for case in failed]  # fmt: skip
    return [*lines, ""]


def _score_row(name: str, scores: Scores, champion: Scores | None) -> str:
    cells = ["–" if side is None else _with_interval(getattr(side, name), asdict(side).get(f"{name}_ci"))
             for side in (scores, champion)]  # fmt: skip
    return f"| {name.replace('_', '-')} | {' | '.join(cells)} |"


def _with_interval(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _escape(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
