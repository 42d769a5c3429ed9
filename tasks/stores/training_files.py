"""Copies of training rows that a run leaves on disks: encoded rows, fetched splits, what workers were given."""

import re
import shutil
from pathlib import Path

_RUN = re.compile(r"[0-9a-f]{24}|tuning-[0-9a-f]{12}")  # a training key, or a search's


def erase_training_copies(home: Path, ray_storage: Path | None = None) -> None:
    """Delete every copy: the next run makes again what it needs, from snapshots that hold no erased row."""
    shutil.rmtree(home / "cache", ignore_errors=True)
    for folder in (home / "checkpoints", *list_shared_runs(ray_storage)):
        for pattern in ("**/*.parquet", "**/*.arrow"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)


def erase_backtests(home: Path) -> None:
    """Delete what backtests keep of rows and answered texts: their vectors, and what models said of them."""
    shutil.rmtree(home / "backtests", ignore_errors=True)


def list_shared_runs(ray_storage: Path | None) -> list[Path]:
    """Return the runs' folders on the disk that a cluster shares; what others keep there is none of them."""
    if ray_storage is None:
        return []
    return [folder for folder in sorted(ray_storage.glob("*/*")) if _RUN.fullmatch(folder.name) and folder.is_dir()]
