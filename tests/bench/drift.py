"""False alarms and power of the drift tests on real text, at the embedded loop's alpha.

    python -m tests.bench.drift [--windows 100] [--threads 2]

False alarms: product reviews against product reviews, split by review, so that every alarm is false. Power: windows of
tweets, films and editorials, and of reviews with 30 % tweets. A linear probe on the embeddings stands in for the
champion. Windows are drawn again and again from 210 reviews, so they overlap and intervals are somewhat too
narrow. Prints a table and, last, one JSON line.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression

from configs.load import load_loop
from configs.schema import Loop, PackageSource
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.drift import Sample, can_fire, compare
from tasks.core.embedding import embed
from tasks.core.redaction import redact
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
GENRES = {
    "reviews": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
SIZES = (50, 100, 200)
PROBE_GROUPS, REFERENCE_GROUPS = 90, 60
MAX_OTHER_ROWS = 500  # rows of each other genre: embedding is what costs
Random = np.random.Generator
Pair = tuple[Sample, Sample]


@dataclass(frozen=True)
class Rate:
    """How many of the windows fired."""

    fired: int
    windows: int

    def as_list(self) -> list[float]:
        """Return rate, low and high of the 95 % Clopper–Pearson interval, and the number of windows."""
        missed = self.windows - self.fired
        low = float(beta.ppf(0.025, self.fired, missed + 1)) if self.fired else 0.0
        high = float(beta.ppf(0.975, self.fired + 1, missed)) if missed else 1.0
        return [self.fired / self.windows, low, high, self.windows]


class Corpora:
    """Embedded genres, and windows drawn from them."""

    def __init__(self, loop: Loop) -> None:
        self.samples = {genre: load_sample(loop, genre, file) for genre, file in GENRES.items()}
        reviews, gold = self.samples["reviews"]
        groups = np.random.default_rng(0).permutation(np.unique(reviews.groups))
        probed = np.isin(reviews.groups, groups[:PROBE_GROUPS])
        probe = LogisticRegression(C=5, max_iter=500).fit(reviews.embeddings[probed], gold[probed])
        self.rows = {genre: self._answer(probe, sample) for genre, (sample, _) in self.samples.items()}
        self.groups = groups[PROBE_GROUPS:]

    def draw_reviews(self, random: Random) -> tuple[Sample, npt.NDArray[np.str_]]:
        """Return a reference, and the reviews that are left for the window."""
        groups = random.permutation(self.groups)
        return self.take("reviews", groups[:REFERENCE_GROUPS]), groups[REFERENCE_GROUPS:]

    def take(self, genre: str, groups: Iterable[str], num_rows: int | None = None) -> Sample:
        """Return the rows of these groups, in their order; the last group is cut at num_rows."""
        sample = self.rows[genre]
        taken: list[int] = []
        for group in groups:
            taken += np.flatnonzero(np.asarray(sample.groups) == group).tolist()
            if num_rows is not None and len(taken) >= num_rows:
                break
        return select(sample, taken[:num_rows])

    def take_genre(self, genre: str, num_rows: int, random: Random) -> Sample:
        """Return a window of random groups of one genre."""
        return self.take(genre, random.permutation(np.unique(self.rows[genre].groups)), num_rows)

    @staticmethod
    def _answer(probe: LogisticRegression, sample: Sample) -> Sample:
        return Sample(probe.predict_proba(sample.embeddings), sample.embeddings, sample.groups)


def load_sample(loop: Loop, genre: str, file: str) -> tuple[Sample, npt.NDArray[np.str_]]:
    """Return a genre's embeddings and groups, without probabilities yet, and its labels."""
    source = loop.data.sources[0]
    assert isinstance(source, PackageSource)
    folder = source.member.rpartition("/")[0]
    other = source.model_copy(update={"member": f"{folder}/{file}"})
    changed = loop.model_copy(update={"data": loop.data.model_copy(update={"sources": [other]})})
    rows = load_rows(changed, LOOP_FILE.parent, Settings().root)
    rows = rows[(rows["defect"] == "") & rows["label"].isin(loop.labels)]
    if genre != "reviews":
        chosen = np.random.default_rng(0).permutation(rows["group"].unique())
        rows = rows.iloc[np.argsort(rows["group"].map({g: i for i, g in enumerate(chosen)}), kind="stable")]
        rows = rows.iloc[:MAX_OTHER_ROWS]
    vectors = embed([redact(text) for text in rows["text"]], resolve_base_model(loop.training.base_model))
    sample = Sample(np.empty((len(rows), 0)), vectors, rows["group"].tolist())
    return sample, rows["label"].to_numpy(dtype=np.str_)


