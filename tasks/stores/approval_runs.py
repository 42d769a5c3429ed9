"""The flow runs in which Prefect asks people about a version: started, found while they wait, ended."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelled

from configs.settings import Settings
from tasks.core.errors import TransientError
from tasks.stores.retrain_deployment import has_server

FLOW = "approve"
SUSPENDED = "Suspended"
NOT_ENDED = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
# RuntimeError: what a client raises, on being opened, when its server cannot be reached.
UNANSWERED = (httpx.HTTPError, PrefectException, RuntimeError)


@dataclass(frozen=True)
class AskingRun:
    """A flow run that asks about a version, and its page."""

    flow_run_id: UUID
    version: str | None  # None: whichever waits, in a run that a person started
    url: str
    is_suspended: bool
    can_resume: bool  # suspended, and its deployment, which would go on with it, is still there


def start_asking(loop: str, version: str, key: str, settings: Settings) -> str | None:
    """Start the flow run that asks about a version, once per key; return its page, or None where nothing can ask.

    Without a server, or for a loop whose deployment is not registered, there is no such run. Raises TransientError when
    Prefect does not answer.
    """
    if not has_server():
        return None
    parameters = {"loop": loop, "version": version}
    name = f"{FLOW}/{loop}"
    try:
        run = run_deployment(name, parameters=parameters, timeout=0, as_subflow=False, idempotency_key=key)
    except ObjectNotFound:
        return None
    except UNANSWERED as error:
        raise TransientError(f"Prefect could not start {name}: {error}") from error
    if not isinstance(run, FlowRun):
        raise TypeError("run_deployment is awaited only in asynchronous code")
    return page_of(run.id, settings)


def list_asking(loop: str, settings: Settings) -> list[AskingRun]:
    """Return the runs that ask about a loop and have not ended, but this one; none without a server."""
    if not has_server():
        return []
    states = FlowRunFilterState(type=FlowRunFilterStateType(any_=NOT_ENDED))
    try:
        with get_client(sync_client=True) as client:
            runs = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])), flow_run_filter=FlowRunFilter(state=states)
            )
    except UNANSWERED as error:
        raise TransientError(f"Prefect could not list who asks about {loop}: {error}") from error
    return [
        _read(run, settings) for run in runs if run.parameters.get("loop") == loop and str(run.id) != str(this_run.id)
    ]


def _read(run: FlowRun, settings: Settings) -> AskingRun:
    is_suspended = run.state_name == SUSPENDED
    can_resume = is_suspended and run.deployment_id is not None
    return AskingRun(run.id, run.parameters.get("version"), page_of(run.id, settings), is_suspended, can_resume)


def stop_asking(loop: str, versions: Collection[str | None], reason: str, settings: Settings) -> None:
    """End the suspended runs that ask about one of some versions (None: about whichever waits).

    The question was answered elsewhere, or stands no more.
    """
    for run in list_asking(loop, settings):
        if run.version in versions and run.is_suspended:
            state: State[None] = Cancelled(message=reason)
            try:
                with get_client(sync_client=True) as client:
                    client.set_flow_run_state(run.flow_run_id, state, force=True)
            except UNANSWERED as error:
                raise TransientError(f"Prefect could not end {run.url}: {error}") from error


def page_of(flow_run_id: UUID, settings: Settings) -> str:
    """Return a flow run's page in Prefect's UI."""
    return f"{settings.prefect_api.removesuffix('/api')}/runs/flow-run/{flow_run_id}"
