import numpy as np
import pytest
from scipy.stats import binom

from configs.schema import Gate
from tasks.core.behaviour import KindResult
from tasks.core.metrics import Scores
from tasks.core.paired import Difference
from tasks.core.promotion import (
    NOT_ASKED,
    GateDecision,
    GateEvidence,
    Parity,
    Rule,
    compare_accuracy,
    decide_promotion,
    judge_slices,
    measure_parity,
)
from tasks.core.slices import SliceScores
from tests.support.simulated_gate import World, count_gates, is_promoted, is_refused_for

GATE = Gate(min_macro_f1=0.7, max_accuracy_loss=0.02, min_test_rows=100)
SAME = Parity(1.0, 0.0001)
RULES = [
    "test rows",
    "floor",
    "export parity",
    "non-inferiority",
    "superiority",
    "newest rows",
    "slices",
    "calibration",
    "in scope",
    "behavioural cases",
    "latency",
    "size",
]


def scores(macro_f1: float = 0.8, n: int = 500, ece: float = 0.02) -> Scores:
    return Scores(0.8, macro_f1, ece, n, (0.78, 0.82), (0.77, 0.83), (0.8, 0.8))


def differing(value: float, reach: float = 0.01, p_loss: float = 0.5) -> Difference:
    return Difference(value, (value - reach, value + reach), value - reach, p_loss)


def a_slice(name: str, difference: Difference | None, n: int = 100, is_newest: bool = False) -> SliceScores:
    return SliceScores(name, "", is_newest, "" if n else "no test row has a date", n, n, difference=difference)


def gate(**changes: float) -> Gate:
    return GATE.model_copy(update=changes)


