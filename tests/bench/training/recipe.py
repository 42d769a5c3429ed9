"""Part `recipe`: our presets against the usual example script, paired by seed, on the embedded loop's frozen rows.

The mark is the macro-F1 on validation rows that the example ends with, seed by seed. Who never reaches it is not soon:
a seed that missed the mark took endless seconds and is 0 times as soon, and where half the seeds missed there is no
figure. Both sides evaluate equally often per epoch, so neither pays for more looks than the other. Seconds are those of
the wall clock, and for a machine that has other work, those of the processor beside them.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from configs.load import list_presets, load_loop
from tasks.core.metrics import accuracy, macro_f1
from tests.bench.training.evertune import run_evertune
from tests.bench.training.hf_example import BATCH_SIZE, MAX_TOKENS, run_example
from tests.bench.training.problems import Problem, base_model_folder, preset_training, problem_of_loop
from tests.bench.training.statistics import Counts, count_answers, estimate, estimate_difference
from tests.bench.training.units import FIRST_SEED, Bench, Record
from tests.bench.training.vader import LABELS, vader_answers

EXAMPLE = "recipe"
PRESETS = ("fast", "balanced", "best")
WARM_UP_ROWS = 24
Runs = dict[str, list[Record]]  # by system, in the order of the seeds


def train_recipe(bench: Bench, seed: int) -> dict[str, Record]:
    """Return one seed's runs, by system."""
    systems = _systems()
    shift = (seed - FIRST_SEED) % len(systems)
    return {system: _unit(bench, system, seed) for system in [*systems[shift:], *systems[:shift]]}  # all are first once


def measure_recipe(bench: Bench) -> dict[str, Any]:
    """Return times and test scores of the example and of every preset, and VADER's scores."""
    problem, systems = _problem(bench), _systems()
    by_seed = [train_recipe(bench, seed) for seed in bench.seeds]
    runs: Runs = {system: [records[system] for records in by_seed] for system in systems}
    times, scores = compare_times(runs), _scores(problem, runs)
    found = {"sizes": problem.sizes, "systems": {system: times[system] | scores[system] for system in systems}}
    if problem.labels == LABELS:
        rules = count_answers(problem.gold, [vader_answers(problem.test["text"])], problem.groups, len(LABELS))
        found["VADER"] = _estimates(rules, len(problem.test))
    return found


def print_recipe(found: dict[str, Any]) -> None:
    """Print one line per system."""
    train, validation, test = found["sizes"]
    print(f"recipe: {train} train, {validation} validation and {test} frozen test rows")
    times = f"{'total s':>8} {'CPU s':>7} {'s to mark':>9} {'sooner':>7} {'by CPU':>7}"
    print(f"{'':9} {'accuracy':21} {'macro-F1':21} {'ECE':5} {times}  accuracy beyond the recipe's")
    for system, row in found["systems"].items():
        ece = f"{row['ece']:.3f}" if row["ece"] is not None else "–"
        missed = f"  {row['missed']} seed(s) never reached the mark" if row["missed"] else ""
        print(
            f"{system:9} {row['accuracy']} {row['macro_f1']} {ece:5} {row['seconds']:8.1f} {row['cpu_seconds']:7.0f} "
            f"{_figure(row['seconds_to_mark']):>9} {_figure(row['times_sooner']):>7} "
            f"{_figure(row['cpu_times_sooner']):>7}  {row['gain'] or ''}{missed}"
        )
    if "VADER" in found:
        print(f"{'VADER':9} {found['VADER']['accuracy']} {found['VADER']['macro_f1']}")
    print("mark: the recipe's final validation macro-F1, seed by seed; medians of seconds and of ratios over seeds;")
    print("a seed that never reached it counts as endless, and – says that half the seeds or more never did")


def seconds_to_mark(timeline: Sequence[Sequence[float]], mark: float) -> float:
    """Return when an evaluation first reached the mark; infinity if none did."""
    return next((seconds for seconds, macro in timeline if macro >= mark), math.inf)


