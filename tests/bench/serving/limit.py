"""The limit that no server can pass: tokenizer and engine alone, on the same cores, without HTTP, keys or log.

    python -m tests.bench.serving.limit BUNDLE TEXTS.jsonl SECONDS THREADS

Prints one JSON line: texts per second in batches of 32 in order of arrival, and of texts sorted by length before.
"""

import json
import sys
import time
from pathlib import Path

from tasks.core.predictor import Predictor

BATCH = 32


def main() -> None:
    """Measure both orders, in turns."""
    bundle, texts_file, seconds, threads = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    predictor = Predictor.load(bundle, threads)
    texts = [json.loads(line)["text"] for line in texts_file.read_text(encoding="utf-8").splitlines()]
    orders = {"arrival": texts, "sorted": sorted(texts, key=len)}
    for order in orders.values():
        _answer(predictor, order[: 4 * BATCH])
    done, took = dict.fromkeys(orders, 0), dict.fromkeys(orders, 0.0)
    while sum(took.values()) < 2 * seconds:
        for name, order in orders.items():
            started = time.perf_counter()
            _answer(predictor, order)
            took[name] += time.perf_counter() - started
            done[name] += len(order)
    print(json.dumps({f"{name}_texts_per_second": done[name] / took[name] for name in orders}))


def _answer(predictor: Predictor, texts: list[str]) -> None:
    for start in range(0, len(texts), BATCH):
        predictor.predict(texts[start : start + BATCH], BATCH)


if __name__ == "__main__":
    main()
