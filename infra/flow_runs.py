"""Flow runs as the stack and the command line see them: started, followed to the end, cancelled, swept up.

Imports Prefect: import this module only where a flow is about to run.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    LogFilter,
    LogFilterFlowRunId,
    WorkerFilter,
    WorkerFilterStatus,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectException, PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed, Pending

from configs.load import ConfigError
from configs.settings import WORK_POOL
from infra.log_lines import format_log
from tasks.core.errors import TransientError
from tasks.stores.approval_runs import SUSPENDED

ACTIVE = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING, StateType.PAUSED]
POLL_SECONDS = 0.5
LOG_PAGE = 200


@dataclass(frozen=True)
class Ended:
    """A flow run that came to its end."""

    flow_run_id: str
    name: str
    state: State[Any]

    @property
    def is_completed(self) -> bool:
        """Say whether the flow did all it should."""
        return self.state.is_completed()


def start_flow_run(deployment: str, parameters: Mapping[str, Any]) -> FlowRun:
    """Start a deployment's flow run; raises ConfigError when there is none or Prefect refuses the parameters."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
            return client.create_flow_run_from_deployment(found.id, parameters=dict(parameters))
        except ObjectNotFound as error:
            raise ConfigError(
                f"{deployment} is not registered with this stack; restart it: evertune down, evertune up"
            ) from error
        except PrefectHTTPStatusError as error:
            if error.response.status_code in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
                raise ConfigError(f"{deployment}: {error.response.json().get('detail', error)}") from error
            raise TransientError(f"{deployment}: {error}") from error


def resume_flow_run(flow_run_id: UUID, answer: Mapping[str, Any]) -> None:
    """Give a suspended flow run its input; raises TransientError when Prefect does not take it."""
    with get_client(sync_client=True) as client:
        answered = client.resume_flow_run(flow_run_id, run_input=dict(answer))
    if answered.status != SetStateStatus.ACCEPT:
        reason = getattr(answered.details, "reason", None) or answered.status
        raise TransientError(f"the flow run does not wait any more: {reason}")


def follow(
    flow_run_id: UUID, say: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False
) -> Ended | None:
    """Print a flow run's log lines as they come until it ends; None when told to stop before."""
    with get_client(sync_client=True) as client:
        tail = _LogTail(client, flow_run_id)
        waiting_for = ""
        while not should_stop():
            flow_run = client.read_flow_run(flow_run_id)
            state: State[Any] = flow_run.state or Pending()
            for line in tail.new_lines():
                say(line)
            if state.is_final():
                time.sleep(POLL_SECONDS)  # the run's last lines are sent as it exits
                for line in tail.new_lines():
                    say(line)
                return Ended(str(flow_run_id), flow_run.name, state)
            if state.name != waiting_for and (hint := _waiting_hint(state)):
                say(hint)
            waiting_for = state.name or ""
            time.sleep(POLL_SECONDS)
    return None


def sweep_zombies() -> int:
    """Mark the pool's active flow runs as crashed: no worker runs yet, so nothing can be running them."""
    with get_client(sync_client=True) as client:
        zombies = _active_runs(client)
        for flow_run in zombies:
            state: State[Any] = Crashed(message="The stack was stopped while this run was active.")
            client.set_flow_run_state(flow_run.id, state, force=True)
    return len(zombies)


def cancel_active_runs(grace_seconds: float) -> int:
    """Cancel the pool's active flow runs and wait until the worker ended them; force the state of what remains."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        runs = _active_runs(client)
        for flow_run in runs:
            state: State[Any] = Cancelling(message="The stack is being stopped.")
            client.set_flow_run_state(flow_run.id, state, force=True)
        deadline = time.monotonic() + grace_seconds
        while (rest := _active_runs(client)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        for flow_run in rest:
            state = Cancelled(message="The stack was stopped.")
            client.set_flow_run_state(flow_run.id, state, force=True)
    return len(runs)


def has_online_worker() -> bool:
    """Say whether a worker serves the pool."""
    with get_client(sync_client=True) as client:
        online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE.value]))
        return bool(client.read_workers_for_work_pool(WORK_POOL, worker_filter=online))


# RuntimeError: what a client raises, on being opened, when its server cannot be reached.
PREFECT_ERRORS: tuple[type[Exception], ...] = (PrefectException, httpx.HTTPError, RuntimeError)


class _LogTail:
    """The log lines of one flow run, each once."""

    def __init__(self, client: SyncPrefectClient, flow_run_id: UUID) -> None:
        self._client = client
        self._filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
        self._seen: set[UUID] = set()
        self._offset = 0

    def new_lines(self) -> Iterator[str]:
        """Yield what came since the last call."""
        while True:
            # Lines of task threads can arrive late and sort before seen ones: look back one page.
            start = max(0, self._offset - LOG_PAGE // 2)
            page = self._client.read_logs(self._filter, LOG_PAGE, start, LogSort.TIMESTAMP_ASC)
            yield from _format_new(page, self._seen)
            self._offset = start + len(page)
            if len(page) < LOG_PAGE:
                return


def _format_new(page: Collection[Any], seen: set[UUID]) -> Iterator[str]:
    for log in page:
        if log.id not in seen:
            seen.add(log.id)
            line = format_log(log.level, log.message)
            if line is not None:
                yield f"{log.timestamp.astimezone():%H:%M:%S}  {line}"


def _waiting_hint(state: State[Any]) -> str | None:
    hints = {
        "AwaitingConcurrencySlot": "waiting: another run of this deployment is active",
        "Late": "waiting: no worker has taken the run yet; is the stack up? evertune status",
    }
    return hints.get(state.name or "")


def _active_runs(client: SyncPrefectClient) -> list[FlowRun]:
    """Return the pool's runs that a process works on; a suspended one has none, and waits across restarts."""
    active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ACTIVE)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    found = client.read_flow_runs(flow_run_filter=active, work_pool_filter=pool, limit=200)
    return [run for run in found if run.state_name != SUSPENDED]
