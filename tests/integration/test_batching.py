"""The micro-batcher: two stages, bounded, in order, and nobody hears of what is not kept."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from infra.serving import batching
from infra.serving.batching import Laps, MicroBatcher
from infra.serving.problems import ApiProblem
from tasks.core.errors import DataError

Batcher = MicroBatcher[str, str, list[str]]


class Stages:
    """An engine and a log that wait for a sign, and remember what they were given."""

    def __init__(self, engine_is_free: bool = True, log_is_free: bool = True) -> None:
        self.engine_may, self.log_may = threading.Event(), threading.Event()
        self.batches: list[list[str]] = []
        self.kept: list[str] = []
        if engine_is_free:
            self.engine_may.set()
        if log_is_free:
            self.log_may.set()

    def work(self, items: list[str]) -> tuple[list[str], list[str]]:
        self.batches.append(items)
        assert self.engine_may.wait(10)
        if "bad" in items:
            raise DataError("no")
        return [item.upper() for item in items], items

    def keep(self, record: list[str]) -> None:
        assert self.log_may.wait(10)
        if "unloggable" in record:
            raise DataError("the log said no")
        self.kept += record

    def batcher(self, max_batch: int = 4, max_queue: int = 8, timeout_seconds: float = 10.0) -> Batcher:
        batcher: Batcher = MicroBatcher(self.work, self.keep, max_batch, max_queue, timeout_seconds, "test")
        batcher.start()
        return batcher


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


def ask(batcher: Batcher, *texts: str, background: bool = False) -> "list[asyncio.Task[list[str]]]":
    return [asyncio.create_task(batcher.answer([text], background)) for text in texts]


def test_the_engine_works_on_while_the_log_commits_and_nobody_hears_before() -> None:
    async def story() -> None:
        stages = Stages(log_is_free=False)
        batcher = stages.batcher()
        (first,) = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        (second,) = ask(batcher, "b")
        await until(lambda: len(stages.batches) == 2)  # the first is with the log, and stays there
        assert (first.done(), second.done(), stages.kept) == (False, False, [])
        stages.log_may.set()
        assert list(await asyncio.gather(first, second)) == [["A"], ["B"]]
        assert stages.kept == ["a", "b"]
        await batcher.stop()

    asyncio.run(story())


def test_what_arrives_while_the_engine_is_busy_is_answered_together_in_order() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(max_batch=3)
        asked = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        asked += ask(batcher, "b", "c", "d", "e")
        await until(lambda: batcher.num_waiting == 4)
        stages.engine_may.set()
        assert await asyncio.gather(*asked) == [["A"], ["B"], ["C"], ["D"], ["E"]]
        assert stages.batches == [["a"], ["b", "c", "d"], ["e"]]
        assert batcher.num_waiting == 0
        await batcher.stop()

    asyncio.run(story())


def test_a_full_queue_is_told_at_once_and_an_idle_one_takes_a_request_of_any_size() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(max_batch=2, max_queue=2)
        large = asyncio.create_task(batcher.answer(list("abcde")))
        await until(lambda: len(stages.batches) == 1)
        waiting = ask(batcher, "f", "g")
        await until(lambda: batcher.num_waiting == 2)
        with pytest.raises(ApiProblem, match="2 texts are waiting, 2 is the limit") as refused:
            await batcher.answer(["h"])
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "1"})
        stages.engine_may.set()
        assert await asyncio.gather(large, *waiting) == [list("ABCDE"), ["F"], ["G"]]
        await batcher.stop()

    asyncio.run(story())


def test_what_waits_too_long_is_told_and_never_begun() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(timeout_seconds=0.2)
        (first,) = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        with pytest.raises(ApiProblem, match=r"no answer within 0\.2 s"):
            await batcher.answer(["b"])
        stages.engine_may.set()
        assert await first == ["A"]  # it was begun, so it was logged, so its caller hears of it, however late
        assert await batcher.answer(["c"]) == ["C"]
        assert stages.batches == [["a"], ["c"]]
        await batcher.stop()

    asyncio.run(story())


def test_a_caller_who_went_away_is_not_answered() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher()
        (first,) = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        gone, stayed = ask(batcher, "b", "c")
        await until(lambda: batcher.num_waiting == 2)
        gone.cancel()
        await asyncio.wait([gone])
        stages.engine_may.set()
        assert list(await asyncio.gather(first, stayed)) == [["A"], ["C"]]
        assert stages.kept == ["a", "c"]
        await batcher.stop()

    asyncio.run(story())


def test_stopping_answers_what_was_begun_and_what_waits_and_nothing_later() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(max_batch=2)
        asked = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        asked += ask(batcher, "b", "c", "d")
        await until(lambda: batcher.num_waiting == 3)
        stopping = asyncio.create_task(batcher.stop())
        stages.engine_may.set()
        assert await asyncio.gather(*asked) == [["A"], ["B"], ["C"], ["D"]]
        await stopping
        assert stages.batches == [["a"], ["b", "c"], ["d"]]
        with pytest.raises(ApiProblem, match="stopping"):
            await batcher.answer(["e"])

    asyncio.run(story())


@pytest.mark.parametrize("text", ["bad", "unloggable"])
def test_a_failure_of_either_stage_reaches_its_callers_only(text: str) -> None:
    async def story() -> None:
        stages = Stages()
        batcher = stages.batcher(max_batch=1)
        failed, answered = await asyncio.gather(*ask(batcher, text, "good"), return_exceptions=True)
        assert isinstance(failed, DataError)
        assert answered == ["GOOD"]
        assert stages.kept == ["good"]
        await batcher.stop()

    asyncio.run(story())


def test_the_background_waits_for_what_does_not_and_counts_for_no_limit() -> None:
    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(max_batch=2, max_queue=2, timeout_seconds=10)
        asked = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        asked += ask(batcher, "w", "x", "y", background=True)
        await asyncio.sleep(0)
        asked += ask(batcher, "b", "c")
        await until(lambda: batcher.num_waiting == 2)
        stages.engine_may.set()
        await asyncio.gather(*asked)
        assert stages.batches == [["a"], ["b", "c"], ["w", "x"], ["y"]]
        await batcher.stop()

    asyncio.run(story())


def test_the_background_is_not_held_up_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", -1.0)

    async def story() -> None:
        stages = Stages(engine_is_free=False)
        batcher = stages.batcher(max_batch=2)
        asked = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        asked += ask(batcher, "b", "c", "d")
        await until(lambda: batcher.num_waiting == 3)
        asked += ask(batcher, "x", background=True)
        await asyncio.sleep(0)
        stages.engine_may.set()
        await asyncio.gather(*asked)
        assert stages.batches == [["a"], ["x"], ["b", "c"], ["d"]]
        await batcher.stop()

    asyncio.run(story())


class Heard:
    def __init__(self) -> None:
        self.stages: Counter[str] = Counter()
        self.batches: list[int] = []

    def observe_stage(self, stage: batching.Stage, seconds: float) -> None:
        assert seconds >= 0
        self.stages[stage] += 1

    def observe_batch(self, num_items: int) -> None:
        self.batches.append(num_items)


def test_the_stages_are_timed() -> None:
    async def story() -> Heard:
        stages, heard = Stages(engine_is_free=False), Heard()
        batcher: Batcher = MicroBatcher(stages.work, stages.keep, 4, 8, 10, "test", heard)
        batcher.start()
        asked = ask(batcher, "a")
        await until(lambda: len(stages.batches) == 1)
        asked += ask(batcher, "b", "c")
        await until(lambda: batcher.num_waiting == 2)
        stages.engine_may.set()
        await asyncio.gather(*asked)
        await batcher.stop()
        return heard

    heard = asyncio.run(story())
    assert (heard.batches, heard.stages) == ([1, 2], Counter(queue=3, log=2))
    laps = Laps(heard)
    laps.mark("tokenise")
    laps.mark("engine")
    assert (heard.stages["tokenise"], heard.stages["engine"]) == (1, 1)
