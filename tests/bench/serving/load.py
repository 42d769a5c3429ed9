"""A load generator of its own process: so many connections, each asks again as soon as it was answered.

    python -m tests.bench.serving.load PLAN.json

The plan names host, port, path, headers, a jsonl file of bodies, connections, seconds, and optionally a file for the
prediction ids that were answered. SIGTERM ends it early. Prints one JSON line. Plain asyncio streams of bytes: a client
library would cost more than the fastest of the servers.
"""

import asyncio
import json
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

import numpy as np

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
PREDICTION_ID = re.compile(rb'"prediction_id": ?"([0-9a-f]+)"')
LAST_CHUNK = b"\r\n0\r\n\r\n"
RECONNECT_SECONDS = 0.05
GIVE_UP_SECONDS = 30.0


@dataclass
class Tally:
    """What was answered until now; seconds from the first byte sent to the last byte read."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    broken: int = 0  # requests without an answer
    until: float = 0.0  # on the clock of `time.perf_counter`

    def summary(self, wall_seconds: float) -> dict[str, Any]:
        """Return the figures of the run; latencies in milliseconds, of answers with status 200."""
        latencies = 1000 * np.array(self.seconds or [float("nan")])
        answered = self.statuses.get(200, 0)
        return {
            "requests_per_second": answered / wall_seconds,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "answered": answered,
            "failed": sum(self.statuses.values()) - answered + self.broken,
            "broken": self.broken,
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
            "seconds": wall_seconds,
        }


async def offer_load(plan: dict[str, Any]) -> dict[str, Any]:
    """Keep every connection busy for the plan's time and return the summary."""
    requests = [_request(plan, body) for body in Path(plan["bodies"]).read_bytes().splitlines()]
    started = time.perf_counter()
    tally, turn = Tally(until=started + plan["seconds"]), count()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: setattr(tally, "until", 0.0))
    ids = Path(plan["ids"]).open("ab") if plan.get("ids") else None  # noqa: SIM115 - closed below
    try:
        workers = (_keep_asking(plan, requests, turn, tally, ids) for _ in range(plan["connections"]))
        await asyncio.gather(*workers)
    finally:
        if ids is not None:
            ids.close()
    return tally.summary(time.perf_counter() - started)


async def _keep_asking(
    plan: dict[str, Any],
    requests: list[bytes],
    turn: "count[int]",
    tally: Tally,
    ids: IO[bytes] | None,
) -> None:
    while time.perf_counter() < tally.until:
        try:
            reader, writer = await asyncio.open_connection(plan["host"], plan["port"])
        except OSError:
            await asyncio.sleep(RECONNECT_SECONDS)  # a server that restarts
            continue
        try:
            while time.perf_counter() < tally.until:
                started = time.perf_counter()
                writer.write(requests[next(turn) % len(requests)])
                status, body = await asyncio.wait_for(_read_answer(reader), GIVE_UP_SECONDS)
                tally.statuses[status] = tally.statuses.get(status, 0) + 1
                if status == 200:
                    tally.seconds.append(time.perf_counter() - started)
                    if ids is not None:
                        ids.writelines(found + b"\n" for found in PREDICTION_ID.findall(body))
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            tally.broken += 1
        finally:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = LENGTH.search(head)
    if length is not None:
        return status, await reader.readexactly(int(length[1]))
    if b"chunked" in head.lower():
        return status, await reader.readuntil(LAST_CHUNK)
    return status, b""


def _request(plan: dict[str, Any], body: bytes) -> bytes:
    headers = {"Host": plan["host"], "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in {**headers, **plan["headers"]}.items()]
    return "\r\n".join([f"POST {plan['path']} HTTP/1.1", *lines, "", ""]).encode() + body


if __name__ == "__main__":
    print(json.dumps(asyncio.run(offer_load(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))
