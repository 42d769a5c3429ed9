"""What a part of the bench is given, and the units of work that a killed bench need not do again."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from configs.load import PRESETS
from tasks.core.retrain_plan import code_version

FIRST_SEED = 13
BENCH = Path(__file__).parent
Record = dict[str, Any]


class Ledger:
    """Records of finished units in a jsonl file; without a file they are only remembered."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._records: dict[str, Record] = {}
        if file is not None and file.is_file():
            text = file.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
            file.write_text(whole, encoding="utf-8")
            entries = [json.loads(line) for line in whole.splitlines()]
            self._records = {entry["key"]: entry["record"] for entry in entries}

    def unit(self, name: str, settings: Mapping[str, Any], work: Callable[[], Record]) -> Record:
        """Return the unit's record, from the file if it was done under the same settings, else by doing it."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        key = f"{name} {digest}"
        if key not in self._records:
            started = time.monotonic()
            # What is kept is what a later run would read: JSON's own types.
            self._records[key] = json.loads(json.dumps(work()))
            print(f"  {name}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
            self._append(key)
        return self._records[key]

    def _append(self, key: str) -> None:
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "record": self._records[key]}) + "\n")


@dataclass(frozen=True)
class Bench:
    """How much is measured, and on what."""

    loop_file: Path
    seeds: tuple[int, ...]
    threads: int
    ledger: Ledger
    data: Path | None = None  # folder with the csv files of the part `intents`
    limit_rows: int | None = None  # rows of each split; for a smoke run, whose figures mean nothing
    base_model: str | None = None  # instead of the loop's
    genre_preset: str = "balanced"  # of the part `genres`, the longest one: every corpus is learnt twice

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return what tells a unit's result from another one's, together with `more`: its rows and its recipe."""
        shared = {"threads": self.threads, "limit_rows": self.limit_rows, "base_model": self.base_model}
        return {**shared, "versions": _versions(self.loop_file), **more}


@cache  # of the start: what is edited while a bench runs is not what runs
def _versions(loop_file: Path) -> list[str]:
    """Return what the results hang on beside rows and recipe: the code that trains, the loop's file, the presets."""
    runners = [BENCH / "evertune.py", BENCH / "hf_example.py"]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in [loop_file, *runners]]
    presets = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(PRESETS.glob("*.yaml")))).hexdigest()
    return [code_version(), *digests, presets]
