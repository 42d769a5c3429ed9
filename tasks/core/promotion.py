"""The gate: the rules by which a challenger becomes champion. It ships closed: all of them must hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from configs.schema import Gate
from tasks.core.behaviour import KindResult, describe_kind
from tasks.core.metrics import Ints, Scores, number_groups, resample_sums
from tasks.core.paired import Difference, correct_for_many, summarise_difference
from tasks.core.slices import SliceScores

NO_CHAMPION = "no champion yet"
NOT_ASKED = "not asked for"
MAX_NAMED = 5  # slices that a reason names; the table has all of them
TELLING = ("floor", "non-inferiority")  # the rules that a summary quotes


@dataclass(frozen=True)
class Rule:
    """One rule's outcome, with the words a person reads."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class GateDecision:
    """Whether the challenger takes the champion alias, and why."""

    promote: bool
    rules: tuple[Rule, ...]

    @property
    def reasons(self) -> list[str]:
        """Return one line per rule, the failed ones first."""
        ordered = sorted(self.rules, key=lambda rule: rule.passed)
        return [f"{'ok' if rule.passed else 'refused'}: {rule.name}: {rule.reason}" for rule in ordered]

    @property
    def summary(self) -> str:
        """Return the decision as one line of an audit log: what refused, else how many rules hold and by how much."""
        refused = [reason for reason in self.reasons if reason.startswith("refused")]
        if refused:
            return "; ".join(refused)
        judged = [rule for rule in self.rules if not rule.reason.startswith(NOT_ASKED)]
        told = [f"{rule.name}: {rule.reason}" for rule in judged if rule.name in TELLING]
        return "; ".join([f"all {len(judged)} rules of the gate hold", *told])


@dataclass(frozen=True)
class Parity:
    """How closely the export repeats the training checkpoint on the test rows."""

    agreement: float  # share of rows with the same label
    largest_difference: float  # of any probability


@dataclass(frozen=True)
class GateEvidence:
    """All that the gate looks at."""

    scores: Scores
    parity: Parity
    difference: Difference | None  # challenger minus champion; None only when there is no champion yet
    slices: tuple[SliceScores, ...] = ()
    behaviour: tuple[KindResult, ...] = ()
    latency_ms: float = 0.0  # median of single texts through the export
    size_mb: float = 0.0  # of the export
    untested: tuple[str, ...] = ()  # labels without a test row
    unknown_share: float | None = None  # of test rows answered `unknown`, all in scope; None: the export never says so
    max_refused_share: float | None = None  # as the loop asks for `unknown`; None: it does not


@dataclass(frozen=True)
class SliceVerdict:
    """What the gate makes of one slice."""

    name: str
    outcome: str  # "kept", "lost", or why it is only shown
    p_value: float | None = None  # of a loss, corrected for the number of slices


def decide_promotion(evidence: GateEvidence, gate: Gate) -> GateDecision:
    """Say whether the challenger takes the champion alias."""
    rules = (
        _judge_rows(evidence.scores, gate),
        _judge_floor(evidence.scores, gate, evidence.untested),
        _judge_parity(evidence.parity, gate),
        _judge_loss(evidence.difference, gate),
        _judge_gain(evidence.difference, gate),
        _judge_newest(evidence.slices, gate),
        _judge_slices(evidence.slices, gate),
        _judge_calibration(evidence.scores, gate),
        _judge_scope(evidence),
        _judge_behaviour(evidence.behaviour),
        _judge_limit(
            "latency", evidence.latency_ms, "ms median for a single text", "max_latency_ms", gate.max_latency_ms
        ),
        _judge_limit("size", evidence.size_mb, "MB export", "max_size_mb", gate.max_size_mb),
    )
    return GateDecision(all(rule.passed for rule in rules), rules)


def compare_accuracy(
    gold: Ints,
    challenger: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating],
    groups: Sequence[str],
    gate: Gate,
    seed: int = 0,
) -> Difference:
    """Return challenger minus champion in accuracy over resamples of whole groups, both on the same rows [N, C]."""
    codes, num_groups = number_groups(groups)
    by_row = (challenger.argmax(1) == gold).astype(np.int64) - (champion.argmax(1) == gold)
    sums_GK = np.stack([np.bincount(codes, by_row, num_groups), np.bincount(codes, minlength=num_groups)])
    sums_KR = resample_sums(sparse.csr_array(sums_GK), gate.resamples, seed)
    return summarise_difference(by_row, codes, num_groups, sums_KR[0] / sums_KR[1], gate.confidence)


def measure_parity(export: npt.NDArray[np.floating], checkpoint: npt.NDArray[np.floating]) -> Parity:
    """Compare probabilities [N, C] of the export with those of the checkpoint."""
    agreement = float((export.argmax(1) == checkpoint.argmax(1)).mean())
    return Parity(agreement, float(np.abs(export - checkpoint).max()))


