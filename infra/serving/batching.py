"""Micro-batches: what waits while the engine works is answered together, logged in one transaction, only then told.

When the engine is idle a request starts at once; there is no waiting time to tune. The event loop only queues: engine
and database run in a thread that releases the interpreter lock.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from infra.serving.problems import not_ready

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Item, Answer]):
    items: Sequence[Item]
    taken: bool = field(default=False, init=False)
    answered: "asyncio.Future[list[Answer]]" = field(repr=False)


class MicroBatcher(Generic[Item, Answer]):
    """Gathers requests into batches for one worker thread.

    `work` gets the items of a batch and returns one answer per item; what it raises is raised to every caller.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], list[Answer]],
        max_batch: int,
        max_queue: int,
        timeout_seconds: float,
        name: str,
    ) -> None:
        self._work = work
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._timeout_seconds = timeout_seconds
        self._waiting: deque[_Waiting[Item, Answer]] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._runner: asyncio.Task[None] | None = None
        self._stopping = False
        self.num_waiting = 0

    def start(self) -> None:
        """Begin to answer."""
        self._runner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits, then stop."""
        self._stopping = True
        self._arrived.set()
        if self._runner is not None:
            await self._runner
        await asyncio.to_thread(self._executor.shutdown)

    async def answer(self, items: Sequence[Item]) -> list[Answer]:
        """Return one answer per item; raises the 503 problem when the queue is full or the deadline passed."""
        if self.num_waiting and self.num_waiting + len(items) > self._max_queue:
            raise not_ready(f"{self.num_waiting} texts are waiting, {self._max_queue} is the limit")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Answer] = _Waiting(items, loop.create_future())
        self._waiting.append(waiting)
        self.num_waiting += len(items)
        self._arrived.set()
        timer = loop.call_later(self._timeout_seconds, self._expire, waiting)
        try:
            return await waiting.answered
        finally:
            timer.cancel()

    def _expire(self, waiting: _Waiting[Item, Answer]) -> None:
        # What the engine has begun is about to be logged: its caller gets the answer, however late.
        if not waiting.taken and not waiting.answered.done():
            waiting.answered.set_exception(not_ready(f"no answer within {self._timeout_seconds:g} s"))

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting or not self._stopping:
            await self._arrived.wait()
            batch = self._take()
            if not batch:
                continue
            items = [item for waiting in batch for item in waiting.items]
            try:
                answers = await loop.run_in_executor(self._executor, self._work, items)
            except Exception as error:  # noqa: BLE001 - every caller of the batch must hear of it, the runner must live
                logger.error("a batch of %d texts failed: %s", len(items), type(error).__name__)
                for waiting in batch:
                    if not waiting.answered.done():
                        waiting.answered.set_exception(error)
                continue
            _deliver(batch, answers)

    def _take(self) -> list[_Waiting[Item, Answer]]:
        """Return the requests of the next batch, in order of arrival."""
        batch: list[_Waiting[Item, Answer]] = []
        num_items = 0
        while self._waiting and (not batch or num_items + len(self._waiting[0].items) <= self._max_batch):
            waiting = self._waiting.popleft()
            self.num_waiting -= len(waiting.items)
            if waiting.answered.done():  # its deadline passed, or the caller went away
                continue
            waiting.taken = True
            batch.append(waiting)
            num_items += len(waiting.items)
        if not self._waiting and not self._stopping:
            self._arrived.clear()
        return batch


def _deliver(batch: Sequence[_Waiting[Item, Answer]], answers: list[Answer]) -> None:
    start = 0
    for waiting in batch:
        end = start + len(waiting.items)
        if not waiting.answered.done():
            waiting.answered.set_result(answers[start:end])
        start = end
