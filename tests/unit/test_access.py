"""The cache of keys in front of the store: how late it may know of a change."""

import asyncio
import threading
from datetime import datetime
from typing import Any

import pytest
from fastapi import Request

from infra.serving.access import Access
from infra.serving.problems import ApiProblem
from tasks.stores.api_keys import ApiKey


class SlowKeys:
    """A store that reads at once and answers when it is told to."""

    def __init__(self) -> None:
        self.is_valid = True
        self.has_read, self.go = threading.Event(), threading.Event()

    def find(self, _secret: str, now: datetime) -> ApiKey | None:
        key = ApiKey("key_1", "shop", None, now) if self.is_valid else None
        self.has_read.set()
        assert self.go.wait(10)
        return key


def make_request() -> Request:
    return Request({"type": "http", "headers": [(b"authorization", b"Bearer evt_secret")]})


def test_who_comes_after_a_revocation_is_not_answered_by_a_look_from_before() -> None:
    async def run() -> None:
        keys: Any = SlowKeys()
        plans: Any = None
        access = Access(keys, plans, "token", "cookie")
        before = asyncio.create_task(access.identify(make_request()))
        assert await asyncio.to_thread(keys.has_read.wait, 10)
        keys.is_valid = False
        access.forget("key_1")
        after = asyncio.create_task(access.identify(make_request()))
        await asyncio.sleep(0)
        keys.go.set()
        assert (await before).key_id == "key_1"
        with pytest.raises(ApiProblem, match="unknown, expired or revoked"):
            await after
        with pytest.raises(ApiProblem, match="unknown, expired or revoked"):  # nor is what was read before remembered
            await access.identify(make_request())
        assert access._looks == {}

    asyncio.run(run())


def test_a_key_in_use_is_looked_up_once_however_many_ask() -> None:
    async def run() -> None:
        keys: Any = SlowKeys()
        plans: Any = None
        access = Access(keys, plans, "token", "cookie")
        callers = [asyncio.create_task(access.identify(make_request())) for _ in range(5)]
        await asyncio.sleep(0)
        assert len(access._looks) == 1
        keys.go.set()
        assert {caller.key_id for caller in await asyncio.gather(*callers)} == {"key_1"}
        assert (await access.identify(make_request())).key_id == "key_1"

    asyncio.run(run())
