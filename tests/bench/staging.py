"""How often a release in stages is taken back by mistake, and how soon a bad one is, in simulated traffic.

    python -m tests.bench.staging [--releases 1000]

In each world one limit is met exactly: the hardest case that is still within it. A release is looked at after every
group, 2,000 of them. `any of them` is a release that meets all four limits on counts exactly, at once. The worlds
beyond a limit say how many groups it takes. Prints a table and, last, one JSON line; rates are [rate, low, high,
releases] with a 95 % Clopper-Pearson interval.
"""

import argparse
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.serving_schema import Stages
from tasks.core.sequential import log_evidence
from tasks.core.staging import NUM_LIMITS
from tests.bench.rates import Rate

GROUPS, AT_ONCE = 2000, 50  # AT_ONCE: series whose capital is held in memory together
STAGES = Stages()
SHARES, HALVES = np.array([0.0, 1.0]), np.array([0.0, 0.5, 1.0])


@dataclass(frozen=True)
class World:
    """One limit, and how its observations really are distributed."""

    name: str
    values: npt.NDArray[np.float64]
    shares: tuple[float, ...]  # of the values
    limit: float  # of their mean


def within() -> list[World]:
    """Return worlds that meet one limit exactly; a loss of accuracy counts 1, a tie a half."""
    margin = STAGES.max_accuracy_loss
    return [
        World("errors", SHARES, (1 - STAGES.max_error_share, STAGES.max_error_share), STAGES.max_error_share),
        World("latency", SHARES, (0.5, 0.5), 0.5),
        World("disagreement", SHARES, (1 - STAGES.max_disagreement, STAGES.max_disagreement), STAGES.max_disagreement),
        World("live quality", HALVES, (0.05, 0.9 - margin, 0.05 + margin), (1 + margin) / 2),
    ]


def beyond() -> list[World]:
    """Return worlds that break a limit."""
    margin = STAGES.max_accuracy_loss
    return [
        World("errors: 2 %", SHARES, (0.98, 0.02), STAGES.max_error_share),
        World("latency: 9 of 10 texts are slower", SHARES, (0.1, 0.9), 0.5),
        World("disagreement: 40 %", SHARES, (0.6, 0.4), STAGES.max_disagreement),
        World("live quality: 5 points lost", HALVES, (0.05, 0.85, 0.1), (1 + margin) / 2),
        World("live quality: 10 points lost", HALVES, (0.05, 0.8, 0.15), (1 + margin) / 2),
    ]


def find_first(world: World, releases: int, seed: int) -> npt.NDArray[np.int64]:
    """Return after how many groups each release is taken back; GROUPS + 1: never."""
    rng = np.random.default_rng(seed)
    wanted = -np.log(STAGES.error_rate / NUM_LIMITS)
    found = []
    for start in range(0, releases, AT_ONCE):
        drawn = rng.choice(len(world.shares), size=(min(AT_ONCE, releases - start), GROUPS), p=world.shares)
        counts = (drawn[:, :, None] == np.arange(len(world.shares))).cumsum(axis=1)
        fires = log_evidence(world.values, counts, world.limit) >= wanted
        found.append(np.where(fires.any(axis=1), fires.argmax(axis=1) + 1, GROUPS + 1))
    return np.concatenate(found)


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=1000)
    releases = parser.parse_args().releases
    record: dict[str, object] = {"releases": releases, "groups": GROUPS, "error_rate": STAGES.error_rate}
    together = np.zeros(releases, dtype=bool)
    print(f"at the limit: taken back by mistake within {GROUPS} groups, looked at after each")
    for seed, world in enumerate(within()):
        fired = find_first(world, releases, seed) <= GROUPS
        together |= fired
        record[world.name] = _tell(world.name, int(fired.sum()), releases)
    record["any of them"] = _tell("any of them", int(together.sum()), releases)
    print("beyond the limit: groups until it is taken back")
    for seed, world in enumerate(beyond(), start=100):
        first = find_first(world, releases, seed)
        half, most = (int(np.quantile(first, share, method="higher")) for share in (0.5, 0.9))
        record[world.name] = [half, most]
        told = [str(number) if number <= GROUPS else f"more than {GROUPS}" for number in (half, most)]
        print(f"  {world.name:<36} half of them {told[0]}, nine of ten {told[1]}")
    print(json.dumps(record))


def _tell(name: str, fired: int, releases: int) -> list[float]:
    rate, low, high, _ = found = Rate(fired, releases).as_list()
    print(f"  {name:<36} {100 * rate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    return found


if __name__ == "__main__":
    main()
