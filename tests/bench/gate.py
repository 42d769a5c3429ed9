"""Error rates of the gate's rules on simulated test sets whose truth is known.

    python -m tests.bench.gate [--gates 1000]

Rows are single or clustered (groups of 4 on average, alike in how easy they are); both models share their luck on three
quarters of the rows. Worlds lie exactly at a margin, so every promotion there is a mistake. Prints a table and, last,
one JSON line: each rate is [rate, low, high, gates] with a 95 % Clopper–Pearson interval.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, norm

from configs.schema import Gate
from tasks.core.promotion import GateDecision
from tasks.core.slices import score_slices
from tests.bench.rates import Rate
from tests.support.simulated_gate import World, count_gates, draw, is_promoted, is_refused_for

MARGIN, SLICE_MARGIN = 0.02, 0.05
GATE = Gate(min_macro_f1=0.5, max_accuracy_loss=MARGIN, max_slice_loss=SLICE_MARGIN)
SUPERIOR = GATE.model_copy(update={"min_accuracy_gain": 0.0})
SLICES = (0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2, 0.3)
CLUSTERS = {"single": 1, "clustered": 4}
Case = tuple[World, Gate, Callable[[GateDecision], bool]]


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=1000, help="test sets per rate")
    arguments = parser.parse_args()
    started, rates = time.perf_counter(), dict[str, list[float]]()
    for rows, size in CLUSTERS.items():
        worlds: dict[str, Case] = {
            f"promoted, worse by the margin, {rows}": (World(loss=MARGIN, group_size=size), GATE, is_promoted),
            f"promoted, worse by the margin, 12 slices, {rows}": (
                World(loss=MARGIN, group_size=size, slice_shares=SLICES, newest_share=0.2), GATE, is_promoted),
            f"promoted, equally good, 750 rows, {rows}": (World(n=750, group_size=size), GATE, is_promoted),
            f"promoted, equally good, 1,000 rows, {rows}": (World(group_size=size), GATE, is_promoted),
            f"promoted, 3 points better, {rows}": (World(loss=-0.03, group_size=size), GATE, is_promoted),
            f"promoted, 3 points better, 12 slices and newest, {rows}": (
                World(loss=-0.03, group_size=size, slice_shares=SLICES, newest_share=0.2), GATE, is_promoted),
            f"superior, equally good, {rows}": (World(group_size=size), SUPERIOR, is_promoted),
            f"superior, 3 points better, {rows}": (World(loss=-0.03, group_size=size), SUPERIOR, is_promoted),
            f"refused for slices, equally good, 12 slices, {rows}": (
                World(group_size=size, slice_shares=SLICES), GATE, is_refused_for("slices")),
            f"refused for slices, one of 12 at the margin, {rows}": (
                World(group_size=size, slice_shares=SLICES, slice_loss=SLICE_MARGIN), GATE, is_refused_for("slices")),
            f"refused for slices, one of 12 (100 rows) loses 15 points, {rows}": (
                World(group_size=size, slice_shares=SLICES, slice_loss=0.15), GATE, is_refused_for("slices")),
            f"refused for slices, one of 12 (200 rows) loses 15 points, {rows}": (
                World(group_size=size, slice_shares=SLICES[1:], slice_loss=0.15), GATE, is_refused_for("slices")),
        }  # fmt: skip
        rates |= measure(worlds, arguments.gates)
    rates |= measure(newest_worlds(), arguments.gates)
    rejected = {name: share_caught_by_margin(share, arguments.gates) for name, share in (("100", 0.1), ("200", 0.2))}
    print(json.dumps({
        "gates": arguments.gates,
        "largest_count_at_5_percent": int(binom.ppf(0.975, arguments.gates, 0.05)),
        "rates": rates,
        "caught_if_tested_against_the_margin": rejected,
        "seconds_10k_rows_20_slices": measure_seconds(),
        "seconds": round(time.perf_counter() - started, 1),
    }))  # fmt: skip


def newest_worlds() -> dict[str, Case]:
    """Return gates of 1,500 single rows, the newest 60, 150, 299 or 300 of which are judged by themselves.

    From `min_newest_rows`, 300, on they must be shown not to lose more than the margin.
    """
    worlds: dict[str, Case] = {}
    for newest in (60, 150, 299, 300):
        for told, loss in (("equally good", 0.0), ("worse by the margin", SLICE_MARGIN), ("15 points worse", 0.15),
                           ("3 points better", -0.03)):  # fmt: skip
            world = World(n=1500, newest_share=newest / 1500, newest_loss=loss)
            worlds[f"refused for {newest} newest rows, {told}"] = (world, GATE, is_refused_for("newest rows"))
    return worlds


def measure(worlds: dict[str, Case], num_gates: int) -> dict[str, list[float]]:
    """Return each rate with its interval, and print it."""
    rates = {}
    for name, (world, gate, holds) in worlds.items():
        rates[name] = Rate(count_gates(world, gate, num_gates, holds), num_gates).as_list()
        rate, low, high, _ = rates[name]
        print(f"{name:75} {rate:6.1%} [{low:5.1%}, {high:6.1%}]", flush=True)
    return rates


def share_caught_by_margin(share: float, num_gates: int) -> float:
    """Return how often the rejected rule (a loss proved to exceed the margin) sees one of 12 slices lose 15 points."""
    world = World(slice_shares=(share, *SLICES[1:]), slice_loss=0.15)
    caught = 0
    for number in range(num_gates):
        drawn = draw(world, np.random.default_rng([11, number]))
        rows = drawn.cuts[0].rows
        by_row = (drawn.challenger.argmax(1) == 0).astype(int)[rows] - (drawn.champion.argmax(1) == 0).astype(int)[rows]
        z = (by_row.mean() + SLICE_MARGIN) / (by_row.std(ddof=1) / np.sqrt(len(by_row)))
        caught += norm.cdf(z) <= 0.05 / len(SLICES)  # Holm's first step: no other slice has lost anything
    return caught / num_gates


def measure_seconds() -> float:
    """Return what resampling 20 slices of 10,000 rows 2,000 times takes."""
    drawn = draw(World(n=10_000, group_size=2, slice_shares=(0.25,) * 20), np.random.default_rng(0))
    started = time.perf_counter()
    score_slices(drawn.cuts, drawn.gold, drawn.challenger, drawn.champion, drawn.groups, 2000, 0.95)
    return round(time.perf_counter() - started, 2)


if __name__ == "__main__":
    main()