def judge_slices(slices: Sequence[SliceScores], gate: Gate) -> list[SliceVerdict]:
    """Return the verdict on every slice, in order.

    A slice is lost when its measured loss exceeds `max_slice_loss` and the loss is beyond chance, corrected for the
    number of slices (Holm). The newest slice, from `min_newest_rows` on, must be shown not to lose more than that: its
    lower bound decides. A smaller one could not show it even for an equally good model, and is judged by itself as any
    other slice is.
    """
    p_values: dict[str, float] = {}
    for is_newest in (False, True):  # two rules, so two families of tests
        family = [one for one in slices if one.is_newest == is_newest and not _must_be_shown(one, gate)]
        judged = [one for one in family if _why_not_judged(one, gate) is None]
        corrected = correct_for_many([one.difference.p_loss for one in judged if one.difference is not None])
        p_values |= {one.name: p_value for one, p_value in zip(judged, corrected, strict=True)}
    verdicts = []
    for one in slices:
        shown_only, p_value = _why_not_judged(one, gate), p_values.get(one.name)
        if shown_only is not None or one.difference is None:
            verdicts.append(SliceVerdict(one.name, shown_only or NO_CHAMPION))
        elif p_value is None:
            verdicts.append(SliceVerdict(one.name, "kept" if one.difference.lower >= -gate.max_slice_loss else "lost"))
        else:
            is_lost = one.difference.value < -gate.max_slice_loss and p_value <= 1 - gate.confidence
            verdicts.append(SliceVerdict(one.name, "lost" if is_lost else "kept", p_value))
    return verdicts


def _must_be_shown(one: SliceScores, gate: Gate) -> bool:
    return one.is_newest and one.n >= max(gate.min_newest_rows, gate.min_slice_rows)


def _why_not_judged(one: SliceScores, gate: Gate) -> str | None:
    if one.n == 0:
        return one.note or "no rows"
    if one.difference is None:
        return NO_CHAMPION
    return f"fewer than {gate.min_slice_rows} rows" if one.n < gate.min_slice_rows else None


def _judge_rows(challenger: Scores, gate: Gate) -> Rule:
    passed = challenger.n >= gate.min_test_rows
    return Rule("test rows", passed, f"{challenger.n} rows, {gate.min_test_rows} needed")


def _judge_floor(challenger: Scores, gate: Gate, untested: Sequence[str]) -> Rule:
    passed = challenger.macro_f1 >= gate.min_macro_f1
    verb = "reaches" if passed else "is below"
    reason = f"macro-F1 {challenger.macro_f1:.3f} {verb} the floor {gate.min_macro_f1:.3f}"
    named = ", ".join(untested[:MAX_NAMED]) + (f" and {len(untested) - MAX_NAMED} more" if untested[MAX_NAMED:] else "")
    return Rule("floor", passed, f"{reason}; no test row is {named}" if untested else reason)


def is_faithful(parity: Parity, gate: Gate) -> bool:
    """Return whether the export repeats the checkpoint as closely as the gate asks."""
    return parity.agreement >= gate.min_parity and parity.largest_difference <= gate.max_parity_difference


def describe_parity(parity: Parity, gate: Gate) -> str:
    """Return the parity's numbers beside the limits, as a clause."""
    return (
        f"export agrees with checkpoint on {parity.agreement:.2%} of rows ({gate.min_parity:.2%} needed), "
        f"largest difference {parity.largest_difference:.4f} ({gate.max_parity_difference:.4f} allowed)"
    )


def _judge_parity(parity: Parity, gate: Gate) -> Rule:
    return Rule("export parity", is_faithful(parity, gate), describe_parity(parity, gate))


def _judge_loss(difference: Difference | None, gate: Gate) -> Rule:
    """Non-inferior when the one-sided lower bound stays above the margin (paired bootstrap)."""
    if difference is None:
        return Rule("non-inferiority", True, NO_CHAMPION)
    reason = (
        f"accuracy {difference.value:+.3f} against the champion, {gate.confidence:.0%} lower bound "
        f"{difference.lower:+.3f}, {-gate.max_accuracy_loss:+.3f} allowed"
    )
    return Rule("non-inferiority", difference.lower >= -gate.max_accuracy_loss, reason)


def _judge_gain(difference: Difference | None, gate: Gate) -> Rule:
    """Superior when the one-sided lower bound exceeds the wanted gain."""
    if gate.min_accuracy_gain is None:
        return Rule("superiority", True, f"{NOT_ASKED} (gate.min_accuracy_gain)")
    if difference is None:
        return Rule("superiority", True, NO_CHAMPION)
    reason = (
        f"accuracy {difference.value:+.3f} against the champion, {gate.confidence:.0%} lower bound "
        f"{difference.lower:+.3f}, more than {gate.min_accuracy_gain:+.3f} needed"
    )
    return Rule("superiority", difference.lower > gate.min_accuracy_gain, reason)


