"""Asks the version that did not answer the caller as well, off the reply's path, and keeps what it said.

One thread, a bounded queue, small batches that let replies go first: what does not fit is left out, and nobody waits.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from infra.serving.answering import Beside, Served
from tasks.core.errors import TransientError
from tasks.stores.releases import Releases, ShadowRow

logger = logging.getLogger(__name__)
MAX_WAITING = 1024  # texts
BATCH = 8  # texts at a time: a reply that comes meanwhile shares the cores with no more
PATIENCE_SECONDS = 1.0  # how long replies may hold up a batch


class BesideWorker:
    """Asks what it is given of the version that is named there; `is_busy` says whether replies are waiting."""

    def __init__(self, name: str, releases: Releases, is_busy: Callable[[], bool]) -> None:
        self._releases = releases
        self._is_busy = is_busy
        self._waiting: deque[Beside] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"{name}-beside", daemon=True)
        self._num_timed = 0
        self.num_dropped = 0

    def ask(self, items: Sequence[Beside]) -> None:
        """Take over what shall be asked; returns at once, and leaves out what there is no room for."""
        with self._changed:
            if self._stopping:
                return
            room = MAX_WAITING - len(self._waiting)
            self._waiting.extend(items[:room])
            self.num_dropped += max(len(items) - room, 0)
            if not self._thread.is_alive():
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Finish the batch at hand and stop; what waits is left out."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._releases.append_shadows(self._answer(batch))
            except TransientError as error:  # it is evidence that is lost, no answer
                logger.error("%d texts are not compared: %s", len(batch), error)
            except Exception:  # the thread must live: without it a release would wait for ever
                logger.exception("%d texts are not compared", len(batch))

    def _take(self) -> list[Beside]:
        """Return the next texts that one version shall be asked; none: it is over."""
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while self._is_busy() and not self._stopping and time.monotonic() < deadline:
                self._changed.wait(0.01)
            batch: list[Beside] = []
            while self._waiting and len(batch) < BATCH and not self._stopping:
                if batch and not _belongs_to(self._waiting[0], batch[0]):
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _answer(self, batch: Sequence[Beside]) -> list[ShadowRow]:
        first, now = batch[0], datetime.now(UTC)
        by = first.candidate.served if first.by_candidate or first.has_failed else first.champion
        said = [None] * len(batch) if first.has_failed else _ask(by, batch)
        times = self._time(first) if said[0] is not None else None
        rows = []
        for position, (one, answer) in enumerate(zip(batch, said, strict=True)):
            if answer is None and by is one.champion:  # nothing is compared with
                continue
            label, score, scores = answer or (None, None, None)
            candidate_ms, champion_ms = times if times and position == 0 else (None, None)
            release = one.candidate.release
            place = (one.asked.prediction_id, release.release_id, release.loop, now, by.version, one.candidate.stage)
            rows.append(ShadowRow(*place, label, score, scores, candidate_ms, champion_ms))
        return rows

    def _time(self, one: Beside) -> tuple[float, float] | None:
        """Return how long candidate and champion take for one text, in milliseconds; they take turns in going first."""
        self._num_timed += 1
        versions = [one.candidate.served, one.champion]
        ordered = versions if self._num_timed % 2 else versions[::-1]
        taken = {}
        for served in ordered:
            started = time.perf_counter()
            try:
                served.predictor.predict([one.asked.text])
            except Exception:  # noqa: BLE001 - failures are counted where the text is asked, not where it is timed
                return None
            taken[served.version] = round(1000 * (time.perf_counter() - started), 4)
        return taken[one.candidate.served.version], taken[one.champion.version]


def _belongs_to(one: Beside, first: Beside) -> bool:
    same = (one.candidate.release.release_id, one.by_candidate, one.has_failed, one.champion.version)
    return same == (
        first.candidate.release.release_id, first.by_candidate, first.has_failed, first.champion.version
    )  # fmt: skip


Said = tuple[str, float, dict[str, float]]


def _ask(served: Served, batch: Sequence[Beside]) -> list[Said | None]:
    """Return what a version says of each text; None where it fails: a failing batch is asked one by one."""
    try:
        return list(_predict(served, batch))
    except Exception as error:  # noqa: BLE001 - the engine raises what it likes
        if len(batch) == 1:
            logger.error("version %s cannot answer a text: %s", served.version, type(error).__name__)
            return [None]
        return [answer for one in batch for answer in _ask(served, [one])]


def _predict(served: Served, batch: Sequence[Beside]) -> list[Said]:
    prediction = served.predictor.predict([one.asked.text for one in batch])
    found = []
    for label, values in zip(prediction.answers, prediction.probabilities, strict=True):
        scores = {name: round(float(value), 6) for name, value in zip(served.predictor.labels, values, strict=True)}
        found.append((label, round(float(values.max()), 6), scores))
    return found
