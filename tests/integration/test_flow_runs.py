"""Flow runs asked for and followed while Prefect does not know them, or does not answer."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from configs.load import ConfigError
from configs.settings import Settings
from infra import flow_runs
from infra.flow_runs import start_flow_run
from infra.running import _run_by_worker
from infra.startup import train_first_model
from tasks.core.errors import TransientError
from tests.support.ports import free_port

RUN = SimpleNamespace(id=UUID(int=7), name="brave-newt")
NOT_REGISTERED = "monitor/toy is not registered with this stack; restart it: evertune down, evertune up"


class NothingRegistered:
    """A Prefect server without deployments."""

    def read_deployment_by_name(self, name: str) -> Any:
        raise ObjectNotFound(RuntimeError(f"404 for {name}"))


@contextmanager
def nothing_registered(**_named: object) -> Any:
    yield NothingRegistered()


def test_a_deployment_that_is_not_registered_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_runs, "get_client", nothing_registered)
    with pytest.raises(ConfigError, match=NOT_REGISTERED):
        start_flow_run("monitor/toy", {"loop": "toy"})


def test_prefect_that_is_gone_before_the_start_is_one_line() -> None:
    gone = {PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    told = r"^monitor of toy cannot be started: (RuntimeError: Failed to reach API at|ConnectError: )"
    with temporary_settings(gone), pytest.raises(TransientError, match=told):
        _run_by_worker("monitor", "toy", {}, Settings(), print)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx.ConnectError("All connection attempts failed\nhint"), "ConnectError: All connection attempts failed"),
        (httpx.ReadTimeout(""), "ReadTimeout"),
        (ObjectNotFound(RuntimeError("404"), help_message="no such run"), "ObjectNotFound: no such run"),
    ],
)
def test_prefect_that_goes_away_meanwhile_is_one_line(
    error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(flow_runs, "start_flow_run", lambda *_arguments: RUN)
    monkeypatch.setattr(flow_runs, "follow", fail)
    with pytest.raises(TransientError) as caught:
        _run_by_worker("monitor", "toy", {}, Settings(prefect_port=4200), print)
    url = f"http://127.0.0.1:4200/runs/flow-run/{RUN.id}"
    assert str(caught.value) == f"the flow run cannot be followed ({told}); it may go on: {url}"


@pytest.mark.parametrize("error", [ConfigError(NOT_REGISTERED), TransientError("409"), httpx.ConnectError("refused")])
def test_a_first_retrain_that_cannot_start_does_not_end_the_stack(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(flow_runs, "start_flow_run", fail)
    lines: list[str] = []
    stack: Any = SimpleNamespace(settings=Settings(home=tmp_path), say=lines.append)
    service: Any = None
    assert train_first_model(stack, service, "toy") == 1
    assert lines[-1] == f"toy: the retrain cannot be followed: {error}"
