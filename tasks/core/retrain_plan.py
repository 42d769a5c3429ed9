"""Says what identifies a training run, and whether training it again could give anything new."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.schema import Training
from tasks.core.errors import DataError

CORE = Path(__file__).parent
SHAPES_THE_RESULT = ("classifier.py", "export.py", "fine_tuning.py", "precision.py", "predictor.py")


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


def find_same_training(key: str, trained: Mapping[str, str]) -> str | None:
    """Return the alias whose version was trained with this very key, or None: `trained` maps alias to key."""
    return next((alias for alias, known in trained.items() if known == key), None)


def check_labels(loop: str, wanted: Sequence[str], champions: Sequence[str]) -> None:
    """Raise DataError when the champion answers with other labels: the two could not be compared."""
    if set(champions) != set(wanted):
        raise DataError(
            f"labels: the champion of '{loop}' answers {list(champions)}, the loop now says {list(wanted)}. "
            "Other labels make another loop: give it a new name."
        )
