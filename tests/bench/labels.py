"""How many labels bring lost accuracy back: the labelling queue's order against random order.

    python -m tests.bench.labels --home DIR [--repeats 4] [--genres tweets,films] [--threads 1]

A champion trained on reviews meets another genre. 1,400 of its texts wait for labels, 1,000 others measure. After each
batch a head is fitted anew on reviews and labelled texts, over frozen vectors of the base encoder and the champion: it
stands in for a retrain of the whole model, which would take hours here. *recovered*: labels needed for 90 % of what all
1,400 labels bring, read off the mean curve by straight lines; null where none of the steps reaches it. Prints a table
and, last, one JSON line.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

from tasks.core.usefulness import order_by_use
from tests.bench.genre_answers import FIRST_SEED, GenreAnswers, prepare, read_answers

STEPS = (25, 50, 100, 150, 200, 300, 400, 600, 800)
WAITING, JUDGING = 1400, 1000
SHARE = 0.9
ORDERS = ("random", "least sure", "ours")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def read_vectors(answers: GenreAnswers) -> Floats:
    """Return what the head sees: base vectors beside the champion's, each of length 1."""
    lengths = np.linalg.norm(answers.sentence_vectors, axis=1, keepdims=True)
    return np.concatenate([answers.base_vectors, answers.sentence_vectors / lengths], axis=1)


class Trial:
    """One genre, split into texts that wait and texts that judge."""

    def __init__(self, reviews: GenreAnswers, genre: GenreAnswers, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        order = self.random.permutation(len(genre.gold))
        self._reviews, self._known = read_vectors(reviews), reviews.gold
        self.waiting = genre.take(order[JUDGING : JUDGING + WAITING])
        self._waiting = read_vectors(self.waiting)
        judging = genre.take(order[:JUDGING])
        self._judging, self._gold = read_vectors(judging), judging.gold

    def fit(self, labelled: list[int]) -> LogisticRegression:
        """Return a head that learned reviews and these texts."""
        vectors = np.concatenate([self._reviews, self._waiting[labelled]])
        return LogisticRegression(C=3, max_iter=200).fit(vectors, np.r_[self._known, self.waiting.gold[labelled]])

    def score(self, head: LogisticRegression) -> float:
        """Return its accuracy on the texts that judge."""
        return float((head.predict(self._judging) == self._gold).mean())

    def choose(self, order: str, head: LogisticRegression, labelled: list[int], num_texts: int) -> list[int]:
        """Return the texts to label next."""
        left = np.setdiff1d(np.arange(WAITING), labelled)
        ordered = np.sort(head.predict_proba(self._waiting[left]), axis=1)
        unsure = 1 - (ordered[:, -1] - ordered[:, -2])
        if order == "random":
            places = self.random.permutation(len(left))
        elif order == "least sure":
            places = np.argsort(-unsure, kind="stable")
        else:
            texts, known = ([str(self.waiting.texts[row]) for row in rows] for rows in (left, labelled))
            places = np.asarray(order_by_use(texts, unsure.tolist(), known))
        return [int(row) for row in left[places[:num_texts]]]

    def run(self, order: str) -> list[float]:
        """Return the accuracy after no label and after each step."""
        labelled: list[int] = []
        head = self.fit(labelled)
        scores = [self.score(head)]
        for step in STEPS:
            labelled += self.choose(order, head, labelled, step - len(labelled))
            head = self.fit(labelled)
            scores.append(self.score(head))
        return scores


def find_needed(scores: Floats, target: float) -> float | None:
    """Return how many labels reach a target, by straight lines between steps."""
    steps = [0, *STEPS]
    for place in range(1, len(steps)):
        if scores[place] >= target:
            rise = scores[place] - scores[place - 1]
            part = (target - scores[place - 1]) / rise if rise > 0 else 1.0
            return round(steps[place - 1] + part * (steps[place] - steps[place - 1]))
    return None


def measure(home: Path, genre: str, repeats: int) -> dict[str, object]:
    """Return what each order needs in one genre."""
    reviews, rows = read_answers(home, "train", FIRST_SEED), read_answers(home, genre, FIRST_SEED)
    curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    full: list[float] = []
    for repeat in range(repeats):
        for order in ORDERS:
            curves[order].append(Trial(reviews, rows, repeat).run(order))
        trial = Trial(reviews, rows, repeat)
        full.append(trial.score(trial.fit(list(range(WAITING)))))
    means = {order: np.mean(curve, axis=0) for order, curve in curves.items()}
    before, after = float(means["random"][0]), float(np.mean(full))
    target = before + SHARE * (after - before)
    print(f"{genre}: {before:.3f} without labels, {after:.3f} with all {WAITING}; {SHARE:.0%} of that is {target:.3f}")
    for order, mean in means.items():
        print(f"  {order:11}", " ".join(f"{step}: {score:.3f}" for step, score in zip((0, *STEPS), mean, strict=True)))
    needed = {order: find_needed(mean, target) for order, mean in means.items()}
    return {"before": round(before, 4), "after": round(after, 4), "recovered": needed}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="keeps the champions' answers between runs")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--genres", default="tweets,films", help="comma-separated")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.process_time()
    prepare(arguments.home, [FIRST_SEED])
    found = {genre: measure(arguments.home, genre, arguments.repeats) for genre in arguments.genres.split(",")}
    print(json.dumps({"labels": found, "share": SHARE, "repeats": arguments.repeats,
                      "cpu_seconds": round(time.process_time() - started, 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
