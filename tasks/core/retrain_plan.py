"""Says what identifies a training run, and whether training it again could give anything new."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.schema import Gate, Training
from tasks.core.errors import DataError

CORE = Path(__file__).parent
SHAPES_THE_RESULT = (
    "classifier.py",
    "encoding.py",
    "export.py",
    "fine_tuning.py",
    "optimizer.py",
    "precision.py",
    "predictor.py",
    "trainer.py",
)


def code_version(folder: Path = CORE) -> str:
    """Return a hash of the modules that decide what a training run gives."""
    digest = hashlib.sha256()
    for name in SHAPES_THE_RESULT:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def training_key(fingerprint: str, training: Training, code: str) -> str:
    """Return the name of what a run would train: the same key gives the same model."""
    parts = json.dumps([fingerprint, training.model_dump(mode="json"), code], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def gate_key(gate: Gate) -> str:
    """Return a hash of the rules: a challenger that one gate refused deserves another hearing by another."""
    return hashlib.sha256(gate.model_dump_json().encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TrainedVersion:
    """What a registered version's tags say of its origin."""

    version: str
    training_key: str
    gate_key: str
    is_refused: bool


def find_same_training(
    key: str, gate: str, trained: Sequence[TrainedVersion], champion: str | None, served: Collection[str]
) -> str | None:
    """Return why training this key again gives nothing new, or None when a run is worth its cost.

    The same key gives the same model. It is nothing new if that model is champion, has served before (a rollback must
    not be undone by the next night), or was refused by this very gate. `served` holds versions that ever were champion.
    """
    for known in trained:
        if known.training_key != key:
            continue
        if known.version == champion:
            return "those of the champion"
        if known.version in served:
            return f"those of version {known.version}, which served before and was taken back"
        if known.is_refused and known.gate_key == gate:
            return f"those of version {known.version}, which this gate refused"
    return None


def check_labels(loop: str, wanted: Sequence[str], champions: Sequence[str]) -> None:
    """Raise DataError when the champion answers with other labels: the two could not be compared."""
    if set(champions) != set(wanted):
        raise DataError(
            f"labels: the champion of '{loop}' answers {list(champions)}, the loop now says {list(wanted)}. "
            "Other labels make another loop: give it a new name."
        )
