"""How good the embedded loop is on its frozen test rows, beside VADER on the very same rows.

    python -m tests.bench.accuracy [--seeds 3] [--threads 2]

Prints a table and, last, one JSON line. VADER (Hutto & Gilbert 2014) answers with its documented thresholds: compound
score >= 0.05 is positive, <= -0.05 negative.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from configs.load import load_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.export import export_bundle
from tasks.core.fine_tuning import fine_tune
from tasks.core.metrics import Scores, score_predictions
from tasks.core.screening import screen
from tasks.stores.base_models import resolve_base_model
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")


@dataclass(frozen=True)
class Outcome:
    """What one system reached, and the seconds that training and answering took."""

    system: str
    scores: Scores
    train_seconds: float
    answer_seconds: float


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds to average over")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loop = load_loop(LOOP_FILE)
    rows = screen(load_rows(loop, LOOP_FILE.parent, Settings().root), loop.data, loop.labels).rows
    outcomes = [judge_vader(loop, rows)]
    for seed in range(13, 13 + arguments.seeds):
        outcomes.append(judge_evertune(loop, rows, seed))
    print_table(outcomes)
    print(json.dumps(summarise(outcomes)))


def judge_vader(loop: Loop, rows: pd.DataFrame) -> Outcome:
    """Score VADER's rules on the test rows."""
    test = rows[rows["split"] == "test"]
    analyzer = SentimentIntensityAnalyzer()
    started = time.perf_counter()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in test["text"]])
    seconds = time.perf_counter() - started
    predicted = np.where(compound >= 0.05, "positive", np.where(compound <= -0.05, "negative", "neutral"))
    one_hot = (predicted[:, None] == np.array(loop.labels)[None, :]).astype(np.float64)
    return Outcome("VADER", score(loop, test, one_hot), 0.0, seconds)


def judge_evertune(loop: Loop, rows: pd.DataFrame, seed: int) -> Outcome:
    """Fine-tune with one seed and score the export on the test rows."""
    train, validation, test = (rows[rows["split"] == split] for split in ("train", "validation", "test"))
    training = loop.training.model_copy(update={"seed": seed})
    base_model = resolve_base_model(training.base_model)
    gold = validation["label"].map(loop.labels.index).to_numpy()
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune(train, validation, loop.labels, training, base_model, Path(folder) / "run", lambda _: None)
        texts = validation["text"].tolist()
        predictor = export_bundle(tuned.classifier, tuned.tokenizer, loop.name, texts, gold, Path(folder) / "bundle")
        started = time.perf_counter()
        probabilities = predictor.predict(test["text"].tolist()).probabilities
        seconds = time.perf_counter() - started
    return Outcome(f"Evertune, seed {seed}", score(loop, test, probabilities), tuned.seconds, seconds)


def score(loop: Loop, test: pd.DataFrame, probabilities: npt.NDArray[np.floating]) -> Scores:
    """Score probabilities against the test rows' labels."""
    gold = test["label"].map(loop.labels.index).to_numpy()
    return score_predictions(gold, probabilities, test["group"].tolist())


def print_table(outcomes: list[Outcome]) -> None:
    """Print one line per system, with 95 % intervals over resampled reviews."""
    print(f"{'system':22} {'accuracy':>24} {'macro-F1':>24} {'ECE':>6} {'n':>5} {'train s':>8} {'answer s':>9}")
    for outcome in outcomes:
        scores = outcome.scores
        cells = [f"{value:.3f} [{low:.3f}, {high:.3f}]" for value, (low, high) in (
            (scores.accuracy, scores.accuracy_ci), (scores.macro_f1, scores.macro_f1_ci))]  # fmt: skip
        ece = "–" if outcome.system == "VADER" else f"{scores.ece:.3f}"
        print(f"{outcome.system:22} {cells[0]:>24} {cells[1]:>24} {ece:>6} {scores.n:5} "
              f"{outcome.train_seconds:8.1f} {outcome.answer_seconds:9.2f}")  # fmt: skip


def summarise(outcomes: list[Outcome]) -> dict[str, object]:
    """Return means over seeds: never the best one."""
    vader, *seeds = (outcome.scores for outcome in outcomes)
    ours = {
        name: round(float(np.mean([getattr(scores, name) for scores in seeds])), 4)
        for name in ("accuracy", "macro_f1", "ece")
    }
    intervals = {
        name: [round(float(np.mean([getattr(scores, name)[side] for scores in seeds])), 4) for side in (0, 1)]
        for name in ("accuracy_ci", "macro_f1_ci")
    }
    return {
        "n": vader.n,
        "seeds": len(seeds),
        **ours,
        **intervals,
        "vader_accuracy": round(vader.accuracy, 4),
        "vader_macro_f1": round(vader.macro_f1, 4),
        "train_seconds": round(float(np.mean([outcome.train_seconds for outcome in outcomes[1:]])), 1),
    }


if __name__ == "__main__":
    main()