def decide(rules: Gate = GATE, **changes: object) -> GateDecision:
    evidence = {"scores": scores(), "parity": SAME, "difference": None, "latency_ms": 12.34, "size_mb": 90.0}
    return decide_promotion(GateEvidence(**{**evidence, **changes}), rules)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "rules", "promote", "reason"),
    [
        ({}, GATE, True, "ok: non-inferiority: no champion yet"),
        ({"scores": scores(0.69)}, GATE, False, "refused: floor: macro-F1 0.690 is below the floor 0.700"),
        ({"scores": scores(n=99)}, GATE, False, "refused: test rows: 99 rows, 100 needed"),
        ({"parity": Parity(0.99, 0.0001)}, GATE, False, "agrees with checkpoint on 99.00% of rows (99.50% needed)"),
        ({"parity": Parity(1.0, 0.05)}, GATE, False, "largest difference 0.0500 (0.0200 allowed)"),
        ({"difference": differing(0.0)}, GATE, True,
         "accuracy +0.000 against the champion, 95% lower bound -0.010, -0.020 allowed"),
        ({"difference": differing(-0.011)}, GATE, False, "95% lower bound -0.021, -0.020 allowed"),
        # superiority
        ({"difference": differing(0.05)}, gate(min_accuracy_gain=0.04), False,
         "refused: superiority: accuracy +0.050 against the champion, 95% lower bound +0.040, more than +0.040 needed"),
        ({"difference": differing(0.06)}, gate(min_accuracy_gain=0.04), True, "ok: superiority: accuracy +0.060"),
        ({}, gate(min_accuracy_gain=0.04), True, "ok: superiority: no champion yet"),
        ({}, GATE, True, "ok: superiority: not asked for (gate.min_accuracy_gain)"),
        # calibration, latency, size
        ({}, GATE, True, "ok: calibration: not asked for (gate.max_ece); ECE 0.020 after temperature scaling"),
        ({}, gate(max_ece=0.02), True, "ok: calibration: ECE 0.020 after temperature scaling, 0.020 allowed"),
        ({}, gate(max_ece=0.019), False, "refused: calibration: ECE 0.020 after temperature scaling, 0.019 allowed"),
        ({}, GATE, True, "ok: latency: not asked for (gate.max_latency_ms); 12.3 ms median for a single text"),
        ({}, gate(max_latency_ms=12.0), False, "refused: latency: 12.3 ms median for a single text, 12 allowed"),
        ({}, gate(max_latency_ms=13.0), True, "ok: latency"),
        ({}, gate(max_size_mb=89.5), False, "refused: size: 90.0 MB export, 89.5 allowed"),
        ({}, GATE, True, "ok: size: not asked for (gate.max_size_mb); 90.0 MB export"),
        # behaviour
        ({}, GATE, True, "ok: behavioural cases: not asked for (no cases file beside the loop's YAML)"),
        ({"behaviour": (KindResult("must", 9, 10, 0.9, (4,)), KindResult("invariance", 2, 2, 1.0, ()))}, GATE, True,
         "ok: behavioural cases: must 9 of 10 (90% needed, failed: 4); invariance 2 of 2 (100% needed)"),
        ({"behaviour": (KindResult("must", 10, 10, 1.0, ()), KindResult("direction", 2, 4, 0.6, (11, 12)))}, GATE,
         False, "refused: behavioural cases: must 10 of 10 (100% needed); direction 2 of 4 (60% needed, failed: 11, 1"),
        # slices
        ({}, GATE, True, "ok: slices: not asked for (no slice in the loop's YAML)"),
        ({}, GATE, True, "ok: newest rows: not asked for (no slice has `newest`)"),
        ({"slices": (a_slice("short", None),)}, GATE, True, "ok: slices: none of 1 judged: no champion yet"),
        ({"slices": (a_slice("short", differing(-0.9, p_loss=0.0), n=49),)}, GATE, True,
         "ok: slices: none of 1 judged: none has 50 rows"),
        ({"slices": (a_slice("short", differing(-0.08, p_loss=0.01)), a_slice("long", differing(0.02)))}, GATE, False,
         "refused: slices: short -0.080 on 100 rows: loses more than 0.050, beyond chance (Holm, 2 judged of 2)"),
        ({"slices": (a_slice("short", differing(-0.08, p_loss=0.03)), a_slice("long", differing(0.02)))}, GATE, True,
         "ok: slices: none loses more than 0.050, beyond chance (Holm, 2 judged of 2); lowest: short -0.080"),
        ({"slices": (a_slice("short", differing(-0.04, p_loss=0.0)),)}, GATE, True, "ok: slices: none loses"),
        ({"slices": (a_slice("new", differing(-0.04, reach=0.02), n=300, is_newest=True),)}, GATE, False,
         "refused: newest rows: new: accuracy -0.040 on 300 rows, 95% lower bound -0.060, -0.050 allowed"),
        ({"slices": (a_slice("new", differing(0.0, reach=0.04), n=300, is_newest=True),)}, GATE, True,
         "ok: newest rows: new: accuracy +0.000 on 300 rows, 95% lower bound -0.040"),
        # too few newest rows to show anything: judged as any slice, by themselves
        ({"slices": (a_slice("new", differing(-0.04, reach=0.2), n=299, is_newest=True),)}, GATE, True,
         "ok: newest rows: new: accuracy -0.040 on 299 rows, -0.050 allowed beyond chance (p 0.500; from 300 rows on"),
        ({"slices": (a_slice("new", differing(-0.06, p_loss=0.04), n=50, is_newest=True),)}, GATE, False,
         "refused: newest rows: new: accuracy -0.060 on 50 rows, -0.050 allowed beyond chance (p 0.040; from 300 rows"),
        ({"slices": (a_slice("new", differing(-0.04, reach=0.02), n=50, is_newest=True),)}, gate(min_newest_rows=50),
         False, "refused: newest rows: new: accuracy -0.040 on 50 rows, 95% lower bound -0.060, -0.050 allowed"),
        ({"slices": (a_slice("new", differing(-0.4), n=20, is_newest=True),)}, GATE, True,
         "ok: newest rows: new: not judged, fewer than 50 rows (20 rows)"),
        ({"slices": (a_slice("new", None, n=0, is_newest=True),)}, GATE, True,
         "ok: newest rows: new: not judged, no test row has a date (0 rows)"),
    ],
)  # fmt: skip
def test_gate(changes: dict[str, object], rules: Gate, promote: bool, reason: str) -> None:
    decision = decide(rules, **changes)
    assert decision.promote is promote
    assert reason in "\n".join(decision.reasons)
    assert [rule.name for rule in decision.rules] == RULES
    assert all(any(letter.isalnum() for letter in rule.reason) for rule in decision.rules)


