"""Micro-batches in two stages: the engine works on a batch while the log commits the one before; then callers are told.

When the engine is idle a request starts at once; there is no waiting time to tune. The event loop only queues: engine
and log have a thread each, which hand batches on without it. What is asked in the background waits for what is not.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from infra.serving.problems import not_ready

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Record = TypeVar("Record")
Stage = Literal["queue", "tokenise", "engine", "log"]
PATIENCE_SECONDS = 15.0  # how long interactive traffic may hold up what was asked in the background


class Observer(Protocol):
    """Hears how long the stages take; called from several threads."""

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Note the time of a request in the queue, or of a batch in another stage."""

    def observe_batch(self, num_items: int) -> None:
        """Note how many items were answered together."""


class Laps:
    """Tells an observer how long each of a batch's stages took, since the last one or since it was made."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._last = time.perf_counter()

    def mark(self, stage: Stage) -> None:
        """Note that a stage is over."""
        now = time.perf_counter()
        self._observer.observe_stage(stage, now - self._last)
        self._last = now


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    items: Sequence[Item]
    answered: "asyncio.Future[list[Answer]]" = field(repr=False)
    arrived: float = field(default_factory=time.monotonic)
    taken: bool = False


@dataclass(frozen=True)
class _Worked(Generic[Item, Answer, Record]):
    """A batch that the engine is done with and the log is not."""

    batch: Sequence[_Waiting[Item, Answer]]
    answers: list[Answer]
    record: Record


class MicroBatcher(Generic[Item, Answer, Record]):
    """Gathers requests into batches for one engine thread and one log thread.

    `work` gets the items of a batch and returns one answer per item and what to keep of them; `keep` keeps it. What
    either raises is raised to every caller of the batch.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], tuple[list[Answer], Record]],
        keep: Callable[[Record], None],
        max_batch: int,
        max_queue: int,
        timeout_seconds: float,
        name: str,
        observer: Observer | None = None,
    ) -> None:
        self._work = work
        self._keep = keep
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._timeout_seconds = timeout_seconds
        self._observer = observer
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._background: deque[_Waiting[Item, Answer]] = deque()
        self._changed = threading.Condition()  # guards the queues, and is told when they or `_stopping` change
        self._worked: queue.Queue[_Worked[Item, Answer, Record] | None] = queue.Queue(maxsize=1)
        self._threads = [
            threading.Thread(target=target, name=f"{name}-{stage}", daemon=True)
            for stage, target in (("engine", self._run_engine), ("log", self._run_log))
        ]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = False
        self.num_waiting = 0  # items that wait in the foreground

    def start(self) -> None:
        """Begin to answer; called on the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join)

    async def answer(self, items: Sequence[Item], background: bool = False) -> list[Answer]:
        """Return one answer per item, kept before it is returned.

        Raises the 503 problem when the queue is full or the deadline passed. In the `background` there is neither: such
        items wait until the engine has nothing else to do, or for PATIENCE_SECONDS.
        """
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Answer] = _Waiting(items, loop.create_future())
        with self._changed:
            if self._stopping:
                raise not_ready("the service is stopping")
            if background:
                self._background.append(waiting)
            else:
                if self.num_waiting and self.num_waiting + len(items) > self._max_queue:
                    raise not_ready(f"{self.num_waiting} texts are waiting, {self._max_queue} is the limit")
                self._waiting.append(waiting)
                self.num_waiting += len(items)
            self._changed.notify()
        if background:
            return await waiting.answered
        timer = loop.call_later(self._timeout_seconds, self._expire, waiting)
        try:
            return await waiting.answered
        finally:
            timer.cancel()

    def _expire(self, waiting: _Waiting[Item, Answer]) -> None:
        # What the engine has begun is about to be logged: its caller gets the answer, however late.
        with self._changed:
            if not waiting.taken and not waiting.answered.done():
                waiting.answered.set_exception(not_ready(f"no answer within {self._timeout_seconds:g} s"))

    def _run_engine(self) -> None:
        while (batch := self._next_batch()) is not None:
            items = [item for waiting in batch for item in waiting.items]
            if self._observer is not None:
                self._observer.observe_batch(len(items))
            try:
                answers, record = self._work(items)
            except Exception as error:  # noqa: BLE001 - every caller of the batch must hear of it, the thread must live
                self._fail(batch, error)
            else:
                self._worked.put(_Worked(batch, answers, record))
        self._worked.put(None)

    def _run_log(self) -> None:
        while (worked := self._worked.get()) is not None:
            started = time.perf_counter()
            try:
                self._keep(worked.record)
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(worked.batch, error)
                continue
            if self._observer is not None:
                self._observer.observe_stage("log", time.perf_counter() - started)
            self._tell(_deliver, worked.batch, worked.answers)

    def _next_batch(self) -> list[_Waiting[Item, Answer]] | None:
        """Return the next requests as soon as there are any; None when all are answered and the service stops."""
        with self._changed:
            while True:
                batch = self._take()
                if batch:
                    break
                if self._stopping:
                    return None
                self._changed.wait()
        if self._observer is not None:
            now = time.monotonic()
            for waiting in batch:
                self._observer.observe_stage("queue", now - waiting.arrived)
        return batch

    def _take(self) -> list[_Waiting[Item, Answer]]:
        """Return the requests of the next batch, in order of arrival; from the background only if no other waits."""
        overdue = bool(self._background) and time.monotonic() - self._background[0].arrived > PATIENCE_SECONDS
        queues = (self._background, self._waiting) if overdue else (self._waiting, self._background)
        return self._take_from(queues[0]) or self._take_from(queues[1])

    def _take_from(self, waiting: deque[_Waiting[Item, Answer]]) -> list[_Waiting[Item, Answer]]:
        batch: list[_Waiting[Item, Answer]] = []
        num_items = 0
        while waiting and (not batch or num_items + len(waiting[0].items) <= self._max_batch):
            first = waiting.popleft()
            if waiting is self._waiting:
                self.num_waiting -= len(first.items)
            if first.answered.done():  # its deadline passed, or the caller went away
                continue
            first.taken = True
            batch.append(first)
            num_items += len(first.items)
        return batch

    def _fail(self, batch: Sequence[_Waiting[Item, Answer]], error: Exception) -> None:
        logger.error("a batch of %d requests failed: %s", len(batch), type(error).__name__)
        self._tell(_raise, batch, error)

    def _tell(self, tell: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(tell, *arguments)
        except RuntimeError:  # the loop was closed without `stop`: nobody is left to hear
            logger.warning("a batch was answered after the service had gone")


def _deliver(batch: Sequence[_Waiting[Item, Answer]], answers: list[Answer]) -> None:
    start = 0
    for waiting in batch:
        end = start + len(waiting.items)
        if not waiting.answered.done():
            waiting.answered.set_result(answers[start:end])
        start = end


def _raise(batch: Sequence[_Waiting[Item, Answer]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answered.done():
            waiting.answered.set_exception(error)
