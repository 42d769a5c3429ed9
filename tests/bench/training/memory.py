"""How much memory a training run takes on rows that do not fit: two million of them by default.

    python -m tests.bench.training.memory [--rows 2000000] [--data DIR] [--steps 20]

The rows are real texts, repeated with a running number: those of the csv files in `--data DIR` (column `text`), else
the embedded loop's. They go through `fine_tune` as a snapshot's Parquet file does: read, tokenised into a memory-mapped
file, ordered by length, and trained on for a few steps with the base model of the loop. The last line is one JSON
object; `peak_gib` is the resident memory of the process and its children, libraries and mapped pages included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from configs.load import load_loop
from configs.schema import Training
from configs.settings import Settings
from tasks.stores.sources import load_rows

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
LABELS = ["short", "long"]
ROWS_PER_WRITE = 50_000
SECONDS_BETWEEN_LOOKS = 0.05


def main() -> None:
    """Write the rows, then measure in a process that has seen none of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--data", type=Path, help="folder with csv files that have a column `text`")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--base-model", default=None, help="folder or hub id, instead of the loop's")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        measure(given.inside, given.steps, given.base_model)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "train.parquet", _texts(given.data), given.rows)
        write_rows(Path(folder) / "validation.parquet", _texts(given.data), 500)
        arguments = ["--inside", folder, "--steps", str(given.steps)]
        arguments += ["--base-model", given.base_model] if given.base_model else []
        command = [sys.executable, "-m", "tests.bench.training.memory", *arguments]
        subprocess.run(command, check=True)


def write_rows(path: Path, texts: list[str], num_rows: int) -> None:
    """Write so many rows in pieces, the texts over and over."""
    middle = sorted(map(len, texts))[len(texts) // 2]
    schema = pa.schema({"text": pa.large_string(), "label": pa.string(), "rating": pa.float64()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num_rows, ROWS_PER_WRITE):
            numbers = range(start, min(num_rows, start + ROWS_PER_WRITE))
            chosen = [texts[number % len(texts)] for number in numbers]
            columns = {
                "text": [f"{text} {number}" for text, number in zip(chosen, numbers, strict=True)],
                "label": [LABELS[len(text) > middle] for text in chosen],
                "rating": [None] * len(chosen),
            }
            writer.write_table(pa.table(columns, schema=schema))


def measure(folder: Path, steps: int, base_model: str | None) -> None:
    """Train on the rows of the folder and print what it took."""
    from tasks.core.base_models import resolve_base_model
    from tasks.core.classifier import load_tokenizer
    from tasks.core.encoding import encode_rows
    from tasks.core.fine_tuning import fine_tune

    place = base_model or resolve_base_model(load_loop(LOOP_FILE).training.base_model)
    training = Training(base_model=place, max_steps=steps, precision="fp32", evaluations_per_epoch=1)
    files = [folder / f"{split}.parquet" for split in ("train", "validation")]
    num_rows = pq.ParquetFile(files[0]).metadata.num_rows
    with _PeakMemory() as memory:
        started = time.monotonic()
        encode_rows(files[0], load_tokenizer(place), LABELS, training.max_tokens, folder / "cache")
        encoded = time.monotonic()
        fine_tune(
            files[0], files[1], LABELS, training, place, folder / "trainer", lambda _: None, cache=folder / "cache"
        )
        trained = time.monotonic()
    found = {
        "rows": num_rows,
        "peak_gib": round(memory.peak / 2**30, 3),
        "rows_per_second_encoding": round(num_rows / (encoded - started)),
        "seconds_training": round(trained - encoded, 1),
        "steps": steps,
        "arrow_mib": round(sum(path.stat().st_size for path in (folder / "cache").glob("*")) / 2**20),
        "parquet_mib": round(files[0].stat().st_size / 2**20),
    }
    print(json.dumps(found))


class _PeakMemory:
    """Watches the resident memory of this process and its children while a block runs."""

    def __init__(self) -> None:
        self.peak = 0
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_PeakMemory":
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            self.peak = max(self.peak, sum(_resident_sizes()))


def _resident_sizes() -> Iterator[int]:
    process = psutil.Process()
    for one in [process, *process.children(recursive=True)]:
        try:
            yield one.memory_info().rss
        except psutil.NoSuchProcess:
            continue


def _texts(data: Path | None) -> list[str]:
    if data is None:
        loop = load_loop(LOOP_FILE)
        return [str(text) for text in load_rows(loop, LOOP_FILE.parent, Settings().root)["text"].dropna()]
    frames = [pd.read_csv(path) for path in sorted(data.glob("*.csv"))]
    texts = pd.concat([frame["text"] for frame in frames if "text" in frame]).dropna()
    return [str(text) for text in texts]


if __name__ == "__main__":
    main()