def test_each_rule_alone_keeps_the_gate_shut() -> None:
    """Ships closed: eleven decisions that differ in one failed rule."""
    refused = decide(
        gate(min_accuracy_gain=0.5, max_ece=0.01, max_latency_ms=1.0, max_size_mb=1.0),
        scores=scores(0.1, n=1),
        parity=Parity(0.5, 0.5),
        difference=differing(-0.5),
        slices=(a_slice("short", differing(-0.5, p_loss=0.0)), a_slice("new", differing(-0.5), n=300, is_newest=True)),
        behaviour=(KindResult("must", 0, 1, 1.0, (1,)),),
        unknown_share=0.5,
        max_refused_share=0.05,
    )
    assert [rule.passed for rule in refused.rules] == [False] * len(RULES)
    assert not refused.promote


def test_refusals_are_told_first() -> None:
    decision = decide(scores=scores(0.1))
    assert decision.reasons[0].startswith("refused: floor")
    assert all(reason.startswith("ok: ") for reason in decision.reasons[1:])


def test_many_lost_slices_are_named_by_loss() -> None:
    slices = tuple(a_slice(f"s{number}", differing(-0.1 - number / 100, p_loss=0.0)) for number in range(7))
    reason = next(rule for rule in decide(slices=slices).rules if rule.name == "slices").reason
    assert reason.startswith("s6 -0.160 on 100 rows, s5 -0.150 on 100 rows, s4")
    assert "s2 -0.120 on 100 rows and 2 more: loses more than 0.050" in reason


def test_verdicts_say_why_a_slice_is_only_shown() -> None:
    slices = [
        a_slice("small", differing(-0.5, p_loss=0.0), n=10),
        a_slice("lost", differing(-0.2, p_loss=0.001)),
        a_slice("unproved", differing(-0.2, p_loss=0.06)),
        a_slice("empty", None, n=0),
        a_slice("fresh", None),
        a_slice("new", differing(0.0, p_loss=0.03), is_newest=True),
        a_slice("newer", differing(0.0), n=300, is_newest=True),
    ]
    found = {verdict.name: (verdict.outcome, verdict.p_value) for verdict in judge_slices(slices, GATE)}
    assert found == {
        "small": ("fewer than 50 rows", None),
        "lost": ("lost", 0.002),
        "unproved": ("kept", 0.06),
        "empty": ("no test row has a date", None),
        "fresh": ("no champion yet", None),
        "new": ("kept", 0.03),  # a family of its own: the other slices' number does not count against it
        "newer": ("kept", None),
    }


def test_the_difference_pairs_both_models_on_the_same_resamples() -> None:
    """Two models that err together differ by a row, however uncertain each one's accuracy is."""
    gold = np.zeros(400, dtype=np.int64)
    champion = np.where((np.arange(400) % 2 == 0)[:, None], [0.9, 0.1], [0.1, 0.9])
    challenger = champion.copy()
    challenger[1] = [0.9, 0.1]
    found = compare_accuracy(gold, challenger, champion, [str(row) for row in range(400)], GATE)
    assert found.value == pytest.approx(1 / 400)
    assert -0.5 / 400 <= found.lower <= found.ci[1] < 0.02


MARGIN = Gate(min_macro_f1=0.5, max_accuracy_loss=0.02, resamples=400)
SUPERIOR = MARGIN.model_copy(update={"min_accuracy_gain": 0.0})
TENTH = (0.1, 0.2, 0.3) * 3


def at_most(share: float, num_gates: int) -> int:
    """Return the largest count that a true rate of `share` gives in 97.5 % of simulations."""
    return int(binom.ppf(0.975, num_gates, share))


@pytest.mark.parametrize("group_size", [1, 4], ids=["single rows", "clustered rows"])
def test_of_models_at_the_margin_one_in_twenty_passes(group_size: int) -> None:
    """1,000 gates at the margin: at most 5 % are promoted, up to the simulation's own noise (64 of 1,000)."""
    world = World(loss=0.02, group_size=group_size)
    assert 20 < count_gates(world, MARGIN, 1000, is_promoted) <= at_most(0.05, 1000) == 64


