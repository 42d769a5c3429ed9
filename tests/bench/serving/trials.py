"""What happens to requests while versions are swapped, and while the service is killed in the middle of load."""

import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from tests.bench.serving.contenders import HOST, Contender, Running, collect, offer, run, wait_until_it_answers
from tests.bench.serving.prepare import LOOP, Prepared

SWAP_SECONDS = 0.5  # between the end of a swap and the next one
KILL_AFTER_SECONDS = 2.0
GRACE_SECONDS = 30.0


def swap_under_load(
    running: Running, prepared: Prepared, bodies: Path, token: str, swaps: int, connections: int
) -> dict[str, Any]:
    """Return failures and p99 with and without swaps, measured in turns on one service."""
    seconds = 15.0
    calm = [collect(offer(running, bodies, connections, seconds), seconds)]
    limit = swaps * 10.0
    load = offer(running, bodies, connections, limit)
    times: list[float] = []
    with httpx.Client(base_url=f"http://{HOST}:{running.port}", timeout=120.0) as client:
        for number in range(swaps):
            version = prepared.versions[(number + 1) % 2]
            started = time.perf_counter()
            answer = client.post(
                f"/v1/admin/loops/{LOOP}/release",
                json={"version": version},
                headers={"Authorization": f"Bearer {token}"},
            )
            answer.raise_for_status()
            assert answer.json()["status"] == "serving"
            times.append(time.perf_counter() - started)
            if load.poll() is not None:
                raise RuntimeError(f"the load ended after {number} swaps")
            time.sleep(SWAP_SECONDS)
    load.terminate()
    swapped = collect(load, limit)
    calm.append(collect(offer(running, bodies, connections, seconds), seconds))
    p99 = sum(one["p99_ms"] for one in calm) / len(calm)
    return {
        "swaps": swaps,
        "failed": swapped["failed"],
        "answered": swapped["answered"],
        "p99_ms": swapped["p99_ms"],
        "p99_ms_without": p99,
        "p99_ratio": swapped["p99_ms"] / p99,
        "seconds_per_swap": sorted(times)[len(times) // 2],
    }


def kill_under_load(
    contender: Contender, bodies: Path, database: Path, key_id: str, log: Path, kills: int, connections: int
) -> dict[str, Any]:
    """Return how many answered predictions are not in the log after kills of the process, and usage against the log.

    Each round starts the service, loads it, kills it with SIGKILL in the middle, and looks at the log when it answers
    again.
    """
    ids = log.with_suffix(".ids")
    ids.unlink(missing_ok=True)
    for _ in range(kills):
        with run(contender, log) as running:
            load = offer(running, bodies, connections, KILL_AFTER_SECONDS + 1.0, ids)
            with _killed(running.process, KILL_AFTER_SECONDS):
                collect(load, KILL_AFTER_SECONDS)
    answered = set(ids.read_text(encoding="utf-8").split())
    with run(contender, log) as running, closing(sqlite3.connect(database)) as connection:
        wait_until_it_answers(running, log)
        kept = {row[0] for row in connection.execute("SELECT prediction_id FROM predictions")}
        texts = connection.execute("SELECT count(*) FROM predictions WHERE key_id = ?", (key_id,)).fetchone()[0]
        url = f"http://{HOST}:{running.port}/v1/usage"
        usage = httpx.get(url, headers=dict(contender.headers), timeout=60.0).json()
    return {
        "kills": kills,
        "answered": len(answered),
        "lost": len(answered - kept),
        "usage_minus_log": sum(row["texts"] for row in usage) - texts,
    }


@contextmanager
def _killed(process: "subprocess.Popen[bytes]", after_seconds: float) -> Iterator[None]:
    timer = threading.Timer(after_seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()
        process.wait(GRACE_SECONDS)


def with_key(running: Running, token: str) -> tuple[Running, str]:
    """Return the service as a customer asks it, with a new key whose plan has every limit, and the key's id."""
    url = f"http://{HOST}:{running.port}/v1/admin/keys"
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(url, json={"name": "bench", "plan": "bench"}, headers=headers, timeout=30.0)
    answer.raise_for_status()
    made = answer.json()
    contender = replace(running.contender, headers={"Authorization": f"Bearer {made['secret']}"})
    return replace(running, contender=contender), str(made["key_id"])
