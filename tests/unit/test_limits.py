"""Windows and months without a server: what passes, what is left, what is counted."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from configs.load import ConfigError
from configs.plans import Plan
from infra.serving.access import Caller
from infra.serving.limits import Limits
from infra.serving.problems import ApiProblem
from infra.serving.quotas import Quotas
from infra.serving.windows import Window, open_windows
from tasks.core.errors import TransientError

PLAN = Plan.model_validate(
    {"name": "p", "requests_per_second": 2, "burst": 10, "texts_per_month": 100, "beyond": "refuse", "monthly_price": 0}
)
START = datetime(2026, 11, 30, 23, 59, 0, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr("time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def pass_many(number: int, key: str = "k") -> Callable[[Any], Coroutine[Any, Any, list[Window]]]:
    async def run(windows: Any) -> list[Window]:
        return [await windows.pass_one(key, PLAN.burst, PLAN.window_seconds) for _ in range(number)]

    return run


def test_a_burst_passes_and_what_is_left_counts_down(clock: Clock) -> None:
    clock.now += 0.5
    found = asyncio.run(pass_many(12)(open_windows(None)))
    assert [one.is_open for one in found] == [True] * 10 + [False] * 2
    assert [one.left for one in found] == [*range(9, -1, -1), 0, 0]
    assert found[-1].resets_in == 5


def test_a_window_fades_out_while_the_next_one_fills(clock: Clock) -> None:
    async def run() -> list[int]:
        windows, passed = open_windows(None), []
        for later in (0.0, 5.0, 2.5, 2.5, 10.0):
            clock.now += later
            passed.append(sum(one.is_open for one in await pass_many(20)(windows)))
        return passed

    # Full; full again as the next window begins; half faded; all but this one's; nothing left of either.
    assert asyncio.run(run()) == [10, 0, 5, 5, 10]


def test_a_client_that_keeps_to_its_rate_is_never_refused(clock: Clock) -> None:
    async def run() -> bool:
        windows = open_windows(None)
        for _ in range(500):
            clock.now += 0.51
            if not (await windows.pass_one("k", PLAN.burst, PLAN.window_seconds)).is_open:
                return False
        return True

    assert asyncio.run(run())


def test_counts_that_are_over_are_forgotten(clock: Clock) -> None:
    async def run() -> int:
        windows = open_windows(None)
        for key in range(100):
            await windows.pass_one(f"k{key}", PLAN.burst, PLAN.window_seconds)
        clock.now += 100
        await windows.pass_one("late", PLAN.burst, PLAN.window_seconds)
        storage: Any = windows._limiter.storage
        return len(storage._counts)

    assert asyncio.run(run()) == 1


@pytest.mark.parametrize("url", ["memcached://h:1", "h:1", "redis://u:hunter2@h:x/0"])
def test_a_wrong_url_is_told_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigError, match=r"EVERTUNE_LIMITS_URL: .*accepted: redis://") as caught:
        open_windows(url)
    assert "hunter2" not in str(caught.value)


def test_a_store_that_does_not_answer_lets_pass_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    windows = open_windows("redis://127.0.0.1:1/0")
    with caplog.at_level(logging.ERROR, "infra.serving.windows"):
        found = asyncio.run(pass_many(12)(windows))
    assert all(one.is_open for one in found)
    (record,) = caplog.records
    assert "EVERTUNE_LIMITS_URL: does not answer" in record.message


class Log:
    def __init__(self, texts: int) -> None:
        self.texts = texts
        self.looks = 0

    def count(self, _key_id: str, since: datetime, until: datetime) -> int:
        assert (since.day, until.day, since < until) == (1, 1, True)
        self.looks += 1
        return self.texts


def make_limits(log: Log) -> tuple[Limits, Caller]:
    return Limits(open_windows(None), Quotas(log.count)), Caller("k", None, PLAN)


def test_admitted_texts_are_reserved_until_they_are_answered_or_given_back() -> None:
    async def run() -> None:
        limits, caller = make_limits(Log(0))
        first = await limits.admit(caller, 60)
        with pytest.raises(ApiProblem, match="40 are left"):
            await limits.admit(caller, 41)
        second = await limits.admit(caller, 40)
        first.close()
        first.close()  # a request ends once, but saying so twice must not give twice
        third = await limits.admit(caller, 60)
        second.settle(15)
        second.settle(25)
        third.settle(10)
        third.close()
        month = await limits.quotas.month_of("k")
        assert (month.used, month.reserved, month.left(100)) == (50, 0, 50)

    asyncio.run(run())


def test_what_a_job_answers_after_its_request_counts(clock: Clock) -> None:
    async def run() -> tuple[int, int]:
        limits, caller = make_limits(Log(3))
        admission = await limits.admit(caller, 60)
        admission.close()
        admission.settle(60)
        month = await limits.quotas.month_of("k")
        return month.used, month.reserved

    assert asyncio.run(run()) == (63, 0)


def test_the_log_is_read_once_a_month_however_many_ask(clock: Clock) -> None:
    async def run() -> None:
        log = Log(30)
        limits, caller = make_limits(log)
        admissions = await asyncio.gather(*(limits.admit(caller, 7) for _ in range(10)))
        assert (log.looks, len(admissions)) == (1, 10)
        for one in admissions:
            one.close()
        log.texts = 0
        clock.now += 61  # December
        admission = await limits.admit(caller, 100)
        assert log.looks == 2
        assert admission.headers["RateLimit-Remaining"] == "0"

    asyncio.run(run())


def test_what_is_on_its_way_at_a_months_end_takes_from_the_next_one(clock: Clock) -> None:
    async def run() -> None:
        log = Log(30)
        limits, caller = make_limits(log)
        answered_late, given_up = await limits.admit(caller, 60), await limits.admit(caller, 10)
        log.texts = 0
        clock.now += 61  # December: both may yet be logged in it
        with pytest.raises(ApiProblem, match="30 are left"):
            await limits.admit(caller, 31)
        answered_late.settle(60)
        given_up.close()
        month = await limits.quotas.month_of("k")
        assert (month.used, month.reserved, log.looks) == (60, 0, 2)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("others", "is_told_of", "used"),
    [
        (0, True, 17),  # the log had them already
        (0, False, 17),  # they were committed after it was read
        (50, True, 67),
        (50, False, 60),  # the next look tells of the rest
    ],
)
def test_texts_answered_while_the_log_is_read_again_are_not_forgotten(
    clock: Clock, others: int, is_told_of: bool, used: int
) -> None:
    async def run() -> None:
        log = Log(10)
        limits = Limits(open_windows(None), Quotas(log.count, refresh_seconds=30))
        admission = await limits.admit(caller := Caller("k", None, PLAN), 7)
        log.texts = 10 + others + (7 if is_told_of else 0)
        clock.now += 31
        (await limits.admit(caller, 1)).close()  # starts the look, and does not wait for it
        await asyncio.sleep(0)
        admission.settle(7)
        await asyncio.gather(*limits.quotas._reading.values())
        month = await limits.quotas.month_of("k")
        assert (month.used, month.reserved, log.looks) == (used, 0, 2)

    asyncio.run(run())


def test_a_log_that_cannot_be_read_admits_nobody_and_is_asked_again() -> None:
    async def run() -> None:
        log = Log(0)
        limits, caller = make_limits(log)
        log_count, limits.quotas._count_texts = log.count, fail
        with pytest.raises(TransientError):
            await limits.admit(caller, 1)
        limits.quotas._count_texts = log_count
        await limits.admit(caller, 1)

    def fail(*_: Any) -> int:
        raise TransientError("the database is away")

    asyncio.run(run())


def test_a_replica_learns_what_the_others_answered(clock: Clock) -> None:
    async def run() -> None:
        log = Log(10)
        quotas = Quotas(log.count, refresh_seconds=30)
        assert (await quotas.month_of("k")).used == 10
        log.texts = 90
        clock.now += 31
        month = await quotas.month_of("k")
        assert month.used == 10  # nobody waits for the look
        await asyncio.gather(*quotas._reading.values())
        assert (month.used, log.looks) == (90, 2)

    asyncio.run(run())
