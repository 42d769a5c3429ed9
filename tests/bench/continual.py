"""What a model that goes on learning forgets: reviews first, then tweets, with more or less replay of reviews.

    python -m tests.bench.continual [--seeds 3] [--new-rows 500] [--old-rows N] [--epochs 3] [--threads 1]

The champion learns product reviews. Then some hundred tweets of the same archive arrive, rated by the same people, and
the challenger goes on from the champion with that many old rows per new one, or begins at the base model with all rows.
Accuracy is that on frozen test rows of both kinds. Prints a table and, last, one JSON line with means over seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from configs.load import load_loop
from configs.schema import Loop, PackageSource, Training
from configs.settings import Settings
from infra.demo.corpora import TWEETS_MEMBER
from tasks.core.base_models import resolve_base_model
from tasks.core.classifier import save_classifier
from tasks.core.export import checkpoint_logits
from tasks.core.fine_tuning import fine_tune
from tasks.core.replay import mix_replay
from tasks.core.screening import screen
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
REPLAYS: dict[str, float] = {"0": 0.0, "0.5": 0.5, "1": 1.0, "all": 1000.0}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--new-rows", type=int, default=500, help="tweets that arrive")
    parser.add_argument("--old-rows", type=int, help="reviews that the champion learns; default: all")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loop = load_loop(LOOP_FILE)
    reviews, tweets = load_kind(loop, None), load_kind(loop, TWEETS_MEMBER)
    measured: list[dict[str, Any]] = []
    for seed in range(13, 13 + arguments.seeds):
        training = loop.training.model_copy(update={"seed": seed, "epochs": arguments.epochs})
        old = reviews[reviews["split"] == "train"].sample(frac=1.0, random_state=seed).head(arguments.old_rows or 10**9)
        new = tweets[tweets["split"] == "train"].sample(arguments.new_rows, random_state=seed)
        for line in judge_seed(loop, reviews, tweets, old, new, training):
            measured.append({"seed": seed, **line})
            print(json.dumps(measured[-1]), flush=True)
    table = pd.DataFrame(measured).groupby("model", sort=False).mean(numeric_only=True).drop(columns="seed")
    table["old_lost"] = table.loc["champion", "old"] - table["old"]
    table["new_gained"] = table["new"] - table.loc["champion", "new"]
    print(table.round(3).to_string())
    print(json.dumps({"seeds": arguments.seeds, "new_rows": arguments.new_rows, **table.round(4).to_dict("index")}))


def load_kind(loop: Loop, member: str | None) -> pd.DataFrame:
    """Return the screened rows of the reviews, or of another file of their archive."""
    data = loop.data
    if member is not None:
        source = data.sources[0]
        columns = source.columns.model_copy(update={"group": None, "group_pattern": None})
        other = {"name": "tweets", "member": member, "columns": columns.model_dump()}
        data = data.model_copy(update={"sources": [PackageSource.model_validate(source.model_dump() | other)]})
    loaded = load_rows(loop.model_copy(update={"data": data}), LOOP_FILE.parent, Settings().root)
    return screen(loaded, data, loop.labels).rows


def judge_seed(
    loop: Loop, reviews: pd.DataFrame, tweets: pd.DataFrame, old: pd.DataFrame, new: pd.DataFrame, training: Training
) -> Iterator[dict[str, Any]]:
    """Train the champion and every challenger of one seed, and score them on both kinds of test rows."""
    watched_old, watched_new = (kind[kind["split"] == "validation"] for kind in (reviews, tweets))
    watched_new = watched_new.sample(
        min(len(watched_new), round(len(watched_old) * len(new) / len(old))), random_state=1
    )
    watched = pd.concat([watched_old, watched_new])
    both = pd.concat([old, new], ignore_index=True)
    tests = {"old": reviews[reviews["split"] == "test"], "new": tweets[tweets["split"] == "test"]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        champion = learn(loop, old, watched_old, training, folder / "champion", None)
        save_classifier(champion.classifier, champion.tokenizer, folder / "start")
        yield {"model": "champion", "rows": len(old), **score(loop, champion, tests)}
        for replay, old_per_new in REPLAYS.items():
            mixed = mix_replay(both, old, old_per_new, training.seed)
            tuned = learn(loop, mixed.rows, watched, training, folder / f"replay-{replay}", folder / "start")
            yield {"model": f"replay {replay}", "rows": len(mixed.rows), **score(loop, tuned, tests)}
        tuned = learn(loop, both, watched, training, folder / "base", None)
        yield {"model": "from base", "rows": len(both), **score(loop, tuned, tests)}


def learn(
    loop: Loop, train: pd.DataFrame, validation: pd.DataFrame, training: Training, folder: Path, start: Path | None
) -> Any:
    """Fine-tune as a retrain does."""
    base_model = resolve_base_model(training.base_model)
    return fine_tune(train, validation, loop.labels, training, base_model, folder, lambda _: None, start=start)


def score(loop: Loop, tuned: Any, tests: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Return the accuracy on each kind of test rows, and the training's seconds."""
    found = {}
    for name, rows in tests.items():
        logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, rows["text"].tolist())
        gold = rows["label"].map(loop.labels.index).to_numpy()
        found[name] = round(float(np.mean(logits.argmax(1) == gold)), 4)
    return {**found, "seconds": round(tuned.seconds, 1)}


if __name__ == "__main__":
    main()