def compare_times(runs: Runs) -> dict[str, dict[str, Any]]:
    """Return, by system, medians over seeds, and how many seeds missed the mark: None where half of them did."""
    marks = [record["validation_macro_f1"] for record in runs[EXAMPLE]]
    wall, cpu = (_reach(runs, marks, clock) for clock in ("timeline", "cpu_timeline"))
    found: dict[str, dict[str, Any]] = {}
    for system, ours in wall.items():
        missed = sum(math.isinf(seconds) for seconds in ours)
        is_told = 2 * missed < len(ours)
        found[system] = {
            "seconds": float(np.median([record["seconds"] for record in runs[system]])),
            "cpu_seconds": float(np.median([record["cpu_seconds"] for record in runs[system]])),
            "seconds_to_mark": float(np.median(ours)) if is_told else None,
            "times_sooner": _median_ratio(wall[EXAMPLE], ours) if is_told else None,
            "cpu_times_sooner": _median_ratio(cpu[EXAMPLE], cpu[system]) if is_told else None,
            "missed": missed,
        }
    return found


def _reach(runs: Runs, marks: Sequence[float], clock: str) -> dict[str, list[float]]:
    return {
        system: [seconds_to_mark(record[clock], mark) for record, mark in zip(records, marks, strict=True)]
        for system, records in runs.items()
    }


def _median_ratio(example: Sequence[float], ours: Sequence[float]) -> float:
    return float(np.median([theirs / seconds for theirs, seconds in zip(example, ours, strict=True)]))  # 0 if missed


def _systems() -> list[str]:
    return [EXAMPLE, *[preset for preset in PRESETS if preset in list_presets()]]


@cache
def _problem(bench: Bench) -> Problem:
    return problem_of_loop(load_loop(bench.loop_file), bench.loop_file.parent, bench)


def _unit(bench: Bench, system: str, seed: int) -> Record:
    problem = _problem(bench)
    training = preset_training(bench, "balanced" if system == EXAMPLE else system, seed)
    looks = training.evaluations_per_epoch

    def work() -> Record:
        _warm_up(bench)
        if system == EXAMPLE:
            return run_example(problem, base_model_folder(bench), seed, looks)
        return run_evertune(problem, training)

    example = {"example": [MAX_TOKENS, BATCH_SIZE, seed, looks]}
    recipe = example if system == EXAMPLE else training.model_dump(exclude={"base_model"})
    settings = bench.settings(rows=problem.fingerprint, **recipe)
    return bench.ledger.unit(f"recipe/{system}/seed {seed}", settings, work)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


@cache
def _warm_up(bench: Bench) -> None:
    """Let both sides pay for lazy imports and compiled kernels before the clock runs, once in a bench."""
    small, seed = _problem(bench).limited(WARM_UP_ROWS), bench.seeds[0]
    run_example(small, base_model_folder(bench), seed, evaluations_per_epoch=1, epochs=1)
    run_evertune(small, preset_training(bench, "balanced", seed).model_copy(update={"epochs": 1.0}))


def _scores(problem: Problem, runs: Runs) -> dict[str, dict[str, Any]]:
    n, num_classes = len(problem.test), len(problem.labels)
    counts = {
        system: count_answers(problem.gold, [record["answers"] for record in records], problem.groups, num_classes)
        for system, records in runs.items()
    }
    return {
        system: _estimates(one, n)
        | {
            "gain": None if system == EXAMPLE else estimate_difference(one, counts[EXAMPLE], accuracy, n),
            "ece": None if system == EXAMPLE else float(np.mean([record["ece"] for record in runs[system]])),
        }
        for system, one in counts.items()
    }


def _estimates(counts: Counts, n: int) -> dict[str, Any]:
    return {"accuracy": estimate(counts, accuracy, n), "macro_f1": estimate(counts, macro_f1, n)}
