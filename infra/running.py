"""Runs a flow for the command line: by the stack's worker where a stack runs, else in this process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from configs.load import ConfigError
from configs.settings import Settings
from infra.environment import build_environment, without_server, write_logging_config
from infra.log_lines import print_lines
from infra.service_client import answers
from tasks.core.errors import DataError, TransientError


@dataclass(frozen=True)
class FlowOutcome:
    """What a flow returned, and where to look at its run."""

    result: dict[str, Any] | None
    flow_run_id: str
    url: str | None


class FlowFailedError(RuntimeError):
    """A flow run did not complete; the message says how it ended, and where to look."""


def run_flow(
    name: str, loop: str, parameters: dict[str, Any], settings: Settings, say: Callable[[str], None], here: bool = False
) -> FlowOutcome:
    """Run a flow of a loop to its end, saying its log lines.

    `here` forces this process, for a YAML that the stack does not know. Raises ConfigError or DataError when the flow
    ended with one, and FlowFailedError for every other end.
    """
    has_server = prepare_process(settings)
    if has_server and not here:
        return _run_by_worker(name, loop, parameters, settings, say)
    return _run_here(name, parameters, settings if has_server else None, say)


def prepare_process(settings: Settings) -> bool:
    """Give this process the environment of a flow run, before Prefect is imported; say whether a server answers."""
    has_server = answers(f"{settings.prefect_api}/health")
    if not has_server and settings.prefect_url is not None:
        raise TransientError(f"Prefect at {settings.prefect_url} (EVERTUNE_PREFECT_URL) does not answer")
    environment = build_environment(settings, os.environ, Path.cwd())
    write_logging_config(settings.root / "prefect")
    os.environ.update(environment if has_server else without_server(environment, settings))
    if not has_server:
        os.environ.pop("PREFECT_API_URL", None)
    return has_server


def resume_flow(flow_run_id: UUID, answer: dict[str, Any], url: str, say: Callable[[str], None]) -> FlowOutcome:
    """Give a suspended flow run its input and follow it to its end; raises as `run_flow` does."""
    from infra.flow_runs import PREFECT_ERRORS, resume_flow_run

    try:
        resume_flow_run(flow_run_id, answer)
    except PREFECT_ERRORS as error:
        raise TransientError(f"the flow run cannot be resumed: {_first_line(error)}\n{url}") from error
    say(f"answered; the flow run goes on: {url}")
    return _follow_to_end(flow_run_id, url, say)


def _run_by_worker(
    name: str, loop: str, parameters: dict[str, Any], settings: Settings, say: Callable[[str], None]
) -> FlowOutcome:
    from infra.flow_runs import PREFECT_ERRORS, start_flow_run

    try:
        run = start_flow_run(f"{name}/{loop}", parameters)
    except PREFECT_ERRORS as error:
        raise TransientError(f"{name} of {loop} cannot be started: {_first_line(error)}") from error
    url = f"{settings.prefect_api.removesuffix('/api')}/runs/flow-run/{run.id}"
    say(f"flow run {run.name}: {url}")
    return _follow_to_end(run.id, url, say)


def _follow_to_end(flow_run_id: UUID, url: str, say: Callable[[str], None]) -> FlowOutcome:
    from infra.flow_runs import PREFECT_ERRORS, follow

    try:
        ended = follow(flow_run_id, say)
    except KeyboardInterrupt:
        say(f"the flow run goes on: {url}")
        raise
    except PREFECT_ERRORS as error:
        raise TransientError(f"the flow run cannot be followed ({_first_line(error)}); it may go on: {url}") from error
    if ended is None:
        raise FlowFailedError(f"the flow run was left before its end\n{url}")
    if not ended.is_completed:
        _raise_for(ended.state.name or "", ended.state.message or "", url)
    return FlowOutcome(_stored_result(ended.state), ended.flow_run_id, url)


def _run_here(
    name: str, parameters: dict[str, Any], settings: Settings | None, say: Callable[[str], None]
) -> FlowOutcome:
    flow = _find_flow(name)
    print_lines(say)
    state = flow(**parameters, return_state=True)
    run_id = str(state.state_details.flow_run_id)
    url = f"{settings.prefect_api.removesuffix('/api')}/runs/flow-run/{run_id}" if settings else None
    if not state.is_completed():
        error = state.result(raise_on_failure=False)
        if isinstance(error, ConfigError | DataError | TransientError):
            raise error
        _raise_for(state.name or "", state.message or "", url)
    result: dict[str, Any] = state.result()
    return FlowOutcome(result, run_id, url)


def _find_flow(name: str) -> Any:
    if name == "retrain":
        from flows.retrain import retrain

        return retrain
    if name == "monitor":
        from flows.monitor import monitor

        return monitor
    if name == "score":
        from flows.score import score

        return score
    if name == "tune":
        from flows.tune import tune

        return tune
    if name == "approve":
        from flows.approve import approve

        return approve
    from flows import release

    return {"release": release.release, "rollback": release.rollback}[name]


def _stored_result(state: Any) -> dict[str, Any] | None:
    """Return what the flow returned, if it keeps its result where this machine can read it."""
    from prefect.exceptions import MissingResult

    try:
        result: dict[str, Any] = state.result()
    except MissingResult:
        return None
    return result


def _first_line(error: Exception) -> str:
    told = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


def _raise_for(state: str, message: str, url: str | None) -> None:
    """Raise the error that a failed run's message names: `Flow run encountered an exception: DataError: …`."""
    _, _, text = message.partition("encountered an exception: ")
    for kind in (ConfigError, DataError, TransientError):
        if text.startswith(f"{kind.__name__}: "):
            raise kind(text.removeprefix(f"{kind.__name__}: "))
    raise FlowFailedError(f"flow run ended as {state}: {message}" + (f"\n{url}" if url else ""))
