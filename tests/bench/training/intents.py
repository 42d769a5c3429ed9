"""Part `intents`: public problems of many classes or few rows, beside published values and TF-IDF on the same rows.

The preset is chosen by mean validation macro-F1 over the seeds; test rows choose nothing. Published, for comparison:
HWU64 10-shot test accuracy (jianguoz/Few-Shot-Intent-Detection): RoBERTa 0.829, USE+ConveRT 0.858, CPFT 0.871. FMC-MWO
F1 (Stewart et al., arXiv:2309.08181): Flair 0.60, GPT-3.5 0.46 zero-shot and 0.80 fine-tuned. SMS spam (Almeida et al.,
DocEng 2011) is usually scored with its duplicates on both sides of the split; here they are dropped first.
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tasks.core.metrics import accuracy, class_f1, macro_f1
from tests.bench.training.evertune import run_evertune
from tests.bench.training.problems import (
    Problem,
    changed_loop,
    preset_training,
    problem_of_frames,
    problem_of_loop,
)
from tests.bench.training.statistics import count_answers, estimate, weighted_f1
from tests.bench.training.units import Bench, Record

CANDIDATES = {  # what a user would try for rows of this kind
    "hwu64_full": ("balanced", "wide"),
    "hwu64_10shot": ("balanced", "small"),
    "sms_spam": ("balanced",),
    "fmc_mwo": ("balanced", "small"),
}
PUBLISHED = {
    "hwu64_full": "",
    "hwu64_10shot": "accuracy RoBERTa 0.829, USE+ConveRT 0.858, CPFT 0.871",
    "sms_spam": "",
    "fmc_mwo": "F1 Flair 0.60, GPT-3.5 zero-shot 0.46, fine-tuned 0.80",
}
SPLITS_KEY = "bench-sms-spam-2026"


def train_intents(bench: Bench, seed: int) -> dict[str, dict[str, Record]]:
    """Return one seed's runs, by problem and preset; nothing without the files."""
    return {
        name: {preset: _train(bench, problem, preset, seed) for preset in CANDIDATES[name]}
        for name, problem in _problems(bench).items()
    }


def measure_intents(bench: Bench) -> dict[str, Any] | None:
    """Return test scores per problem; None without the files."""
    if bench.data is None:
        return None
    by_seed = [train_intents(bench, seed) for seed in bench.seeds]
    return {
        name: _measure(problem, {preset: [records[name][preset] for records in by_seed] for preset in CANDIDATES[name]})
        for name, problem in _problems(bench).items()
    }


def print_intents(found: dict[str, Any]) -> None:
    """Print a few lines per problem."""
    print("intents: frozen or published test rows; the preset is chosen on validation rows")
    for name, row in found.items():
        train, validation, test = row["sizes"]
        print(f"{name}: {row['classes']} classes, {train} / {validation} / {test} rows, {row['seconds']:.1f} s a model")
        print(f"  Evertune ({row['preset']}): accuracy {row['accuracy']}  macro-F1 {row['macro_f1']}  "
              f"weighted F1 {row['weighted_f1']}")  # fmt: skip
        if "spam_f1" in row:
            print(f"  F1 of spam {row['spam_f1']}")
        print(f"  TF-IDF, logistic regression: accuracy {row['tf_idf']}")
        if row["untested"]:
            print(f"  {row['untested']} classes have no test row; macro-F1 counts them where they are answered")
        if PUBLISHED[name]:
            print(f"  published: {PUBLISHED[name]}")


def hwu64_full(bench: Bench) -> Problem:
    """Return the 64 intents with all train rows and the published splits."""
    return problem_of_frames("hwu64-full", *_published_splits(bench, "hwu64.csv"))


def hwu64_10shot(bench: Bench) -> Problem:
    """Return the 64 intents with ten train rows each; validation and test as published."""
    _, validation, test = _published_splits(bench, "hwu64.csv")
    return problem_of_frames("hwu64-10shot", _read(bench, "hwu64_10shot_train.csv"), validation, test)


def fmc_mwo(bench: Bench) -> Problem:
    """Return the failure modes of maintenance observations, splits as published."""
    return problem_of_frames("fmc-mwo", *_published_splits(bench, "fmc_mwo.csv"))


def sms_spam(bench: Bench) -> Problem:
    """Return spam and ham through a loop of ours: duplicates and contradictions dropped, splits by the keyed hash."""
    assert bench.data is not None
    source = {"name": "sms", "kind": "csv", "path": str((bench.data / "sms_spam.csv").resolve())}
    data = {"sources": [source], "splits": {"key": SPLITS_KEY, "validation": 0.1, "test": 0.2}}
    with tempfile.TemporaryDirectory() as folder:
        loop = changed_loop(bench.loop_file, Path(folder), name="sms-spam", labels=["ham", "spam"], data=data)
        return problem_of_loop(loop, Path(folder), bench)


PROBLEMS: dict[str, Callable[[Bench], Problem]] = {
    "hwu64_full": hwu64_full,
    "hwu64_10shot": hwu64_10shot,
    "sms_spam": sms_spam,
    "fmc_mwo": fmc_mwo,
}


def tf_idf_answers(problem: Problem) -> list[int]:
    """Return the class numbers that TF-IDF of words and word pairs with logistic regression gives the test rows."""
    pipeline = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    pipeline.fit(problem.train["text"], problem.numbers(problem.train))
    answers: list[int] = pipeline.predict(problem.test["text"]).tolist()
    return answers


@cache
def _problems(bench: Bench) -> dict[str, Problem]:
    if bench.data is None:
        return {}
    return {name: load(bench).limited(bench.limit_rows) for name, load in PROBLEMS.items()}


def _measure(problem: Problem, runs: dict[str, list[Record]]) -> dict[str, Any]:
    chosen = max(runs, key=lambda preset: float(np.mean([run["validation_macro_f1"] for run in runs[preset]])))
    n, num_classes = len(problem.test), len(problem.labels)
    counts = count_answers(problem.gold, [run["answers"] for run in runs[chosen]], problem.groups, num_classes)
    floor = count_answers(problem.gold, [tf_idf_answers(problem)], problem.groups, num_classes)
    found = {
        "sizes": problem.sizes,
        "classes": num_classes,
        "untested": num_classes - problem.test["label"].nunique(),
        "preset": chosen,
        "seconds": float(np.median([run["seconds"] for run in runs[chosen]])),
        "accuracy": estimate(counts, accuracy, n),
        "macro_f1": estimate(counts, macro_f1, n),
        "weighted_f1": estimate(counts, weighted_f1, n),
        "tf_idf": estimate(floor, accuracy, n),
    }
    if problem.labels == ("ham", "spam"):
        found["spam_f1"] = estimate(counts, lambda confusions: class_f1(confusions)[..., 1], n)
    return found


def _train(bench: Bench, problem: Problem, preset: str, seed: int) -> Record:
    training = preset_training(bench, preset, seed)
    settings = bench.settings(rows=problem.fingerprint, **training.model_dump(exclude={"base_model"}))
    name = f"intents/{problem.name}/{preset}/seed {seed}"
    return bench.ledger.unit(name, settings, lambda: run_evertune(problem, training))


def _published_splits(bench: Bench, file: str) -> list[pd.DataFrame]:
    rows = _read(bench, file)
    return [rows[rows["split"] == split] for split in ("train", "validation", "test")]


def _read(bench: Bench, file: str) -> pd.DataFrame:
    assert bench.data is not None
    return pd.read_csv(bench.data / file, dtype=str, keep_default_na=False)
