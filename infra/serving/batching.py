"""Micro-batches: what waits while the engine works is answered together, logged in one transaction, only then told.

When the engine is idle a request starts at once; there is no waiting time to tune. The event loop only queues: engine
and database run in a thread that releases the interpreter lock.
"""

import asyncio
import logging
import time
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
    deadline: float
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
        self.num_waiting = 0

    def start(self) -> None:
        """Begin to answer."""
        self._runner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Answer what waits, then stop."""
        while self._waiting:
            await asyncio.sleep(0.01)
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)

    async def answer(self, items: Sequence[Item]) -> list[Answer]:
        """Return one answer per item; raises the 503 problem when the queue is full or the deadline passed."""
        if self.num_waiting + len(items) > self._max_queue:
            raise not_ready(f"{self.num_waiting} texts are waiting, {self._max_queue} is the limit")
        waiting: _Waiting[Item, Answer] = _Waiting(
            items, time.monotonic() + self._timeout_seconds, asyncio.get_running_loop().create_future()
        )
        self._waiting.append(waiting)
        self.num_waiting += len(items)
        self._arrived.set()
        return await waiting.answered

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
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
        """Return the requests of the next batch, in order of arrival; those past their deadline are told so."""
        batch: list[_Waiting[Item, Answer]] = []
        num_items = 0
        while self._waiting and (not batch or num_items + len(self._waiting[0].items) <= self._max_batch):
            waiting = self._waiting.popleft()
            self.num_waiting -= len(waiting.items)
            if waiting.answered.done():  # the caller went away
                continue
            if time.monotonic() > waiting.deadline:
                waiting.answered.set_exception(not_ready(f"no answer within {self._timeout_seconds:g} s"))
                continue
            batch.append(waiting)
            num_items += len(waiting.items)
        if not self._waiting:
            self._arrived.clear()
        return batch


def _deliver(batch: Sequence[_Waiting[Item, Answer]], answers: list[Answer]) -> None:
    start = 0
    for waiting in batch:
        end = start + len(waiting.items)
        if not waiting.answered.done():
            waiting.answered.set_result(answers[start:end])
        start = end
