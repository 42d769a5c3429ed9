"""What `up` does once the servers run, with a service that answers, does not answer, or does not know."""

import threading
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from configs.settings import Settings
from infra import startup
from infra.service_client import ServiceClient
from infra.startup import bring_to_life
from infra.status import read_loop_status
from tasks.core.errors import TransientError
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger, RetrainRow

DOWN = TransientError("the service at http://127.0.0.1:8000 does not answer")


class Stack:
    """A stack whose servers run, as far as it says."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        self.loops = [SimpleNamespace(name="toy")]
        self.stop_requested = threading.Event()
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Service:
    """Gives its answers in turn, the last one for ever; an answer that is an error is raised."""

    def __init__(self, ready: list[bool], champions: list[str | TransientError | None]) -> None:
        self._ready = ready
        self._champions = champions

    def is_ready(self) -> bool:
        return bool(self._next(self._ready))

    def champion_version(self, _loop: str) -> str | None:
        answer: str | None = self._next(self._champions)
        return answer

    def _next(self, answers: list[Any]) -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, TransientError):
            raise answer
        return answer


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The loops for which a first retrain was started."""
    started: list[str] = []

    def train(_stack: object, _service: object, loop: str) -> int:
        started.append(loop)
        return 0

    monkeypatch.setattr(startup, "SERVING_SECONDS", 0.6)
    monkeypatch.setattr(startup, "train_first_model", train)
    return started


def start(home: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[str]]:
    stack: Any = Stack(home)
    monkeypatch.setattr(startup, "ServiceClient", lambda _settings: service)
    return bring_to_life(stack, train_first=True), stack.lines


@pytest.mark.parametrize(
    ("ready", "champions", "loops", "code", "told"),
    [
        ([True], [None], ["toy"], 0, ""),
        ([False, True], [DOWN, None], ["toy"], 0, ""),
        ([True], ["3"], [], 0, ""),
        ([True], [DOWN, "3"], [], 0, ""),
        ([False], [None], [], 1, "the prediction service is not ready after 1 s"),
        ([True], [DOWN], [], 1, "toy: the service does not say whether it has a champion, so no first model"),
    ],
)
def test_a_first_model_is_trained_only_where_there_is_none(
    ready: list[bool],
    champions: list[str | TransientError | None],
    loops: list[str],
    code: int,
    told: str,
    trained: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended, lines = start(tmp_path, Service(list(ready), list(champions)), monkeypatch)
    assert (ended, trained) == (code, loops)
    assert told in "\n".join(lines)
    assert any(line.startswith("curl ") for line in lines)


@pytest.mark.usefixtures("trained")
def test_the_key_is_shown_on_a_terminal_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
        home = tmp_path / str(terminal)
        home.mkdir()
        _, lines = start(home, Service([True], ["1"]), monkeypatch)
        (said,) = [line for line in lines if line.startswith("API key")]
        secret = (home / "first.key").read_text(encoding="utf-8").strip()
        assert (secret in said) is terminal
        assert str(home / "first.key") in said
        assert (secret in "\n".join(lines)) is terminal


def test_a_service_that_cannot_say_is_not_one_without_a_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.model_validate({"home": tmp_path, "operator_token": "t"})
    Ledger(open_database(settings.database)).append_audit("toy", "promote", "eve", "", None, "3", datetime.now(UTC))
    monkeypatch.setattr("infra.service_client.httpx.request", lambda *_, **__: httpx.Response(503, text="busy"))
    monkeypatch.setattr("infra.service_client.answers", lambda _url: True)
    with pytest.raises(TransientError, match="the service answered 503: busy"):
        ServiceClient(settings).champion_version("toy")
    assert read_loop_status(settings, "toy").champion == "3"  # what the audit log ends with


@pytest.mark.parametrize(
    ("record", "waits", "became"),
    [
        ({"released": "serving"}, False, "serving"),
        ({"released": "pending"}, False, "pending"),
        ({"released": "refused"}, False, "refused"),
        ({"released": "not promoted"}, False, "not promoted"),
        ({"released": "awaiting approval"}, True, "awaiting approval"),
        ({"status": "skipped"}, False, "None"),
        ({"status": "skipped"}, True, "awaiting approval"),  # nothing new, for the version waits already
        (None, False, "pending"),  # no row: it may serve soon
    ],
)
def test_what_became_of_the_first_retrain(
    record: dict[str, Any] | None, waits: bool, became: str, tmp_path: Path
) -> None:
    stack: Any = Stack(tmp_path)
    ledger = Ledger(open_database(stack.settings.database))
    if record is not None:
        ledger.append_retrain(RetrainRow("flow-1", datetime.now(UTC), "toy", "person", "trained", "1", record))
    if waits:
        ledger.append_audit("toy", "ask", "retrain", "ok", None, "1", datetime.now(UTC))
    assert startup._what_became(stack, SimpleNamespace(flow_run_id="flow-1")) == became