@pytest.mark.parametrize("group_size", [1, 4], ids=["single rows", "clustered rows"])
def test_a_model_three_points_better_passes_all_rules(group_size: int) -> None:
    world = World(loss=-0.03, group_size=group_size, slice_shares=TENTH, newest_share=0.2)
    assert count_gates(world, MARGIN, 150, is_promoted) >= 0.9 * 150


def test_superiority_is_not_given_away() -> None:
    assert count_gates(World(), SUPERIOR, 300, is_promoted) <= at_most(0.05, 300)


@pytest.mark.parametrize("group_size", [1, 4], ids=["single rows", "clustered rows"])
def test_slices_refuse_no_equally_good_model_beyond_the_stated_rate(group_size: int) -> None:
    """Holm over nine slices: an equally good model is refused for any of them in at most 5 % of gates."""
    world = World(group_size=group_size, slice_shares=TENTH)
    assert count_gates(world, MARGIN, 200, is_refused_for("slices")) <= at_most(0.05, 200)


def test_slices_see_one_that_is_far_worse() -> None:
    world = World(slice_shares=TENTH[1:], slice_loss=0.15)
    assert count_gates(world, MARGIN, 100, is_refused_for("slices")) >= 85


def test_enough_newest_rows_must_be_shown_to_lose_little() -> None:
    world = World(n=1500, newest_share=0.2, newest_loss=0.05)
    passed = 300 - count_gates(world, MARGIN, 300, is_refused_for("newest rows"))
    assert passed <= at_most(0.05, 300)


@pytest.mark.parametrize(("newest", "most"), [(60, 0.05), (150, 0.05), (300, 0.15)])
def test_newest_rows_seldom_refuse_an_equally_good_model(newest: int, most: float) -> None:
    """What 60 rows cannot show must not be asked of them: the bound alone refused 65 % of equally good models there."""
    world = World(n=1500, newest_share=newest / 1500)
    assert count_gates(world, MARGIN, 200, is_refused_for("newest rows")) <= at_most(most, 200)


def test_few_newest_rows_still_see_a_model_that_is_far_worse() -> None:
    world = World(n=1500, newest_share=150 / 1500, newest_loss=0.15)
    assert count_gates(world, MARGIN, 100, is_refused_for("newest rows")) >= 85


def test_parity_measures_labels_and_probabilities() -> None:
    export = np.array([[0.6, 0.4], [0.45, 0.55]])
    checkpoint = np.array([[0.61, 0.39], [0.52, 0.48]])
    parity = measure_parity(export, checkpoint)
    assert (parity.agreement, parity.largest_difference) == pytest.approx((0.5, 0.07))


def test_a_rule_is_told_as_it_ended() -> None:
    decision = GateDecision(False, (Rule("size", True, "small"), Rule("floor", False, "low")))
    assert decision.reasons == ["refused: floor: low", "ok: size: small"]
    assert decision.summary == "refused: floor: low"


@pytest.mark.parametrize(
    ("share", "asked", "promote", "reason"),
    [
        (None, None, True, "ok: in scope: not asked for (unknown)"),
        (None, 0.05, True, "ok: in scope: validation rows are too few for a limit"),
        (0.1, 0.05, True, "ok: in scope: 10.0% of 500 test rows, all in scope, are answered unknown, 10.0% allowed"),
        (0.12, 0.05, False, "refused: in scope: 12.0% of 500 test rows, all in scope, are answered unknown"),
    ],
)
def test_an_export_that_calls_too_many_rows_in_scope_unknown_is_refused(
    share: float | None, asked: float | None, promote: bool, reason: str
) -> None:
    decision = decide(unknown_share=share, max_refused_share=asked)
    assert decision.promote == promote
    assert any(reason in line for line in decision.reasons)


def test_the_floor_names_labels_without_test_rows() -> None:
    reasons = decide(untested=tuple("abcdefg")).reasons
    assert "ok: floor: macro-F1 0.800 reaches the floor 0.700; no test row is a, b, c, d, e and 2 more" in reasons


def test_a_summary_leaves_out_what_was_not_asked_for() -> None:
    decision = decide()
    assert decision.promote
    assert NOT_ASKED in "\n".join(decision.reasons)
    assert NOT_ASKED not in decision.summary
    assert decision.summary.startswith("all ")
    assert "rules of the gate hold; floor: macro-F1 0.800 reaches" in decision.summary
