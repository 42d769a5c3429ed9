"""Challengers and champions whose true difference is known, for gates that must keep their stated error rates."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from configs.schema import Gate
from tasks.core.metrics import Scores, number_groups
from tasks.core.paired import Difference, loss_p_value
from tasks.core.promotion import GateDecision, GateEvidence, Parity, compare_accuracy, decide_promotion
from tasks.core.slices import Cut, SliceScores

RIGHT, WRONG = [0.9, 0.1], [0.1, 0.9]
SHARED_LUCK = 0.75  # share of rows on which both models have the same luck, as two fine-tunings of one base have
SCORES = Scores(0.8, 0.8, 0.02, 1000, (0.78, 0.82), (0.77, 0.83), (0.8, 0.8))
PARITY = Parity(1.0, 0.0)


@dataclass(frozen=True)
class World:
    """How rows come about. `loss` is what the challenger's expected accuracy is lower by, on all rows or slices."""

    n: int = 1000
    loss: float = 0.0
    group_size: int = 1  # mean rows of a group; groups differ in size, and their rows share ease
    slice_shares: tuple[float, ...] = ()  # of the rows; slices overlap
    slice_loss: float = 0.0  # further loss on the first slice
    newest_share: float | None = None
    newest_loss: float = 0.0
    accuracy: float = 0.8


@dataclass(frozen=True)
class Draw:
    """One test set and both models' answers to it."""

    gold: npt.NDArray[np.int64]
    challenger: npt.NDArray[np.float64]
    champion: npt.NDArray[np.float64]
    groups: list[str]
    cuts: list[Cut] = field(default_factory=list)


def draw(world: World, random: np.random.Generator) -> Draw:
    """Return a test set: texts of a group are alike in how easy they are for both models."""
    groups = draw_groups(world, random)
    num_groups = int(groups.max()) + 1
    spread = 0.25 if world.group_size > 1 else 0.0
    ease = random.uniform(-spread, spread, num_groups)[groups] * (1 - world.accuracy) / 0.25
    cuts = [Cut(f"slice-{place}", "", random.random(world.n) < share) for place, share in enumerate(world.slice_shares)]
    loss = np.full(world.n, world.loss)
    if cuts:
        loss[cuts[0].rows] += world.slice_loss
    if world.newest_share is not None:
        is_new = groups >= (1 - world.newest_share) * num_groups
        loss[is_new] += world.newest_loss
        cuts.append(Cut("newest", "", is_new, is_newest=True))
    right = world.accuracy + ease
    luck = random.random(world.n)
    other_luck = np.where(random.random(world.n) < SHARED_LUCK, luck, random.random(world.n))
    champion, challenger = luck < right, other_luck < right - loss
    return Draw(np.zeros(world.n, dtype=np.int64), answers(challenger), answers(champion),
                [str(group) for group in groups], cuts)  # fmt: skip


def draw_groups(world: World, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return each row's group; sizes are 1 + Poisson."""
    if world.group_size == 1:
        return np.arange(world.n)
    sizes = 1 + random.poisson(world.group_size - 1, world.n)
    return np.repeat(np.arange(world.n), sizes)[: world.n]


def answers(is_right: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return probabilities of two classes, the first of which is always true."""
    return np.where(is_right[:, None], RIGHT, WRONG)


def decide(drawn: Draw, gate: Gate) -> GateDecision:
    """Return the gate's decision on a draw; only what depends on the difference can refuse it."""
    slices = tuple(judge(drawn, cut, gate) for cut in drawn.cuts)
    difference = compare_accuracy(drawn.gold, drawn.challenger, drawn.champion, drawn.groups, gate)
    return decide_promotion(GateEvidence(SCORES, PARITY, difference, slices), gate)


def judge(drawn: Draw, cut: Cut, gate: Gate) -> SliceScores:
    """Return a slice with what its rule looks at; the intervals of other slices are for show and not drawn here."""
    names = np.asarray(drawn.groups, dtype=object)[cut.rows].tolist()
    gold, challenger, champion = drawn.gold[cut.rows], drawn.challenger[cut.rows], drawn.champion[cut.rows]
    if cut.is_newest:
        difference = compare_accuracy(gold, challenger, champion, names, gate)
    else:
        by_row = (challenger.argmax(1) == gold).astype(np.int64) - (champion.argmax(1) == gold)
        codes, num_groups = number_groups(names)
        p_loss = loss_p_value(np.bincount(codes, by_row, num_groups).astype(np.int64))
        difference = Difference(float(by_row.mean()), (-1.0, 1.0), -1.0, p_loss)
    return SliceScores(cut.name, "", cut.is_newest, "", len(gold), len(set(names)), difference=difference)


def count_gates(world: World, gate: Gate, num_gates: int, holds: Callable[[GateDecision], bool], seed: int = 7) -> int:
    """Return in how many gates something holds of the decision."""
    return sum(holds(decide(draw(world, np.random.default_rng([seed, number])), gate)) for number in range(num_gates))


def is_promoted(decision: GateDecision) -> bool:
    """Whether every rule held."""
    return decision.promote


def is_refused_for(rule: str) -> Callable[[GateDecision], bool]:
    """Return whether one rule refused."""
    return lambda decision: any(one.name == rule and not one.passed for one in decision.rules)
