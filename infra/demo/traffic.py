"""Customers of the demo: they call the prediction API without pause and remember every answer."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import httpx
import pandas as pd

TEXTS_PER_CALL = 4
CALLS_PER_SECOND = 2.0


@dataclass(frozen=True)
class Answered:
    """One text that came back with a label."""

    phase: str
    row_id: str
    group: str
    gold: str
    label: str
    version: str
    prediction_id: str


class Traffic(threading.Thread):
    """Calls the API at a steady rate until stopped; `switch` changes what the customers write."""

    def __init__(self, api: str, loop: str, key: str, phase: str, rows: pd.DataFrame) -> None:
        super().__init__(name="traffic", daemon=True)
        self._url = f"{api}/v1/loops/{loop}"
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=30.0)
        self._lock = threading.Lock()
        self._stop_requested = threading.Event()
        self._phase = phase
        self._feed: Iterator[pd.DataFrame] = iter(())
        self.answered: list[Answered] = []
        self.calls = 0
        self.failures: list[str] = []
        self.switch(phase, rows)

    def switch(self, phase: str, rows: pd.DataFrame) -> None:
        """Let the customers write other texts from the next call on; a feed that ends starts again."""
        batches = [rows.iloc[start : start + TEXTS_PER_CALL] for start in range(0, len(rows), TEXTS_PER_CALL)]
        with self._lock:
            self._phase, self._feed = phase, cycle(batches)

    def run(self) -> None:
        """Call until stopped, no faster than the rate."""
        due = time.monotonic()
        while not self._stop_requested.wait(max(0.0, due - time.monotonic())):
            due = max(due + 1 / CALLS_PER_SECOND, time.monotonic())
            self._call()

    def stop(self) -> None:
        """Stop calling and wait for the last answer."""
        self._stop_requested.set()
        self.join(timeout=60)
        self._client.close()

    def count(self, phase: str) -> int:
        """Return how many different texts of a phase were answered."""
        return len({answer.row_id for answer in self.snapshot() if answer.phase == phase})

    def snapshot(self) -> list[Answered]:
        """Return all answers so far."""
        with self._lock:
            return list(self.answered)

    def give_feedback(self, answers: list[Answered]) -> int:
        """Send people's labels for answered texts; return how many were recorded."""
        recorded = 0
        for start in range(0, len(answers), 200):
            items = [
                {"prediction_id": answer.prediction_id, "label": answer.gold, "labeller": "twenty people"}
                for answer in answers[start : start + 200]
            ]
            response = self._client.post(f"{self._url}/feedback", json={"items": items})
            response.raise_for_status()
            recorded += sum(item["status"] == "recorded" for item in response.json()["items"])
        return recorded

    def _call(self) -> None:
        with self._lock:
            phase, rows = self._phase, next(self._feed)
        inputs = [{"text": row.text, "group": row.group} for row in rows.itertuples()]
        self.calls += 1
        try:
            response = self._client.post(f"{self._url}/predict", json={"inputs": inputs})
            response.raise_for_status()
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            return
        answers = [
            Answered(phase, row.row_id, row.group, row.label, answer["label"], body["version"], answer["prediction_id"])
            for row, answer in zip(rows.itertuples(), body["predictions"], strict=True)
        ]
        with self._lock:
            self.answered += answers
