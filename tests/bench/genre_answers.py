"""What a champion trained on product reviews answers to four genres, kept on disk: other benchmarks read it from there.

    python -m tests.bench.genre_answers --home DIR [--seeds 3] [--threads 1]

Per seed a model of the embedded loop's recipe; reviews by their own splits, 2,500 rows of each other genre, in random
order of whole documents. What is there already is not made again. Takes about four minutes of one core per seed.
"""

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from configs.load import load_loop
from configs.schema import Loop, PackageSource
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.embedding import embed
from tasks.core.export import checkpoint_logits, sentence_vectors
from tasks.core.fine_tuning import fine_tune
from tasks.core.predictor import softmax
from tasks.core.screening import screen
from tasks.core.temperature import fit_temperature
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
REVIEWS = ("train", "validation", "test")
GENRES = {
    "films": "movieReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}
MAX_ROWS = 2500
FIRST_SEED = 13
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GenreAnswers:
    """Rows of a genre with one champion's probabilities and sentence vectors, and the base encoder's vectors."""

    texts: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    gold: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    probabilities: Floats
    sentence_vectors: Floats
    base_vectors: Floats

    @property
    def predicted(self) -> npt.NDArray[np.str_]:
        """Return the answers."""
        answers: npt.NDArray[np.str_] = self.labels[self.probabilities.argmax(1)]
        return answers

    def take(self, rows: npt.NDArray[np.int64]) -> "GenreAnswers":
        """Return some rows."""
        return GenreAnswers(
            self.texts[rows], self.groups[rows], self.gold[rows], self.labels, self.probabilities[rows],
            self.sentence_vectors[rows], self.base_vectors[rows],
        )  # fmt: skip

    def draw(self, num_rows: int, random: np.random.Generator) -> "GenreAnswers":
        """Return a window: rows of random groups, the last one cut."""
        place = random.permutation(len(np.unique(self.groups)))[np.unique(self.groups, return_inverse=True)[1]]
        return self.take(np.argsort(place, kind="stable")[:num_rows])


def read_answers(home: Path, genre: str, seed: int) -> GenreAnswers:
    """Return what was kept."""
    rows = pd.read_parquet(home / f"{genre}.parquet")
    kept = np.load(home / f"{genre}.{seed}.npz")
    texts, groups, gold = (rows[name].to_numpy(dtype=np.str_) for name in ("text", "group", "label"))
    labels = np.asarray(load_loop(LOOP_FILE).labels)
    base = np.load(home / f"{genre}.base.npy").astype(np.float64)
    return GenreAnswers(texts, groups, gold, labels, kept["p"].astype(np.float64), kept["sv"].astype(np.float64), base)


def prepare(home: Path, seeds: Iterable[int]) -> None:
    """Make what is not there yet."""
    home.mkdir(parents=True, exist_ok=True)
    loop = load_loop(LOOP_FILE)
    base_model = resolve_base_model(loop.training.base_model)
    parts = [*REVIEWS, *GENRES]
    if not all((home / f"{part}.base.npy").exists() for part in parts):
        for part, rows in _read_rows(loop).items():
            rows[["text", "group", "label", "rating"]].to_parquet(home / f"{part}.parquet")
            np.save(home / f"{part}.base.npy", embed(rows["text"].tolist(), base_model))
    for seed in seeds:
        if not all((home / f"{part}.{seed}.npz").exists() for part in parts):
            _answer(home, loop, base_model, seed, parts)


def _read_rows(loop: Loop) -> dict[str, pd.DataFrame]:
    source = loop.data.sources[0]
    assert isinstance(source, PackageSource)
    reviews = screen(load_rows(loop, LOOP_FILE.parent, Settings().root), loop.data, loop.labels).rows
    found = {part: reviews[reviews["split"] == part].reset_index(drop=True) for part in REVIEWS}
    folder = source.member.rpartition("/")[0]
    for genre, file in GENRES.items():
        changes: dict[str, object] = {"member": f"{folder}/{file}"}
        if genre != "editorials":  # these texts stand alone
            changes["columns"] = source.columns.model_copy(update={"group": None, "group_pattern": None})
        data = loop.data.model_copy(update={"sources": [source.model_copy(update=changes)]})
        rows = load_rows(loop.model_copy(update={"data": data}), LOOP_FILE.parent, Settings().root)
        rows = rows[(rows["defect"] == "") & rows["label"].isin(loop.labels)]
        order = {name: at for at, name in enumerate(np.random.default_rng(0).permutation(rows["group"].unique()))}
        found[genre] = rows.iloc[np.argsort(rows["group"].map(order), kind="stable")][:MAX_ROWS].reset_index(drop=True)
    return found


def _answer(home: Path, loop: Loop, base_model: str, seed: int, parts: list[str]) -> None:
    rows = {part: pd.read_parquet(home / f"{part}.parquet") for part in parts}
    training = loop.training.model_copy(update={"seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        tuned = fine_tune(rows["train"], rows["validation"], loop.labels, training, base_model, Path(folder),
                          lambda _: None)  # fmt: skip
    logits = {part: checkpoint_logits(tuned.classifier, tuned.tokenizer, rows[part]["text"].tolist()) for part in parts}
    gold = rows["validation"]["label"].map(loop.labels.index).to_numpy()
    temperature = fit_temperature(logits["validation"], gold)
    for part in parts:
        vectors = sentence_vectors(tuned.classifier, tuned.tokenizer, rows[part]["text"].tolist())
        np.savez(home / f"{part}.{seed}.npz", p=softmax((logits[part] / temperature).astype(np.float32)), sv=vectors)


def main() -> None:
    """Make the answers from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prepare(arguments.home, range(FIRST_SEED, FIRST_SEED + arguments.seeds))


if __name__ == "__main__":
    main()
