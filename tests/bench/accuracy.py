"""Estimated accuracy against the measured one on each genre, and what few audited labels measure among many others.

    python -m tests.bench.accuracy --home DIR [--seeds 3] [--windows 40] [--n 500] [--threads 1]

A champion trained on reviews answers windows of its own genre (validation rows) and of three others; DIR keeps its
answers. *estimated*: without labels, beside an isotonic curve through the scores. *audited*: 50 labels drawn by chance,
100 of the least sure texts, and customers who send the label of 60 % of the wrong answers; beside the plain share of
right answers among all labels. Windows of a genre share rows, so they are not independent. Prints a table and, last,
one JSON line: mean absolute errors in points, and shares of windows whose band or interval holds the truth.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from tasks.core.audit import measure_accuracy
from tasks.core.performance import Answers, SecondOpinion, estimate_accuracy
from tests.bench.genre_answers import FIRST_SEED, GENRES, GenreAnswers, prepare, read_answers

AUDITED, UNSURE, DISPUTED_SHARE = 50, 100, 0.6
Row = dict[str, object]


def to_answers(rows: GenreAnswers, *, vectors: bool = True, gold: bool = False) -> Answers:
    """Return rows as the monitor sees them."""
    return Answers(
        rows.predicted.tolist(),
        rows.probabilities.max(1),
        rows.groups.tolist(),
        rows.base_vectors if vectors else None,
        rows.gold.tolist() if gold else None,
    )


def judge_window(window: GenreAnswers, reference: GenreAnswers, second: SecondOpinion, seed: int) -> Row:
    """Return how far each number is from the truth in one window, and whether its interval holds it."""
    truth = float((window.predicted == window.gold).mean())
    known = to_answers(reference, gold=True)
    estimated = estimate_accuracy(reference=known, current=to_answers(window), second=second)
    by_scores = estimate_accuracy(reference=known, current=to_answers(window, vectors=False))
    assert estimated is not None
    assert by_scores is not None
    frame = label_some(window, np.random.default_rng(seed))
    measured = measure_accuracy(frame)
    assert measured is not None
    labelled = frame[frame["gold"].notna()]
    plain = float((labelled["gold"] == labelled["label"]).mean())
    return {
        "truth": truth,
        "estimated": estimated.accuracy - truth,
        "by_scores": by_scores.accuracy - truth,
        "audited": measured.accuracy - truth,
        "plain_share": plain - truth,
        "band_holds": estimated.low <= truth <= estimated.high,
        "band_width": estimated.high - estimated.low,
        "interval_holds": measured.low <= truth <= measured.high,
    }


def label_some(window: GenreAnswers, random: np.random.Generator) -> pd.DataFrame:
    """Return the window with labels as they come: some audited, some of unsure texts, some disputed."""
    n = len(window.gold)
    picked = np.full(n, None, dtype=object)
    order = random.permutation(n)
    audited, others = order[: n // 5], order[n // 5 :]
    picked[audited[:AUDITED]] = "audit"
    picked[others[np.argsort(window.probabilities.max(1)[others])][:UNSURE]] = "unsure"
    wrong = np.flatnonzero(window.predicted != window.gold)  # whoever was asked before: a customer's word is `given`
    picked[random.permutation(wrong)[: round(DISPUTED_SHARE * len(wrong))]] = "given"
    gold = [label if way is not None else None for label, way in zip(window.gold, picked, strict=True)]
    return pd.DataFrame(
        {"text": window.texts, "label": window.predicted, "gold": gold, "picked": picked, "group": window.groups,
         "at": pd.date_range("2026-01-01", periods=n, freq="s"), "key_id": "key"}
    )  # fmt: skip


def summarise(found: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return per genre: errors in points, mean error of the plain share, and coverage."""
    table: dict[str, dict[str, float]] = {}
    for genre, rows in found.groupby("genre", sort=False):
        table[str(genre)] = {
            "accuracy": round(float(rows["truth"].mean()), 4),
            **{f"{name}_mae": round(100 * float(rows[name].abs().mean()), 2)
               for name in ("estimated", "by_scores", "audited", "plain_share")},
            "band_holds": round(float(rows["band_holds"].mean()), 3),
            "band_width": round(100 * float(rows["band_width"].mean()), 1),
            "interval_holds": round(float(rows["interval_holds"].mean()), 3),
            "windows": len(rows),
        }  # fmt: skip
    return table


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="keeps the champions' answers between runs")
    parser.add_argument("--seeds", type=int, default=3, help="champions")
    parser.add_argument("--windows", type=int, default=40, help="per genre and champion")
    parser.add_argument("--n", type=int, default=500, help="texts in a window")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started, seeds = time.process_time(), range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    prepare(arguments.home, seeds)
    rows: list[Row] = []
    for seed in seeds:
        reference = read_answers(arguments.home, "test", seed)
        second = SecondOpinion(to_answers(reference, gold=True))
        for genre in ("validation", *GENRES):
            answers = read_answers(arguments.home, genre, seed)
            for number in range(arguments.windows):
                window = answers.draw(arguments.n, np.random.default_rng([seed, number]))
                rows.append({"genre": genre, "seed": seed, **judge_window(window, reference, second, number)})
    found = pd.DataFrame(rows).replace({"genre": {"validation": "reviews"}})
    table = summarise(found)
    print(pd.DataFrame(table).T.to_string())
    print(found.groupby(["genre", "seed"], sort=False)[["estimated", "by_scores"]].mean().mul(100).round(1).to_string())
    others = found[found["genre"] != "reviews"]
    print(json.dumps({
        "estimated_accuracy_mae": {genre: row["estimated_mae"] for genre, row in table.items()},
        "estimated_accuracy_mae_other_genres": round(100 * float(others["estimated"].abs().mean()), 2),
        "by_scores_mae_other_genres": round(100 * float(others["by_scores"].abs().mean()), 2),
        "genres": table, "n": arguments.n, "seeds": arguments.seeds,
        "cpu_seconds": round(time.process_time() - started, 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
