"""Saved training state: which of it is whole."""

import shutil
from pathlib import Path

from tasks.core.processes import agree, rank

COMPLETE = "complete"  # marks a checkpoint whose files are all written


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that a run goes on from, or None; the same in all its processes."""
    newest = keep_complete_checkpoints(folder) if rank() == 0 else None
    step = agree(step_of(newest) if newest else -1)
    return folder / f"checkpoint-{step}" if step >= 0 else None


def newest_step(folder: Path) -> int:
    """Return the step of the newest complete checkpoint, -1 when there is none."""
    return max((step_of(mark.parent) for mark in folder.glob(f"checkpoint-*/{COMPLETE}")), default=-1)


def step_of(checkpoint: Path) -> int:
    """Return after which step a checkpoint was saved."""
    return int(checkpoint.name.split("-")[1])


def keep_complete_checkpoints(folder: Path) -> Path | None:
    """Remove checkpoints that a kill left half-written; return the newest complete one, or None.

    The Trainer rotates by step number: a broken checkpoint of a high number would push out the good ones.
    """
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path)
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(complete, key=step_of, default=None)
