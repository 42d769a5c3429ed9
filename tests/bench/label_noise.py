"""Planted wrong labels in product reviews: how many are found, and what down-weighting the suspects is worth.

    python -m tests.bench.label_noise [--seeds 3] [--shares 0.1 0.2] [--epochs 3] [--rows N] [--weight 0] [--threads 1]

A share of the training and validation labels is replaced by another one, ratings are left out. Precision and recall are
those of the list, as judged by the loop's recipe fold by fold, and by logistic regression on vectors of the
frozen base model; rows that were ambiguous before count as false alarms. Accuracy is that on clean test rows, trained
on all labels as they are, with suspects weighted, and with all wrong rows weighted, had they been known. Prints a table
and, last, one JSON line with means over seeds.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from configs.load import load_loop
from configs.schema import Loop, Training
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.embedding import embed
from tasks.core.export import checkpoint_logits
from tasks.core.fine_tuning import fine_tune
from tasks.core.label_noise import Floats, find_suspects, fine_tuned_judge, judge_out_of_fold
from tasks.core.screening import screen
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2], help="shares of wrong labels")
    parser.add_argument("--epochs", type=float, default=3, help="of the training on all rows")
    parser.add_argument("--rows", type=int, help="training rows; default: all")
    parser.add_argument("--weight", type=float, default=0.0, help="of a suspicious row in the loss")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loop = load_loop(LOOP_FILE)
    rows = screen(load_rows(loop, LOOP_FILE.parent, Settings().root), loop.data, loop.labels).rows
    measured = []
    for seed in range(13, 13 + arguments.seeds):
        for share in arguments.shares:
            training = loop.training.model_copy(update={"seed": seed, "epochs": arguments.epochs, "rating_weight": 0.0})
            line = judge_noise(loop, rows, training, share, arguments.rows, arguments.weight)
            measured.append(line)
            print(json.dumps(line), flush=True)
    table = pd.DataFrame(measured).groupby("share").mean().drop(columns="seed")
    print(table.round(3).to_string())
    means = {str(share): row for share, row in table.round(4).to_dict("index").items()}
    print(json.dumps({"seeds": arguments.seeds, "weight": arguments.weight, "epochs": arguments.epochs, **means}))


def judge_noise(
    loop: Loop, rows: pd.DataFrame, training: Training, share: float, num_rows: int | None, weight: float
) -> dict[str, Any]:
    """Plant wrong labels, look for them, and train with and without heed of what was found."""
    train, validation, test = (rows[rows["split"] == part] for part in ("train", "validation", "test"))
    random = np.random.default_rng(training.seed)
    groups = random.permutation(train["group"].unique())
    sizes = train["group"].value_counts()[groups].cumsum()
    train = train[train["group"].isin(groups[: int((sizes <= (num_rows or len(train))).sum())])]
    noisy, is_wrong = plant(train, loop.labels, share, random)
    watched, _ = plant(validation, loop.labels, share, random)
    base_model = resolve_base_model(training.base_model)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tuned_judge(loop.labels, training, base_model, Path(folder))
        suspects = seek(loop, noisy, training, tuned)
    seconds = time.perf_counter() - started
    cheap = seek(loop, noisy, training, vector_judge(noisy, base_model))
    is_suspect = noisy["row_id"].isin(suspects)
    weighted = noisy.assign(weight=np.where(is_suspect, weight, 1.0))
    oracle = noisy.assign(weight=np.where(is_wrong, weight, 1.0))
    return {
        "seed": training.seed,
        "share": share,
        "n": len(noisy),
        "listed": len(suspects),
        **score_list(is_suspect.to_numpy(), is_wrong, ""),
        **score_list(noisy["row_id"].isin(cheap).to_numpy(), is_wrong, "vectors_"),
        "seconds": round(seconds, 1),
        "accuracy_as_is": train_and_score(loop, noisy, watched, test, training, base_model),
        "accuracy_weighted": train_and_score(loop, weighted, watched, test, training, base_model),
        "accuracy_if_all_were_known": train_and_score(loop, oracle, watched, test, training, base_model),
    }


def plant(
    rows: pd.DataFrame, labels: list[str], share: float, random: np.random.Generator
) -> tuple[pd.DataFrame, np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the rows with a share of wrong labels, and which are wrong."""
    given = rows["label"].map(labels.index).to_numpy().copy()
    is_wrong = np.zeros(len(rows), dtype=bool)
    is_wrong[random.choice(len(rows), round(share * len(rows)), replace=False)] = True
    given[is_wrong] = (given[is_wrong] + random.integers(1, len(labels), int(is_wrong.sum()))) % len(labels)
    return rows.assign(label=[labels[position] for position in given], rating=np.nan), is_wrong


def seek(loop: Loop, rows: pd.DataFrame, training: Training, judge: Any) -> set[str]:
    """Return the ids of the suspects."""
    probabilities = judge_out_of_fold(rows, loop.labels, training.label_noise.folds, training.seed, judge)
    return set(find_suspects(rows, probabilities, loop.labels)["row_id"])


def vector_judge(rows: pd.DataFrame, base_model: str) -> Any:
    """Return a judge that fits a logistic regression to vectors of the frozen base model."""
    vector_of = dict(zip(rows["row_id"], embed(rows["text"].tolist(), base_model), strict=True))

    def judge(known: pd.DataFrame, judged: pd.DataFrame) -> Floats:
        model = LogisticRegression(max_iter=1000)
        model.fit([vector_of[row] for row in known["row_id"]], known["label"])
        found: Floats = model.predict_proba([vector_of[row] for row in judged["row_id"]])
        return found  # scikit-learn sorts classes as the loop's labels happen to be sorted

    return judge


def score_list(is_listed: Any, is_wrong: Any, prefix: str) -> dict[str, float]:
    """Return precision and recall of a list of suspects."""
    hits = float((is_listed & is_wrong).sum())
    precision, recall = hits / max(1, is_listed.sum()), hits / is_wrong.sum()
    return {f"{prefix}precision": round(precision, 4), f"{prefix}recall": round(recall, 4)}


def train_and_score(
    loop: Loop,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    test: pd.DataFrame,
    training: Training,
    base_model: str,
) -> float:
    """Return the accuracy on clean test rows."""
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune(train, validation, loop.labels, training, base_model, Path(folder), lambda _: None)
    logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, test["text"].tolist())
    return round(float((logits.argmax(1) == test["label"].map(loop.labels.index).to_numpy()).mean()), 4)


if __name__ == "__main__":
    main()
