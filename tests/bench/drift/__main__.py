"""False alarms and power of the drift tests on real text, beside Evidently's and alibi-detect's.

    python -m tests.bench.drift [--windows 500] [--power-windows 100] [--rival-windows 100] [--home DIR] [--rivals DIR]
                                [--only NAME ...] [--sizes N ...] [--threads 2]

False alarms: product reviews against product reviews, split by review, so that every alarm is false. Power: windows of
tweets, films and editorials, and subtler shifts (see `windows.py`). The champion was trained on 90 reviews by the
loop's recipe; references and windows are drawn again and again from 210 others, so they overlap and intervals are
somewhat too narrow. Rivals see fewer windows; `power_at_equal_rate` is the share beyond the alpha-quantile of their own
score on null windows of that size, `seconds` is CPU time of one window.

`--rivals DIR` is a folder with alibi-detect (`pip install --target DIR --no-deps alibi-detect numba llvmlite
catalogue`); a rival that is not there is null. `--home DIR` keeps vectors and the answers of finished parts, so the
bench can be run in parts (`--only`, `--sizes`) and resumed. `--accuracy FILE` takes over what `tests.bench.accuracy`
printed of estimated accuracy. Prints a table and, last, one JSON object.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.load import load_loop
from configs.schema import Monitoring
from tests.bench.drift.contenders import Judge, list_contenders
from tests.bench.drift.corpora import LOOP_FILE, Corpus, load_corpora
from tests.bench.drift.windows import NULLS, SHIFTS, sizes_of
from tests.bench.rates import Rate
from tests.bench.training.units import Ledger

CORE = ("drift", "drift_statistics", "permutations", "descriptors", "readers", "rows", "window_drift")
NULL = "false_alarm"
Scores = list[tuple[float, bool]]  # of each window: how much it looks like drift, and whether it fires


@dataclass(frozen=True)
class Bench:
    """What is measured, and how often."""

    corpora: Mapping[str, Corpus]
    rules: Monitoring
    ledger: Ledger
    windows: int
    power_windows: int
    rival_windows: int
    sizes: tuple[int, ...]

    def count_windows(self, contender: str, name: str) -> int:
        """Return how many windows a contender is given."""
        if contender != "evertune":
            return self.rival_windows
        return self.windows if name.startswith("false") else self.power_windows

    def judge(self, contender: str, judge: Judge, name: str, n: int) -> Scores:
        """Return the answers on all windows of a kind and size."""
        windows = self.count_windows(contender, name)
        settings = {"windows": windows, "rules": self.rules.model_dump(mode="json"), "core": _hash_core(contender)}
        record = self.ledger.unit(
            f"{contender}/{name}/{n}", settings, lambda: {"answers": self._ask(judge, name, n, windows)}
        )
        return [(float(score), bool(fires)) for score, fires in record["answers"]]

    def _ask(self, judge: Judge, name: str, n: int, windows: int) -> list[list[float | bool]]:
        draw, answers = {**NULLS, **SHIFTS}[name], []
        for window in range(windows):
            random = np.random.default_rng([*name.encode(), n, window])
            answers.append(list(judge(*draw(self.corpora, n, random), window)))
        return answers


def measure(bench: Bench, contender: str, judge: Judge, names: Sequence[str]) -> dict[str, Any]:
    """Return rates per kind of window and size; a rival also at the false-alarm rate that ours states."""
    found: dict[str, Any] = {"power": {}}
    if contender != "evertune":
        found["power_at_equal_rate"] = {}
    for name in names:
        answers = {n: bench.judge(contender, judge, name, n) for n in sizes_of(name) if n in bench.sizes}
        rates = {str(n): _rate([fires for _, fires in scores]) for n, scores in answers.items()}
        print_rates(f"{contender}: {name}", rates)
        if name not in SHIFTS:
            found[name] = rates
            continue
        found["power"][name] = rates
        if contender != "evertune":
            found["power_at_equal_rate"][name] = {
                str(n): _rate([score > _limit(bench, contender, judge, n) for score, _ in scores])
                for n, scores in answers.items()
            }
            print_rates(f"{contender}: {name}, equal rate", found["power_at_equal_rate"][name])
    return found


def print_rates(name: str, rates: dict[str, list[float]]) -> None:
    """Print one line of the table."""
    cells = [f"n={n:>3}: {rate:6.1%} [{low:5.1%}, {high:6.1%}]" for n, (rate, low, high, _) in rates.items()]
    print(f"{name:42}", *cells, f"({int(next(iter(rates.values()))[3])} windows)", flush=True)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=500, help="per false-alarm rate")
    parser.add_argument("--power-windows", type=int, default=100, help="per shift and size")
    parser.add_argument("--rival-windows", type=int, default=100, help="per kind and size, for the rivals")
    parser.add_argument("--home", type=Path, help="folder that keeps vectors and finished parts")
    parser.add_argument("--rivals", type=Path, help="folder with alibi-detect")
    parser.add_argument("--accuracy", type=Path, help="what tests.bench.accuracy printed")
    parser.add_argument("--only", nargs="+", help="kinds of windows, of: " + ", ".join([*NULLS, *SHIFTS]))
    parser.add_argument("--sizes", nargs="+", type=int, default=[50, 100, 200, 500], help="texts of a window")
    parser.add_argument("--contenders", nargs="+", default=["evertune", "evidently", "alibi"])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rules = load_loop(LOOP_FILE).monitoring
    corpora = load_corpora(given.home)
    ledger = Ledger(given.home / "drift-answers.jsonl" if given.home else None)
    bench = Bench(corpora, rules, ledger, given.windows, given.power_windows, given.rival_windows, tuple(given.sizes))
    judges = {name: judge for name, judge in list_contenders(rules, given.rivals).items() if name in given.contenders}
    found: dict[str, Any] = {}
    for contender, judge in judges.items():
        kinds = [*NULLS, *SHIFTS] if contender == "evertune" else [NULL, *SHIFTS]
        names = [name for name in kinds if given.only is None or name in given.only]
        found[contender] = None if judge is None else measure(bench, contender, judge, names)
    seconds = {name: _seconds(bench, judge) for name, judge in judges.items() if judge is not None}
    ours = found.pop("evertune", None) or {}
    told = json.loads(given.accuracy.read_text(encoding="utf-8").splitlines()[-1]) if given.accuracy else {}
    estimated = {name: value for name, value in told.items() if name.startswith("estimated")}
    print(json.dumps({"alpha": rules.alpha, **ours, **found, "estimated_accuracy_mae": None, **estimated,
                      "seconds": seconds}))  # fmt: skip


def _rate(fired: Sequence[bool]) -> list[float]:
    return Rate(sum(fired), len(fired)).as_list()


def _limit(bench: Bench, contender: str, judge: Judge, n: int) -> float:
    """Return the score that a share alpha of null windows of this size passes."""
    scores = [score for score, _ in bench.judge(contender, judge, NULL, n)]
    return float(np.quantile(scores, 1 - bench.rules.alpha, method="higher"))


def _seconds(bench: Bench, judge: Judge) -> float:
    """Return seconds of CPU of one window of 200 texts."""
    reference, current = NULLS[NULL](bench.corpora, 200, np.random.default_rng(0))
    judge(reference, current, 0)  # what a first call prepares is not counted
    started = time.process_time()
    judge(reference, current, 0)
    return round(time.process_time() - started, 3)


def _hash_core(contender: str) -> str:
    """Return a hash of the code that a contender's answers rest on."""
    files = [Path(f"tasks/core/{name}.py") for name in CORE] if contender == "evertune" else []
    files += [Path(__file__).with_name(f"{name}.py") for name in ("corpora", "windows", "contenders")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


if __name__ == "__main__":
    main()
