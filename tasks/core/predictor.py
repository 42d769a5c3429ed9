"""What is served: a folder with tokenizer, ONNX graph and label names, and the code that answers with it.

The folder (a *bundle*) holds `predictor.json`, `tokenizer.json`, `model.onnx` and `cases.json`, and what its engine
needs besides (`core/engines.py`). Evaluation, prediction service, batch scoring and `mlflow models serve` all answer
through this module, so they cannot disagree. It needs numpy, tokenizers and onnxruntime only, unless the engine asks
for more.

Shapes: B texts, T tokens, C classes, D dimensions of the pooled embedding.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from tasks.core.engines import REFERENCE, Engine, EngineUnavailable, open_engine
from tasks.core.errors import DataError
from tasks.core.padding import group_by_length, pad, spread_evenly
from tasks.core.windows import cut, join_closeness, join_probabilities

logger = logging.getLogger(__name__)
UNKNOWN = "unknown"  # the answer to a text outside the loop's scope
Stage = Literal["tokenise", "engine"]
LongTexts = Literal["truncate", "window"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class BundleManifest:
    """What `predictor.json` holds."""

    loop: str
    labels: tuple[str, ...]
    temperature: float
    max_tokens: int
    pad_token_id: int
    min_closeness: float | None = None  # a text less close to the training rows is unknown; None: every text is known
    engine: str = REFERENCE  # what runs the network, see `core/engines.py`
    call_tokens: float | None = None  # what a call of the engine costs, in tokens; None: batches are never split
    long_texts: LongTexts = "truncate"  # beyond max_tokens: the rest is not read, or all of it in windows
    window_overlap: int = 0  # tokens that neighbouring windows have in common
    shares_weights: bool = False  # takes large weights from other models of the process, see `core/shared_weights.py`


@dataclass(frozen=True)
class Case:
    """A text whose probabilities were stored at export: whoever loads the bundle must reproduce them."""

    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """Answers for B texts: calibrated probabilities float32 [B, C], tokens read int64 [B]; truncated, unknown bool [B].

    Also an unknown text has its probabilities: those of the labels, of which none may fit. Truncated: the end of the
    text was not read.
    """

    labels: tuple[str, ...]
    probabilities: Floats
    n_tokens: Ints
    truncated: npt.NDArray[np.bool_]
    unknown: npt.NDArray[np.bool_]

    @property
    def answers(self) -> list[str]:
        """Return the label of each text, or UNKNOWN."""
        best = zip(self.probabilities.argmax(1), self.unknown, strict=True)
        return [UNKNOWN if is_unknown else self.labels[position] for position, is_unknown in best]


class Predictor:
    """Answers texts with a bundle. Thread-safe: tokenizer and engine release the interpreter lock."""

    def __init__(self, manifest: BundleManifest, tokenizer: Tokenizer, engine: Engine, cases: tuple[Case, ...]) -> None:
        self.manifest = manifest
        self.cases = cases
        self.engine = engine
        self._tokenizer = tokenizer
        self._overlap = manifest.window_overlap if manifest.long_texts == "window" else None
        tokenizer.no_padding()
        tokenizer.enable_truncation(manifest.max_tokens, stride=self._overlap or 0)
        self._num_special = tokenizer.num_special_tokens_to_add(False)

    @classmethod
    def load(cls, folder: Path, threads: int = 0, engine: str | None = None) -> "Predictor":
        """Load a bundle; `threads` bounds the engine's threads (0: one per core).

        Where this machine cannot run the bundle's engine, onnx-fp32 answers, with a warning; an `engine` asked for by
        name raises EngineUnavailable instead. Raises DataError when a file is missing or broken.
        """
        try:
            manifest = read_manifest(folder)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            cases = tuple(
                Case(case["text"], tuple(case["probabilities"]))
                for case in json.loads((folder / "cases.json").read_text(encoding="utf-8"))
            )
            opened = _open(folder, manifest, threads, engine)
        except EngineUnavailable:
            raise
        except Exception as error:
            raise DataError(f"{folder}: not a usable bundle: {error}") from error
        return cls(manifest, tokenizer, opened, cases)

    def reading(self, **changes: Any) -> "Predictor":
        """Return a predictor on the same engine whose manifest says otherwise: `long_texts`, `call_tokens`."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        return Predictor(replace(self.manifest, **changes), tokenizer, self.engine, self.cases)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names, in the order of the probabilities' columns."""
        return self.manifest.labels

    @property
    def all_answers(self) -> tuple[str, ...]:
        """Return what may be answered: the labels, and UNKNOWN where the bundle has a limit."""
        return self.labels if self.manifest.min_closeness is None else (*self.labels, UNKNOWN)

    def predict(
        self, texts: Sequence[str], batch_size: int = 32, mark: Callable[[Stage], None] | None = None
    ) -> Prediction:
        """Answer every text, in order, in batches of similar length; `mark` is told when a stage is over.

        Sorting by length inside the call spares most padding (2–2.5 times the speed on mixed lengths), and a batch of
        very different lengths is split where padding would cost more than another call of the engine.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts)) if texts else []
        pieces = cut(encodings, self._overlap, self._num_special)
        if mark is not None:
            mark("tokenise")
        logits_PC, closeness_P = self._run_all(pieces.ids, batch_size)
        probabilities = join_probabilities(softmax(logits_PC / self.manifest.temperature), pieces)
        unknown = np.zeros(len(probabilities), dtype=np.bool_)
        if closeness_P is not None and self.manifest.min_closeness is not None:
            unknown = join_closeness(closeness_P, pieces) < self.manifest.min_closeness
        if mark is not None:
            mark("engine")
        return Prediction(self.labels, probabilities, pieces.n_tokens, pieces.truncated, unknown)

    def measure_closeness(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """Return how close every text is to the training rows, [B]; a bundle without a limit cannot tell."""
        encodings = self._tokenizer.encode_batch_fast(list(texts)) if texts else []
        pieces = cut(encodings, self._overlap, self._num_special)
        closeness_P = self._run_all(pieces.ids, batch_size)[1]
        assert closeness_P is not None
        return join_closeness(closeness_P, pieces)

    def largest_case_difference(self) -> float:
        """Return the largest difference between a stored case's probabilities and today's answer, 0–1."""
        if not self.cases:
            return 0.0
        stored = np.array([case.probabilities for case in self.cases], dtype=np.float32)
        answered = self.predict([case.text for case in self.cases]).probabilities
        return float(np.abs(stored - answered).max())

    def _run_all(self, ids: list[list[int]], batch_size: int) -> tuple[Floats, Floats | None]:
        """Return logits [P, C] and, from a bundle with a limit, closeness [P], in the order of the pieces."""
        outputs = ["logits"] if self.manifest.min_closeness is None else ["logits", "closeness"]
        logits_PC = np.empty((len(ids), len(self.labels)), dtype=np.float32)
        closeness_P = np.empty(len(ids), dtype=np.float32) if len(outputs) == 2 else None
        step, pad_token_id = self.engine.token_step, self.manifest.pad_token_id
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        lengths = [-(-len(ids[row]) // step) * step for row in order]
        call_tokens, limit = self.manifest.call_tokens, batch_size
        if call_tokens is not None:
            limit = min(batch_size, spread_evenly(len(ids), self.engine.streams))
        # The longest first, so that no stream has one left when the others are done.
        groups = [order[start:end] for start, end in group_by_length(lengths, limit, call_tokens)][::-1]
        batches = (pad([ids[row] for row in rows], pad_token_id, step) for rows in groups)
        for rows, found in zip(groups, self.engine.run(batches, outputs), strict=True):
            logits_PC[rows], *closeness = found
            if closeness_P is not None:
                closeness_P[rows] = closeness[0]
        return logits_PC, closeness_P


def softmax(logits: Floats) -> Floats:
    """Return probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def read_manifest(folder: Path) -> BundleManifest:
    """Return what `predictor.json` says."""
    fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    return BundleManifest(**{**fields, "labels": tuple(fields["labels"])})


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write `predictor.json`, as a whole or not at all."""
    write_whole(folder / "predictor.json", json.dumps(asdict(manifest), ensure_ascii=False, indent=2))


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Write `cases.json`, as a whole or not at all."""
    write_whole(folder / "cases.json", json.dumps([asdict(case) for case in cases], ensure_ascii=False, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may be reading: they see the old text or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _open(folder: Path, manifest: BundleManifest, threads: int, engine: str | None) -> Engine:
    name = engine or manifest.engine
    try:
        return open_engine(name, folder, threads, manifest.shares_weights)
    except EngineUnavailable as error:
        if engine is not None:
            raise
        logger.warning("%s: its engine %s cannot run here: %s. %s answers, slower", folder, name, error, REFERENCE)
        return open_engine(REFERENCE, folder, threads, manifest.shares_weights)