def _judge_newest(slices: Sequence[SliceScores], gate: Gate) -> Rule:
    newest = [one for one in slices if one.is_newest]
    if not newest:
        return Rule("newest rows", True, f"{NOT_ASKED} (no slice has `newest`)")
    verdicts = {verdict.name: verdict for verdict in judge_slices(newest, gate)}
    outcomes = {name: verdict.outcome for name, verdict in verdicts.items()}
    told = []
    for one in newest:
        if outcomes[one.name] not in ("kept", "lost") or one.difference is None:
            told.append(f"{one.name}: not judged, {outcomes[one.name]} ({one.n} rows)")
            continue
        measured = f"{one.name}: accuracy {one.difference.value:+.3f} on {one.n} rows"
        if _must_be_shown(one, gate):
            bound = f"{gate.confidence:.0%} lower bound {one.difference.lower:+.3f}"
            told.append(f"{measured}, {bound}, {-gate.max_slice_loss:+.3f} allowed")
        else:
            told.append(
                f"{measured}, {-gate.max_slice_loss:+.3f} allowed beyond chance (p {verdicts[one.name].p_value:.3f}; "
                f"from {gate.min_newest_rows} rows on the lower bound decides)"
            )
    return Rule("newest rows", "lost" not in outcomes.values(), "; ".join(told))


def _judge_slices(slices: Sequence[SliceScores], gate: Gate) -> Rule:
    others = [one for one in slices if not one.is_newest]
    if not others:
        return Rule("slices", True, f"{NOT_ASKED} (no slice in the loop's YAML)")
    verdicts = judge_slices(others, gate)
    lost = [one for one, verdict in zip(others, verdicts, strict=True) if verdict.outcome == "lost"]
    num_judged = sum(verdict.outcome in ("kept", "lost") for verdict in verdicts)
    if not num_judged:
        why = NO_CHAMPION if all(one.difference is None for one in others) else f"none has {gate.min_slice_rows} rows"
        return Rule("slices", True, f"none of {len(others)} judged: {why}")
    bound = f"more than {gate.max_slice_loss:.3f}, beyond chance (Holm, {num_judged} judged of {len(others)})"
    if not lost:
        return Rule("slices", True, f"none loses {bound}; {_worst(others, verdicts)}")
    worst_first = sorted(lost, key=lambda one: one.difference.value if one.difference else 0.0)
    named = ", ".join(f"{one.name} {one.difference.value:+.3f} on {one.n} rows" for one in worst_first[:MAX_NAMED]
                      if one.difference is not None)  # fmt: skip
    more = f" and {len(lost) - MAX_NAMED} more" if len(lost) > MAX_NAMED else ""
    return Rule("slices", False, f"{named}{more}: loses {bound}")


def _worst(slices: Sequence[SliceScores], verdicts: Sequence[SliceVerdict]) -> str:
    judged = [(one.difference.value, one.name) for one, verdict in zip(slices, verdicts, strict=True)
              if verdict.outcome == "kept" and one.difference is not None]  # fmt: skip
    value, name = min(judged)
    return f"lowest: {name} {value:+.3f}"


def _judge_calibration(challenger: Scores, gate: Gate) -> Rule:
    shown = f"ECE {challenger.ece:.3f} after temperature scaling"
    if gate.max_ece is None:
        return Rule("calibration", True, f"{NOT_ASKED} (gate.max_ece); {shown}")
    return Rule("calibration", challenger.ece <= gate.max_ece, f"{shown}, {gate.max_ece:.3f} allowed")


def _judge_scope(evidence: GateEvidence) -> Rule:
    """Test rows are in scope: as few may be unknown as the limit was fitted for, and as many again by chance."""
    share, asked = evidence.unknown_share, evidence.max_refused_share
    if asked is None:
        return Rule("in scope", True, f"{NOT_ASKED} (unknown)")
    if share is None:
        return Rule("in scope", True, "validation rows are too few for a limit: no text is answered unknown")
    reason = (
        f"{share:.1%} of {evidence.scores.n} test rows, all in scope, are answered unknown, {2 * asked:.1%} allowed "
        "(twice unknown.max_refused_share)"
    )
    return Rule("in scope", share <= 2 * asked, reason)


def _judge_behaviour(behaviour: Sequence[KindResult]) -> Rule:
    if not behaviour:
        return Rule("behavioural cases", True, f"{NOT_ASKED} (no cases file beside the loop's YAML)")
    reason = "; ".join(describe_kind(of_kind) for of_kind in behaviour)
    return Rule("behavioural cases", all(of_kind.is_met for of_kind in behaviour), reason)


def _judge_limit(name: str, value: float, unit: str, key: str, limit: float | None) -> Rule:
    if limit is None:
        return Rule(name, True, f"{NOT_ASKED} (gate.{key}); {value:.1f} {unit}")
    return Rule(name, value <= limit, f"{value:.1f} {unit}, {limit:g} allowed")
