"""The servers that are compared: how each is started, asked, and how much of the machine it takes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.ports import find_free_port

HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 30.0
RIVALS = Path(__file__).parent / "rivals"


@dataclass(frozen=True)
class Contender:
    """A server; `{port}` in its command and environment becomes the port it is given."""

    name: str
    command: tuple[str, ...]
    path: str  # of the route that answers one text
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = "text"  # which of `bodies` it takes


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    contender: Contender
    port: int
    process: "subprocess.Popen[bytes]"

    def usage(self) -> tuple[float, float]:
        """Return the seconds of CPU that the server and its children took until now, and their memory in MB."""
        root = psutil.Process(self.process.pid)
        seconds, memory = 0.0, 0.0
        for one in [root, *root.children(recursive=True)]:
            try:
                times = one.cpu_times()
                seconds += times.user + times.system
                memory += one.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
        return seconds, memory


def bodies(kind: str, texts: Sequence[str]) -> list[str]:
    """Return one request body per text, in the words of a server's route."""
    if kind == "mlflow":
        return [json.dumps({"dataframe_records": [{"text": text}]}) for text in texts]
    return [json.dumps({"text": text}) for text in texts]


@contextmanager
def run(contender: Contender, log: Path) -> Iterator[Running]:
    """Start a server, wait until it answers a text, and end it with its children."""
    port = find_free_port()
    command = [part.replace("{port}", str(port)) for part in contender.command]
    extra = {name: value.replace("{port}", str(port)) for name, value in contender.environment.items()}
    with log.open("ab") as file:
        process = subprocess.Popen(command, env={**os.environ, **extra}, stdout=file, stderr=file)
    running = Running(contender, port, process)
    try:
        wait_until_it_answers(running, log)
        yield running
    finally:
        stop(process)


def wait_until_it_answers(running: Running, log: Path) -> None:
    """Ask until a text is answered; raises RuntimeError with the log's end where it never is."""
    deadline = time.monotonic() + START_SECONDS
    (body,) = bodies(running.contender.body, ["It works well."])
    headers = {"Content-Type": "application/json", **running.contender.headers}
    last = "no answer"
    while time.monotonic() < deadline and running.process.poll() is None:
        try:
            url = f"http://{HOST}:{running.port}{running.contender.path}"
            response = httpx.post(url, content=body, headers=headers, timeout=30.0)
            if response.is_success:
                return
            last = f"{response.status_code} {response.text[:200]}"
        except httpx.TransportError as error:
            last = type(error).__name__
        time.sleep(0.1)
    raise RuntimeError(f"{running.contender.name}: {last}; {log}: {log.read_text(errors='replace')[-1500:]}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server and what it started, gently first."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for one in alive:
        one.kill()
    process.wait(timeout=STOP_SECONDS)


def offer(running: Running, texts_file: Path, connections: int, seconds: float, ids: Path | None = None) -> Any:
    """Start the load of a number of connections in a process of its own; `collect` waits for its figures."""
    plan = {
        "host": HOST,
        "port": running.port,
        "path": running.contender.path,
        "headers": dict(running.contender.headers),
        "bodies": str(texts_file),
        "connections": connections,
        "seconds": seconds,
        "ids": str(ids) if ids else None,
    }
    file = Path(tempfile.mkstemp(suffix=".json", dir=texts_file.parent)[1])
    file.write_text(json.dumps(plan), encoding="utf-8")
    command = [sys.executable, "-m", "tests.bench.serving.load", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def collect(load: "subprocess.Popen[bytes]", seconds: float) -> dict[str, Any]:
    """Return the figures of a load that was offered."""
    out, _ = load.communicate(timeout=seconds + 120)
    if load.returncode:
        raise RuntimeError(f"the load generator ended with {load.returncode}")
    figures: dict[str, Any] = json.loads(out)
    return figures


def measure(running: Running, texts_file: Path, connections: int, seconds: float) -> dict[str, Any]:
    """Return a load's figures, with the CPU that each answer took and the memory at its end."""
    before, _ = running.usage()
    figures = collect(offer(running, texts_file, connections, seconds), seconds)
    after, memory = running.usage()
    figures["cpu_ms_per_request"] = 1000 * (after - before) / max(1, figures["answered"])
    figures["memory_mb"] = memory
    return figures
