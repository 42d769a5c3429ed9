"""What is served: a folder with tokenizer, ONNX graph and label names, and the code that answers with it.

The folder (a *bundle*) holds `predictor.json`, `tokenizer.json`, `model.onnx` and `cases.json`. Evaluation, the
prediction service, batch scoring and `mlflow models serve` all answer through this module, so they cannot disagree.
It needs numpy, tokenizers and onnxruntime only.

Shapes: B texts, T tokens, C classes, D dimensions of the pooled embedding.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from tasks.core.errors import DataError

UNKNOWN = "unknown"  # the answer to a text outside the loop's scope
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


@dataclass(frozen=True)
class Case:
    """A text whose probabilities were stored at export: whoever loads the bundle must reproduce them."""

    text: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """Answers for B texts: calibrated probabilities float32 [B, C], tokens read int64 [B]; truncated, unknown bool [B].

    Also an unknown text has its probabilities: those of the labels, of which none may fit.
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

    def __init__(self, manifest: BundleManifest, tokenizer: Tokenizer, session: Any, cases: tuple[Case, ...]) -> None:
        self.manifest = manifest
        self.cases = cases
        self._tokenizer = tokenizer
        self._session = session

    @classmethod
    def load(cls, folder: Path, threads: int = 0) -> "Predictor":
        """Load a bundle; `threads` bounds the engine's threads (0: one per core).

        Raises DataError when a file is missing or broken.
        """
        try:
            manifest = read_manifest(folder)
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            cases = tuple(
                Case(case["text"], tuple(case["probabilities"]))
                for case in json.loads((folder / "cases.json").read_text(encoding="utf-8"))
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are not ours alone
            session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=_providers())
        except Exception as error:
            raise DataError(f"{folder}: not a usable bundle: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(manifest.max_tokens)
        return cls(manifest, tokenizer, session, cases)

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the label names, in the order of the probabilities' columns."""
        return self.manifest.labels

    @property
    def all_answers(self) -> tuple[str, ...]:
        """Return what may be answered: the labels, and UNKNOWN where the bundle has a limit."""
        return self.labels if self.manifest.min_closeness is None else (*self.labels, UNKNOWN)

    def predict(self, texts: Sequence[str], batch_size: int = 32) -> Prediction:
        """Answer every text, in order, in batches of similar length.

        Sorting by length inside the call spares most padding (2–2.5 times the speed on mixed lengths).
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts)) if texts else []
        n_tokens = np.array([len(encoding.ids) for encoding in encodings], dtype=np.int64)
        truncated = np.array([bool(encoding.overflowing) for encoding in encodings], dtype=np.bool_)
        probabilities = np.empty((len(encodings), len(self.labels)), dtype=np.float32)
        unknown = np.zeros(len(encodings), dtype=np.bool_)
        by_length = np.argsort(n_tokens, kind="stable")
        for start in range(0, len(by_length), batch_size):
            rows = by_length[start : start + batch_size]
            logits_BC, closeness_B = self._run([encodings[row].ids for row in rows])
            probabilities[rows] = softmax(logits_BC / self.manifest.temperature)
            if closeness_B is not None and self.manifest.min_closeness is not None:
                unknown[rows] = closeness_B < self.manifest.min_closeness
        return Prediction(self.labels, probabilities, n_tokens, truncated, unknown)

    def measure_closeness(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """Return how close every text is to the training rows, [B]; a bundle without a limit cannot tell."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))] if texts else []
        closeness = np.zeros(len(ids), dtype=np.float32)
        for start in range(0, len(ids), batch_size):
            closeness[start : start + batch_size] = self._run(ids[start : start + batch_size])[1]
        return closeness

    def largest_case_difference(self) -> float:
        """Return the largest difference between a stored case's probabilities and today's answer, 0–1."""
        if not self.cases:
            return 0.0
        stored = np.array([case.probabilities for case in self.cases], dtype=np.float32)
        answered = self.predict([case.text for case in self.cases]).probabilities
        return float(np.abs(stored - answered).max())

    def _run(self, ids: list[list[int]]) -> tuple[Floats, Floats | None]:
        input_ids_BT, attention_mask_BT = pad(ids, self.manifest.pad_token_id)
        wanted = ["logits"] if self.manifest.min_closeness is None else ["logits", "closeness"]
        outputs = self._session.run(wanted, {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT})
        logits, *closeness = (np.asarray(output, dtype=np.float32) for output in outputs)
        return logits, closeness[0] if closeness else None


def pad(ids: list[list[int]], pad_token_id: int) -> tuple[Ints, Ints]:
    """Pad token ids to the longest of the batch: input_ids and attention_mask, both int64 [B, T]."""
    longest = max(len(row) for row in ids)
    input_ids = np.full((len(ids), longest), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(ids), longest), dtype=np.int64)
    for position, row in enumerate(ids):
        input_ids[position, : len(row)] = row
        attention_mask[position, : len(row)] = 1
    return input_ids, attention_mask


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
    """Write `predictor.json`."""
    text = json.dumps(asdict(manifest), ensure_ascii=False, indent=2)
    (folder / "predictor.json").write_text(text, encoding="utf-8")


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Write `cases.json`."""
    text = json.dumps([asdict(case) for case in cases], ensure_ascii=False, indent=1)
    (folder / "cases.json").write_text(text, encoding="utf-8")


def _providers() -> list[str]:
    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