def select(sample: Sample, rows: list[int]) -> Sample:
    """Return some rows of a sample."""
    return Sample(sample.probabilities[rows], sample.embeddings[rows], [sample.groups[row] for row in rows])


def join(first: Sample, second: Sample) -> Sample:
    """Return the rows of both."""
    return Sample(
        np.concatenate([first.probabilities, second.probabilities]),
        np.concatenate([first.embeddings, second.embeddings]),
        [*first.groups, *second.groups],
    )


def ungroup(sample: Sample) -> Sample:
    """Return the rows, each a group of its own."""
    return Sample(sample.probabilities, sample.embeddings, [f"row-{row}" for row in range(len(sample.groups))])


def draw_null(corpora: Corpora, n: int, random: Random) -> Pair:
    """Return reviews against other reviews."""
    reference, left = corpora.draw_reviews(random)
    return reference, corpora.take("reviews", left, n)


def draw_singles(corpora: Corpora, n: int, random: Random) -> Pair:
    """Return reviews against single sentences of other reviews: live texts that form no groups."""
    reference, left = corpora.draw_reviews(random)
    ones = [random.choice(np.flatnonzero(np.asarray(corpora.rows["reviews"].groups) == group)) for group in left[:n]]
    return reference, ungroup(select(corpora.rows["reviews"], ones))


def draw_ungrouped(corpora: Corpora, n: int, random: Random) -> Pair:
    """Return what a test that permutes rows would be given."""
    reference, current = draw_null(corpora, n, random)
    return ungroup(reference), ungroup(current)


def draw_genre(genre: str) -> Callable[[Corpora, int, Random], Pair]:
    """Return how to draw reviews against another genre."""
    return lambda corpora, n, random: (corpora.draw_reviews(random)[0], corpora.take_genre(genre, n, random))


def draw_mixture(corpora: Corpora, n: int, random: Random) -> Pair:
    """Return reviews against reviews with 30 % tweets."""
    reference, left = corpora.draw_reviews(random)
    num_tweets = round(0.3 * n)
    reviews = corpora.take("reviews", left, n - num_tweets)
    return reference, join(reviews, corpora.take_genre("tweets", num_tweets, random))


def measure(
    corpora: Corpora, draw: Callable[[Corpora, int, Random], Pair], n: int, windows: int, loop: Loop, seed: int
) -> Rate:
    """Return how many windows fired."""
    rules, fired = loop.monitoring, 0
    for window in range(windows):
        reference, current = draw(corpora, n, np.random.default_rng([seed, n, window]))
        enough = can_fire(
            num_reference_groups=len(set(reference.groups)),
            num_current_groups=len(set(current.groups)),
            alpha=rules.alpha,
        )
        fired += enough and any(
            test.fires
            for test in compare(
                reference=reference, current=current, alpha=rules.alpha, permutations=rules.permutations, seed=window
            )
        )
    return Rate(fired, windows)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100, help="windows per false-alarm rate; power takes a quarter")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    loop, started = load_loop(LOOP_FILE), time.perf_counter()
    corpora = Corpora(loop)
    seconds = {"embedding": round(time.perf_counter() - started, 1)}
    nulls = {
        "false_alarm": draw_null,
        "false_alarm_single_texts": draw_singles,
        "rows_permuted_instead": draw_ungrouped,
    }
    shifts = {**{genre: draw_genre(genre) for genre in GENRES if genre != "reviews"}, "30 % tweets": draw_mixture}
    tables: dict[str, dict[str, list[float]]] = {}
    num_checks = 0
    for seed, (name, draw) in enumerate({**nulls, **shifts}.items()):
        windows = arguments.windows if name.startswith("false") else max(1, arguments.windows // 4)
        sizes = [n for n in SIZES if name != "false_alarm_single_texts" or n <= 100]  # 150 reviews give no 200 singles
        tables[name] = {str(n): measure(corpora, draw, n, windows, loop, seed).as_list() for n in sizes}
        num_checks += windows * len(sizes)
        print_rates(name, tables[name])
    seconds["total"] = round(time.perf_counter() - started, 1)
    seconds["per_check"] = round((seconds["total"] - seconds["embedding"]) / num_checks, 3)
    power = {name: tables.pop(name) for name in shifts}
    print(json.dumps({"alpha": loop.monitoring.alpha, **tables, "power": power, "seconds": seconds}))


def print_rates(name: str, rates: dict[str, list[float]]) -> None:
    """Print one line of the table."""
    cells = [f"n={n:>3}: {rate:6.1%} [{low:5.1%}, {high:6.1%}]" for n, (rate, low, high, _) in rates.items()]
    print(f"{name:26}", *cells, f"({int(next(iter(rates.values()))[3])} windows)", flush=True)


if __name__ == "__main__":
    main()
