"""How well a score tells texts outside a loop's scope from those inside, at a stated share of refused ones.

    python -m tests.bench.unknown --data DIR [--seeds 3] [--held-out 12] [--epochs 2] [--threads 1]

DIR holds hwu64.csv (text, label, split) and fmc_mwo.csv (text). Two loops: intents, of which some classes are held out
of training and count as outside (near; at most 40 training rows each), and the embedded loop, for which maintenance
observations and intents are outside (far). Compared are the largest calibrated probability, the energy (Liu et al.,
2020, arXiv:2010.03759), the largest logit, and the closeness that Evertune uses. `refused_outside` is what the loop's
own limit, fitted on validation rows, refuses of texts outside, `refused_inside` of in-scope test rows. Prints a table
and, last, one JSON line with means over seeds.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from configs.load import load_loop
from configs.schema import Training
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.export import checkpoint_logits, sentence_vectors
from tasks.core.fine_tuning import fine_tune
from tasks.core.predictor import softmax
from tasks.core.screening import screen
from tasks.core.temperature import fit_temperature
from tasks.core.unknown import fit_scope, fit_scope_limit
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
MAX_REFUSED_SHARE = 0.05
MAX_ROWS_PER_INTENT = 40
Floats = npt.NDArray[np.floating]


def largest_probability(logits: Floats, temperature: float) -> Floats:
    """Return the score of the answer."""
    return np.asarray(softmax((logits / temperature).astype(np.float32)).max(1))


def energy(logits: Floats, temperature: float) -> Floats:
    """Return the negative free energy: T * logsumexp(logits / T)."""
    scaled = logits.astype(np.float64) / temperature
    top = scaled.max(1)
    return np.asarray(temperature * (top + np.log(np.exp(scaled - top[:, None]).sum(1))))


def largest_logit(logits: Floats, temperature: float) -> Floats:
    """Return the largest logit."""
    return np.asarray(logits.max(1) / temperature)


SCORES: dict[str, Callable[[Floats, float], Floats]] = {
    "probability": largest_probability,
    "energy": energy,
    "logit": largest_logit,
}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with hwu64.csv and fmc_mwo.csv")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--held-out", type=int, default=12, help="intents that are not trained")
    parser.add_argument("--epochs", type=float, default=2, help="of the intents")
    parser.add_argument("--review-epochs", type=float, default=3, help="of the reviews")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured: list[dict[str, object]] = []
    for seed in range(13, 13 + arguments.seeds):
        training = load_loop(LOOP_FILE).training.model_copy(update={"seed": seed, "epochs": arguments.epochs})
        near = judge_intents(arguments.data, training, arguments.held_out)
        far = judge_reviews(arguments.data, training.model_copy(update={"epochs": arguments.review_epochs}))
        for line in [*near, *far]:
            measured.append(line)
            print(json.dumps(line), flush=True)
    table = pd.DataFrame(measured).groupby(["outside", "score"], sort=False).mean(numeric_only=True)
    print(table.drop(columns="seed").round(3).to_string())
    means = table.drop(columns="seed").round(4).to_dict("index")
    summary = {f"{outside}/{score}": row for (outside, score), row in means.items()}
    print(json.dumps({"seeds": arguments.seeds, "max_refused_share": MAX_REFUSED_SHARE, **summary}))


def judge_intents(data: Path, training: Training, held_out: int) -> list[dict[str, object]]:
    """Train on intents without some classes, and tell theirs from the others."""
    intents = pd.read_csv(data / "hwu64.csv", dtype="str")
    names = sorted(intents["label"].unique())
    outside = set(np.random.default_rng(training.seed).choice(names, held_out, replace=False))
    inside = intents[~intents["label"].isin(outside)]
    train, validation, test = (inside[inside["split"].str.startswith(part)] for part in ("train", "val", "test"))
    train = train.groupby("label").head(MAX_ROWS_PER_INTENT)
    training = training.model_copy(update={"learning_rate": 2e-4, "head_learning_rate": 5e-3, "rating_weight": 0.0})
    foreign = intents[(intents["split"] == "test") & intents["label"].isin(outside)]["text"].tolist()
    labels = [name for name in names if name not in outside]
    return _judge(train, validation, test, labels, training, {"held-out intents": foreign})


def judge_reviews(data: Path, training: Training) -> list[dict[str, object]]:
    """Train the embedded loop, and tell its test rows from texts that are no reviews."""
    loop = load_loop(LOOP_FILE)
    rows = screen(load_rows(loop, LOOP_FILE.parent, Settings().root), loop.data, loop.labels).rows
    train, validation, test = (rows[rows["split"] == part] for part in ("train", "validation", "test"))
    foreign = {
        "maintenance (reviews)": pd.read_csv(data / "fmc_mwo.csv", dtype="str")["text"].tolist(),
        "intents (reviews)": pd.read_csv(data / "hwu64.csv", dtype="str").query("split == 'test'")["text"].tolist(),
    }
    return _judge(train, validation, test, loop.labels, training, foreign)


def _judge(
    train: pd.DataFrame,
    validation: pd.DataFrame,
    test: pd.DataFrame,
    labels: list[str],
    training: Training,
    foreign: dict[str, list[str]],
) -> list[dict[str, object]]:
    base_model = resolve_base_model(training.base_model)
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune(train.assign(rating=train.get("rating", np.nan)), validation.assign(rating=np.nan), labels,
                          training, base_model, Path(folder), lambda _: None)  # fmt: skip
    texts = {"validation": validation["text"].tolist(), "test": test["text"].tolist(), **foreign}
    logits = {part: checkpoint_logits(tuned.classifier, tuned.tokenizer, of) for part, of in texts.items()}
    temperature = fit_temperature(logits["validation"], validation["label"].map(labels.index).to_numpy())
    accuracy = float((logits["test"].argmax(1) == test["label"].map(labels.index).to_numpy()).mean())
    lines: list[dict[str, object]] = []
    gold = train["label"].map(labels.index).to_numpy()
    scope = fit_scope(sentence_vectors(tuned.classifier, tuned.tokenizer, train["text"].tolist()), gold)
    scores = {name: {part: score(of, temperature) for part, of in logits.items()} for name, score in SCORES.items()}
    scores["closeness"] = {
        part: scope.closeness(sentence_vectors(tuned.classifier, tuned.tokenizer, of)) for part, of in texts.items()
    }
    for outside in foreign:
        for name, found in scores.items():
            known, inner, outer = (found[part] for part in ("validation", "test", outside))
            limit = fit_scope_limit(known, MAX_REFUSED_SHARE)
            assert limit is not None
            at_five = np.quantile(inner, MAX_REFUSED_SHARE)
            lines.append({
                "seed": training.seed, "outside": outside, "score": name, "accuracy": round(accuracy, 4),
                "auroc": round(float(roc_auc_score([1] * len(inner) + [0] * len(outer), [*inner, *outer])), 4),
                "refused_outside_at_5": round(float((outer < at_five).mean()), 4),
                "refused_inside": round(float((inner < limit.min_closeness).mean()), 4),
                "refused_outside": round(float((outer < limit.min_closeness).mean()), 4),
                "n_inside": len(inner), "n_outside": len(outer),
            })  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
