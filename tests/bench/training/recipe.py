"""Part `recipe`: our presets against the usual example script, paired by seed, on the embedded loop's frozen rows.

The mark is the macro-F1 on validation rows that the example ends with, seed by seed. Who never reaches it is counted
with all its seconds, and said to have missed it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from configs.load import list_presets, load_loop
from tasks.core.metrics import accuracy, macro_f1
from tests.bench.training.evertune import run_evertune
from tests.bench.training.hf_example import BATCH_SIZE, MAX_TOKENS, run_example
from tests.bench.training.problems import Problem, base_model_folder, preset_training, problem_of_loop
from tests.bench.training.statistics import Counts, count_answers, estimate, estimate_difference
from tests.bench.training.units import Bench, Record
from tests.bench.training.vader import LABELS, vader_answers

EXAMPLE = "recipe"
PRESETS = ("fast", "balanced", "best")
WARM_UP_ROWS = 24
Runs = dict[str, list[Record]]  # by system, in the order of the seeds


def measure_recipe(bench: Bench) -> dict[str, Any]:
    """Return times and test scores of the example and of every preset, and VADER's scores."""
    problem = problem_of_loop(load_loop(bench.loop_file), bench.loop_file.parent, bench)
    systems = [EXAMPLE, *[preset for preset in PRESETS if preset in list_presets()]]
    runs: Runs = {system: [] for system in systems}

    @cache
    def warm_up() -> None:  # once, and only if anything is run
        _warm_up(problem, bench)

    for turn, seed in enumerate(bench.seeds):
        shift = turn % len(systems)
        for system in [*systems[shift:], *systems[:shift]]:  # nobody is always the first
            runs[system].append(_unit(problem, bench, system, seed, warm_up))
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
    times = f"{'total s':>8} {'s to mark':>9} {'sooner':>7}"
    print(f"{'':9} {'accuracy':21} {'macro-F1':21} {'ECE':5} {times}  accuracy beyond the recipe's")
    for system, row in found["systems"].items():
        ece = f"{row['ece']:.3f}" if row["ece"] is not None else "–"
        missed = f"  {row['missed']} seed(s) never reached the mark" if row["missed"] else ""
        print(
            f"{system:9} {row['accuracy']} {row['macro_f1']} {ece:5} {row['seconds']:8.1f} "
            f"{row['seconds_to_mark']:9.1f} {row['times_sooner']:7.1f}  {row['gain'] or ''}{missed}"
        )
    if "VADER" in found:
        print(f"{'VADER':9} {found['VADER']['accuracy']} {found['VADER']['macro_f1']}")
    print("mark: the recipe's final validation macro-F1, seed by seed; medians of seconds and of ratios over seeds")


def seconds_to_mark(record: Record, mark: float) -> tuple[float, bool]:
    """Return when an evaluation first reached the mark, and whether one did; else all seconds count."""
    reached = [seconds for seconds, macro in record["timeline"] if macro >= mark]
    return (reached[0], True) if reached else (record["seconds"], False)


def compare_times(runs: Runs) -> dict[str, dict[str, Any]]:
    """Return, by system, medians over seeds, and how many seeds missed the mark."""
    marks = [record["validation_macro_f1"] for record in runs[EXAMPLE]]
    reached = {
        system: [seconds_to_mark(record, mark) for record, mark in zip(records, marks, strict=True)]
        for system, records in runs.items()
    }
    example = [seconds for seconds, _ in reached[EXAMPLE]]
    return {
        system: {
            "seconds": float(np.median([record["seconds"] for record in runs[system]])),
            "seconds_to_mark": float(np.median([seconds for seconds, _ in marked])),
            "times_sooner": float(np.median([one / ours for one, (ours, _) in zip(example, marked, strict=True)])),
            "missed": sum(not is_reached for _, is_reached in marked),
        }
        for system, marked in reached.items()
    }


def _unit(problem: Problem, bench: Bench, system: str, seed: int, warm_up: Callable[[], None]) -> Record:
    training = None if system == EXAMPLE else preset_training(bench, system, seed)

    def work() -> Record:
        warm_up()
        if training is None:
            return run_example(problem, base_model_folder(bench), seed)
        return run_evertune(problem, training)

    recipe = training.model_dump(exclude={"base_model"}) if training else {"example": [MAX_TOKENS, BATCH_SIZE, seed]}
    return bench.ledger.unit(f"recipe/{system}/seed {seed}", bench.settings(**recipe), work)


def _warm_up(problem: Problem, bench: Bench) -> None:
    """Let both sides pay for lazy imports and compiled kernels before the clock runs."""
    small, seed = problem.limited(WARM_UP_ROWS), bench.seeds[0]
    run_example(small, base_model_folder(bench), seed, epochs=1)
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
