"""What is learnt in the bench: rows in three splits, taken from loops or from files whose splits are published."""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from configs.load import load_loop
from configs.schema import Loop, Training
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.rows import normalise_text, own_group
from tasks.core.screening import screen
from tasks.stores.sources import load_rows
from tests.bench.training.units import Bench


@dataclass(frozen=True)
class Problem:
    """Rows to learn from, to choose by and to judge on; each frame has text, label, rating and group."""

    name: str
    labels: tuple[str, ...]
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def gold(self) -> npt.NDArray[np.int64]:
        """Return the test rows' class numbers."""
        return self.numbers(self.test)

    @property
    def groups(self) -> list[str]:
        """Return the test rows' groups."""
        return [str(group) for group in self.test["group"]]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Return the rows of train, validation and test."""
        return len(self.train), len(self.validation), len(self.test)

    @property
    def fingerprint(self) -> str:
        """Return a hash of all that is learnt, chosen by and judged on."""
        columns = ["text", "label", "rating", "group"]
        frames = [frame[columns].to_json(orient="values") for frame in (self.train, self.validation, self.test)]
        return hashlib.sha256("\n".join([*self.labels, *frames]).encode()).hexdigest()

    def numbers(self, rows: pd.DataFrame) -> npt.NDArray[np.int64]:
        """Return the class numbers of rows."""
        return np.array([self.labels.index(label) for label in rows["label"]], dtype=np.int64)

    def limited(self, num_rows: int | None) -> "Problem":
        """Return the problem with at most so many random rows in each split."""
        if num_rows is None:
            return self
        train, validation, test = (
            frame.sample(min(num_rows, len(frame)), random_state=0)
            for frame in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)


def problem_of_loop(loop: Loop, base_dir: Path, bench: Bench) -> Problem:
    """Return a loop's rows, through the same door as a retrain's."""
    rows = screen(load_rows(loop, base_dir, Settings().root), loop.data, loop.labels).rows
    train, validation, test = (rows[rows["split"] == split] for split in ("train", "validation", "test"))
    return Problem(loop.name, tuple(loop.labels), train, validation, test).limited(bench.limit_rows)


def problem_of_frames(name: str, train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame) -> Problem:
    """Return a problem whose splits are published.

    The test rows stay as they are, so that scores compare with others'; no text of theirs is left in validation, and
    none of either in train.
    """
    frames, seen = [], set[str]()
    for frame in (test, validation, train):
        normalised = frame["text"].map(normalise_text)
        kept = frame[~normalised.isin(seen)]
        seen |= set(normalised)
        frames.append(kept.assign(rating=np.nan, group=[own_group(text) for text in kept["text"]]))
    labels = tuple(sorted(set(pd.concat(frames)["label"])))
    return Problem(name, labels, frames[2], frames[1], frames[0])


def changed_loop(loop_file: Path, folder: Path, **sections: Any) -> Loop:
    """Return a loop with some sections replaced, read back as a user's file would be."""
    document = yaml.safe_load(loop_file.read_text(encoding="utf-8")) | sections
    path = folder / "loop.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return load_loop(path)


def preset_training(bench: Bench, preset: str, seed: int) -> Training:
    """Return a shipped preset as a loop gets it that names its base model and its longest text, and nothing else."""
    return _preset_training(bench.loop_file, bench.base_model, preset).model_copy(update={"seed": seed})


def base_model_folder(bench: Bench) -> str:
    """Return what transformers loads the base model from."""
    return resolve_base_model(preset_training(bench, "balanced", 0).base_model)


@cache
def _preset_training(loop_file: Path, base_model: str | None, preset: str) -> Training:
    own = load_loop(loop_file).training
    section = {"preset": preset, "base_model": base_model or own.base_model, "max_tokens": own.max_tokens}
    with tempfile.TemporaryDirectory() as folder:
        return changed_loop(loop_file, Path(folder), training=section).training
