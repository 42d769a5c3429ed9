"""Four genres of rated texts as a champion sees them: probabilities, sentence vectors and descriptors of every row.

Product reviews are cut by review: some train the champion, the others it never saw. What costs (training, embedding) is
kept in a folder and computed once for the same texts and recipe.
"""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.load import load_loop
from configs.schema import Loop, PackageSource
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.classifier import load_tokenizer
from tasks.core.descriptors import describe
from tasks.core.embedding import embed
from tasks.core.evidence import as_logged
from tasks.core.export import checkpoint_logits, sentence_vectors
from tasks.core.fine_tuning import fine_tune
from tasks.core.predictor import softmax
from tasks.core.redaction import redact
from tasks.core.temperature import fit_temperature
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
GENRES = {
    "reviews": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
DOCUMENTS = ("reviews", "editorials")  # elsewhere each text stands alone
TRAINED_GROUPS = 90  # reviews that the champion learns from; a sixth of them chooses its best evaluation
MAX_OTHER_ROWS = 1500  # of each other genre: embedding is what costs
TYPO_SHARE = 0.1  # of the words
LINES = {"dvd player": 98, "camera": 175, "phone": 215, "music player": 309}  # the last review of each product line
Strings = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Corpus:
    """Rows of one genre: what the drift tests compare, and what the window needs to be drawn."""

    rows: pd.DataFrame  # text, group, label, line, n_words, p_<label>, and the columns of `describe`
    embeddings: npt.NDArray[np.float32]
    representations: npt.NDArray[np.float32]

    def take(self, places: npt.NDArray[np.int64]) -> "Corpus":
        """Return some rows, in this order."""
        rows = self.rows.iloc[places].reset_index(drop=True)
        return Corpus(rows, self.embeddings[places], self.representations[places])

    @property
    def groups(self) -> list[str]:
        """Return the group of each row."""
        return [str(group) for group in self.rows["group"]]


def join(*parts: Corpus) -> Corpus:
    """Return the rows of all, in order."""
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    vectors = [np.concatenate([getattr(part, name) for part in parts]) for name in ("embeddings", "representations")]
    return Corpus(rows, *vectors)


def load_corpora(home: Path | None) -> dict[str, Corpus]:
    """Return the genres, the reviews without those that trained the champion, and `typos`: these, badly typed."""
    loop = load_loop(LOOP_FILE)
    texts = {genre: _read(loop, genre, file) for genre, file in GENRES.items()}
    reviews = texts["reviews"]
    order = np.random.default_rng(0).permutation(reviews["group"].unique())
    trained = reviews[reviews["group"].isin(order[:TRAINED_GROUPS])]
    texts["reviews"] = reviews[reviews["group"].isin(order[TRAINED_GROUPS:])].reset_index(drop=True)
    texts["typos"] = texts["reviews"].assign(text=_mistype(texts["reviews"]["text"]))
    told = [loop.training.model_dump_json(), *(frame.to_json() for frame in [trained, *texts.values()])]
    name = f"drift-{hashlib.sha256(''.join(told).encode()).hexdigest()[:12]}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = (home or Path(scratch)) / name
        if not (folder / "done").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _answer(loop, trained, order[: TRAINED_GROUPS // 6], texts, folder)
            (folder / "done").touch()
        return {genre: _load(folder, genre) for genre in texts}


def _read(loop: Loop, genre: str, file: str) -> pd.DataFrame:
    source = loop.data.sources[0]
    assert isinstance(source, PackageSource)
    update: dict[str, object] = {"member": f"{source.member.rpartition('/')[0]}/{file}"}
    if genre not in DOCUMENTS:
        update["columns"] = source.columns.model_copy(update={"group": None, "group_pattern": None})
    data = loop.data.model_copy(update={"sources": [source.model_copy(update=update)]})
    rows = load_rows(loop.model_copy(update={"data": data}), LOOP_FILE.parent, Settings().root)
    rows = rows[(rows["defect"] == "") & rows["label"].isin(loop.labels)]
    if genre != "reviews":
        order = np.random.default_rng(0).permutation(rows["group"].unique())
        places = rows["group"].map({group: place for place, group in enumerate(order)})
        rows = rows.iloc[np.argsort(places, kind="stable")].iloc[:MAX_OTHER_ROWS]
    return pd.DataFrame(
        {
            "text": [redact(text) for text in rows["text"]],
            "label": rows["label"].tolist(),
            "group": [f"{genre}:{group}" for group in rows["group"]],
            "line": _lines(rows["group"]) if genre == "reviews" else "",
        }
    )


def _lines(groups: pd.Series) -> Strings:
    numbers = groups.astype(str).str.extract(r"(\d+)$")[0].astype(int).to_numpy()
    named: Strings = np.array(list(LINES))[np.searchsorted(list(LINES.values()), numbers)]
    return named


def _mistype(texts: pd.Series) -> list[str]:
    """Return the texts with two neighbouring letters changed over, or one left out, in some of their words."""
    random = np.random.default_rng(0)
    return [" ".join(_mistype_word(word, random) for word in text.split(" ")) for text in texts]


def _mistype_word(word: str, random: np.random.Generator) -> str:
    if len(word) < 3 or random.random() >= TYPO_SHARE:
        return word
    place = int(random.integers(0, len(word) - 1))
    swapped = word[place + 1] + word[place] if random.random() < 0.5 else word[place + 1]
    return word[:place] + swapped + word[place + 2 :]


def _answer(
    loop: Loop, trained: pd.DataFrame, validation: Strings, texts: dict[str, pd.DataFrame], folder: Path
) -> None:
    base_model = resolve_base_model(loop.training.base_model)
    is_validation = trained["group"].isin(validation)
    parts = [part.reset_index(drop=True) for part in (trained[~is_validation], trained[is_validation])]
    training = loop.training.model_copy(update={"rating_weight": 0.0})  # the mean rating is left out here
    with tempfile.TemporaryDirectory() as scratch:
        tuned = fine_tune(parts[0], parts[1], loop.labels, training, base_model, Path(scratch), lambda _: None)
    gold = parts[1]["label"].map(loop.labels.index).to_numpy()
    temperature = fit_temperature(checkpoint_logits(tuned.classifier, tuned.tokenizer, parts[1]["text"].tolist()), gold)
    for genre, rows in texts.items():
        asked = rows["text"].tolist()
        logits = checkpoint_logits(tuned.classifier, tuned.tokenizer, asked)
        probabilities = as_logged(softmax((logits / temperature).astype(np.float32)))
        scores = pd.DataFrame(probabilities, columns=[f"p_{label}" for label in loop.labels])
        rows = rows.assign(n_words=rows["text"].str.split().str.len())
        rows = pd.concat([rows, scores, describe(asked, load_tokenizer(base_model))], axis=1)
        rows.to_parquet(folder / f"{genre}.parquet")
        vectors = sentence_vectors(tuned.classifier, tuned.tokenizer, asked)
        np.savez(folder / f"{genre}.npz", embeddings=embed(asked, base_model), representations=vectors)
        accuracy = (probabilities.argmax(1) == rows["label"].map(loop.labels.index)).mean()
        print(f"{genre}: {len(rows)} rows, accuracy {accuracy:.3f}", flush=True)


def _load(folder: Path, genre: str) -> Corpus:
    with np.load(folder / f"{genre}.npz") as kept:
        return Corpus(pd.read_parquet(folder / f"{genre}.parquet"), kept["embeddings"], kept["representations"])
