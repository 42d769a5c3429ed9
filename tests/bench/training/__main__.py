"""What fine-tuning reaches, how soon, and beside what: `make bench-training`.

    python -m tests.bench.training [--parts recipe,genres,intents,device] [--seeds 3] [--genre-seeds 3] [--threads 2]
                                   [--data DIR] [--resume FILE]

Prints a table per part and, last, one JSON line whose estimates are [mean, low, high, n]: means over seeds, 95 %
intervals over resampled groups of test rows. A part that was not run, or lacks its files or device, is null.
`--data DIR` holds hwu64.csv, hwu64_10shot_train.csv, sms_spam.csv and fmc_mwo.csv. With `--resume FILE` every finished
unit is kept there, and a killed bench goes on after it, unless code, rows or recipe changed. All parts train the first
seed before any trains the second: after a kill, `--resume FILE --seeds 1` tells what the first one gave.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.bench.training.device import measure_device, print_device
from tests.bench.training.genres import measure_genres, print_genres, train_genres
from tests.bench.training.intents import measure_intents, print_intents, train_intents
from tests.bench.training.recipe import measure_recipe, print_recipe, train_recipe
from tests.bench.training.statistics import Estimate
from tests.bench.training.units import FIRST_SEED, Bench, Ledger

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
Found = dict[str, Any] | None
PARTS: dict[str, tuple[Callable[[Bench], Found], Callable[[dict[str, Any]], None], str]] = {
    "recipe": (measure_recipe, print_recipe, ""),
    "genres": (measure_genres, print_genres, ""),
    "intents": (measure_intents, print_intents, "no --data DIR"),
    "device": (measure_device, print_device, "no CUDA device"),
}

TRAINERS: dict[str, Callable[[Bench, int], Any]] = {
    "recipe": train_recipe,
    "genres": train_genres,
    "intents": train_intents,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured, separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to average over")
    parser.add_argument("--genre-seeds", type=int, help="of the part genres, which learns each corpus twice")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--data", type=Path, help="folder with the public csv files")
    parser.add_argument("--genre-preset", default="balanced", help="preset of the part genres, the longest one")
    parser.add_argument("--resume", type=Path, help="jsonl file of finished units")
    parser.add_argument("--limit-rows", type=int, help="rows of each split: a smoke run, whose figures mean nothing")
    parser.add_argument("--base-model", help="instead of the loop's")
    parser.add_argument("--loop", type=Path, default=LOOP_FILE, help="instead of the embedded loop")
    given = parser.parse_args(arguments)
    wanted = given.parts.split(",")
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        parser.error(f"--parts: no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    torch.set_num_threads(given.threads)
    bench = Bench(
        loop_file=given.loop,
        seeds=_seeds(given.seeds),
        threads=given.threads,
        ledger=Ledger(given.resume),
        data=given.data,
        limit_rows=given.limit_rows,
        base_model=given.base_model,
        genre_preset=given.genre_preset,
    )
    fewer = given.seeds if given.genre_seeds is None else given.genre_seeds
    benches = dict.fromkeys(PARTS, bench) | {"genres": replace(bench, seeds=_seeds(fewer))}
    for seed in _seeds(max(given.seeds, fewer)):  # all of the first seed, then all of the second
        for name, train in TRAINERS.items():
            if name in wanted and seed in benches[name].seeds:
                train(benches[name], seed)
    found = {name: _run(name, name in wanted, benches[name]) for name in PARTS}
    print(json.dumps(_as_json(summarise(found, benches))))


def summarise(found: dict[str, Found], benches: dict[str, Bench]) -> dict[str, Any]:
    """Return the last line: the figures that other runs are compared by, then all that was found."""
    bench = benches["recipe"]
    recipe, genres, intents = (found[part] for part in ("recipe", "genres", "intents"))
    systems = recipe["systems"] if recipe else {}
    genre_rows = genres["genres"] if genres else {}
    return {
        "times_sooner": systems["balanced"]["times_sooner"] if systems else None,
        "cpu_times_sooner": systems["balanced"]["cpu_times_sooner"] if systems else None,
        **{f"{system}_accuracy": systems[system]["accuracy"] if system in systems else None
           for system in ("recipe", "fast", "balanced", "best")},
        "seeds": {part: len(benches[part].seeds) if found[part] and part in TRAINERS else None for part in PARTS},
        "threads": bench.threads,
        "limit_rows": bench.limit_rows,
        "weighted_f1": {genre: row["weighted_f1"]["separate"] for genre, row in genre_rows.items()} or None,
        "weighted_f1_joint": {genre: row["weighted_f1"]["joint"] for genre, row in genre_rows.items()} or None,
        **{name: intents[name]["accuracy"] if intents and name in intents else None
           for name in ("hwu64_full", "hwu64_10shot", "sms_spam", "fmc_mwo")},
        **found,
    }  # fmt: skip


def _seeds(count: int) -> tuple[int, ...]:
    return tuple(range(FIRST_SEED, FIRST_SEED + count))


def _run(name: str, is_wanted: bool, bench: Bench) -> Found:
    measure, show, lacking = PARTS[name]
    found = measure(bench) if is_wanted else None
    if found is None:
        print(f"{name}: {lacking + ': ' if is_wanted and lacking else ''}not measured")
    else:
        show(found)
    print(flush=True)
    return found


def _as_json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.as_list()
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
