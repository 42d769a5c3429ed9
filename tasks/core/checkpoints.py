"""Saved training state: which of it is whole."""

import shutil
from pathlib import Path

COMPLETE = "complete"  # marks a checkpoint whose files are all written


def keep_complete_checkpoints(folder: Path) -> Path | None:
    """Remove checkpoints that a kill left half-written; return the newest complete one, or None.

    The Trainer rotates by step number: a broken checkpoint of a high number would push out the good ones.
    """
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)
