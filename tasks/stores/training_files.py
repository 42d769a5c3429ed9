"""Copies of training rows that a run leaves under the home: encoded rows, fetched splits, what workers were given."""

import shutil
from pathlib import Path


def erase_training_copies(home: Path) -> None:
    """Delete every copy: the next run makes again what it needs, from snapshots that hold no erased row."""
    shutil.rmtree(home / "cache", ignore_errors=True)
    for path in (home / "checkpoints").glob("*/*/job/*.parquet"):
        path.unlink(missing_ok=True)
