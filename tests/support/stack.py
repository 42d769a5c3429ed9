"""A whole stack on free ports with a toy loop: real servers, real worker, and a sink for its alerts."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from infra.demo.sink import AlertSink
from infra.environment import ROOT
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop

SINK_VARIABLE = "EVERTUNE_TEST_SINK"


@dataclass
class StackUnderTest:
    """A home with its loops and ports, and the command line that runs against it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Return EVERTUNE_HOME."""
        return Path(self.environment["EVERTUNE_HOME"])

    @property
    def api(self) -> str:
        """Return the URL of the prediction service."""
        return f"http://127.0.0.1:{self.environment['EVERTUNE_API_PORT']}"

    @property
    def prefect_api(self) -> str:
        """Return the URL of Prefect's API."""
        return f"http://127.0.0.1:{self.environment['EVERTUNE_PREFECT_PORT']}/api"

    def run(self, *words: str, seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
        """Run `evertune WORDS` to its end."""
        command = [sys.executable, "-m", "infra.cli", *words]
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=False
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `evertune WORDS` and return at once; its lines come through stdout."""
        command = [sys.executable, "-m", "infra.cli", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def run_python(self, code: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run some code as a flow run's process would."""
        environment = {
            **self.environment,
            "PREFECT_API_URL": self.prefect_api,
            "PREFECT_HOME": str(self.home / "prefect"),
        }
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=seconds, check=True
        )

    def status(self) -> dict[str, Any]:
        """Return what `evertune status --json` says."""
        found: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return found

    def prefect(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """Ask Prefect's API again while its SQLite database is held by another writer (503), as its own client does."""
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers.append(httpx.request(method, f"{self.prefect_api}{path}", json=body, timeout=20))
            return answers[-1].status_code != httpx.codes.SERVICE_UNAVAILABLE

        wait_until(is_answered)
        response = answers[-1]
        response.raise_for_status()
        return response.json() if response.content else None


def make_stack(folder: Path, sink: AlertSink | None = None) -> StackUnderTest:
    """Return a stack that is not started: its own home, ports and toy loop."""
    alerts = [{"name": "sink", "url_from": SINK_VARIABLE}]
    file = write_toy_loop(folder / "loops", alerts=alerts)
    loop = yaml.safe_load(file.read_text(encoding="utf-8"))
    loop["training"] |= {"epochs": 5, "evaluations_per_epoch": 1}  # enough for a champion, in half the time
    loop["data"]["feedback"] = {"reviewed_keys": ["*"], "complete_keys": ["*"]}  # who sends labels here is us
    file.write_text(yaml.safe_dump(loop), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("EVERTUNE_", "PREFECT_"))}
    environment |= {
        "EVERTUNE_HOME": str(folder / "home"),
        "EVERTUNE_LOOPS_DIR": str(folder / "loops"),
        "PYTHONPATH": str(ROOT),
    }
    environment |= {f"EVERTUNE_{server}_PORT": str(free_port()) for server in ("PREFECT", "MLFLOW", "API")}
    if sink is not None:
        environment[SINK_VARIABLE] = sink.apprise_url
    return StackUnderTest(folder, environment)


def wait_for_alert(sink: AlertSink, words: str, seconds: float = 30.0) -> dict[str, Any]:
    """Return the first alert whose title holds some words, and forget it and those before it."""
    wait_until(lambda: any(words in alert["title"] for alert in sink.received), seconds)
    while True:
        alert = sink.received.pop(0)
        if words in alert["title"]:
            return alert


def wait_until(claim: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once a claim holds; fails when it does not in time."""
    never = threading.Event()
    for _ in range(int(seconds / 0.2)):
        if claim():
            return
        never.wait(0.2)
    raise AssertionError(f"not true after {seconds:.0f} s: {claim}")
