"""What a backtest keeps on disk, so that a killed one goes on, and one with other rules only does what is new."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt


class BacktestFiles:
    """Arrays and small records of one timeline and recipe, under keys that name all they hang on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes = folder / "notes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Any] = {}
        if self._notes.is_file():
            text = self._notes.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
            if whole != text:
                self._notes.write_text(whole, encoding="utf-8")
            self._known = dict(json.loads(line) for line in whole.splitlines())

    def note(self, name: str, hangs_on: Mapping[str, Any], work: Callable[[], Any]) -> Any:
        """Return a record (JSON's own types), found before or by doing the work now."""
        key = f"{name} {digest(hangs_on)}"
        if key not in self._known:
            self._known[key] = json.loads(json.dumps(work()))
            with self._notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self._known[key]]) + "\n")
        return self._known[key]

    def array(self, name: str, work: Callable[[], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Return an array, read from its file or by doing the work now."""
        path = self._folder / f"{name}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{uuid4().hex}")
            with partial.open("wb") as file:
                np.save(file, work(), allow_pickle=False)
            partial.replace(path)
        array: npt.NDArray[np.float32] = np.load(path, allow_pickle=False)
        return array


def digest(parts: Any) -> str:
    """Return 16 hexadecimal digits that tell what something hangs on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_rows(rows: npt.NDArray[np.int64]) -> str:
    """Return 16 hexadecimal digits of row numbers."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]
