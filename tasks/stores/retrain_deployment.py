"""The retrain deployment of a loop, as Prefect keeps it: whether it is busy, and how it is started."""

from dataclasses import dataclass
from datetime import datetime

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from tasks.core.errors import TransientError
from tasks.stores.ledger import StartedBy

BUSY = [StateType.RUNNING, StateType.PENDING, StateType.PAUSED, StateType.CANCELLING]


@dataclass(frozen=True)
class Start:
    """Whether a retrain began: its flow run, or None and why not."""

    flow_run_id: str | None
    note: str


def start_deployment(loop: str, idempotency_key: str, started_by: StartedBy = "drift") -> Start:
    """Start the loop's retrain deployment; the same key gives the same flow run. Does not wait for its end.

    Raises TransientError when Prefect does not answer.
    """
    if not has_server():
        return Start(None, f"it cannot be started without a running stack; by hand: evertune retrain {loop}")
    try:
        flow_run = run_deployment(
            f"retrain/{loop}",
            parameters={"loop": loop, "started_by": started_by},
            timeout=0,
            as_subflow=False,
            idempotency_key=idempotency_key,
        )
    except ObjectNotFound:
        return Start(None, f"there is no deployment retrain/{loop}; by hand: evertune retrain {loop}")
    except httpx.HTTPError as error:
        raise TransientError(f"Prefect could not start retrain/{loop}: {error}") from error
    if not isinstance(flow_run, FlowRun):
        raise TypeError("run_deployment is awaited only in asynchronous code")
    return Start(str(flow_run.id), f"retrain {flow_run.name} started")


def is_retraining(loop: str, now: datetime) -> bool:
    """Say whether a retrain of the loop runs, waits for a person, or is due. Without a server none can be."""
    if not has_server():
        return False
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=[*BUSY, StateType.SCHEDULED]))
    try:
        with get_client(sync_client=True) as client:
            flow_runs = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=["retrain"])),
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[loop])),
                flow_run_filter=FlowRunFilter(state=states),
            )
    except httpx.HTTPError as error:
        raise TransientError(f"Prefect could not list the retrains of {loop}: {error}") from error
    return any(flow_run.state_type in BUSY or _is_due(flow_run, now) for flow_run in flow_runs)


def has_server() -> bool:
    """Say whether flow runs belong to a stack; a flow in a process of its own can start no other."""
    return get_current_settings().api.url is not None


def _is_due(flow_run: FlowRun, now: datetime) -> bool:
    return flow_run.next_scheduled_start_time is not None and flow_run.next_scheduled_start_time <= now
