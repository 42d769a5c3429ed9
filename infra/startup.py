"""What a fresh stack does once its servers run: a first model for each loop, a first key, and what to do next."""

import time
from typing import Any

from configs.settings import Settings
from infra.credentials import FIRST_KEY, ensure_first_key, read_first_key
from infra.service_client import ServiceClient
from infra.stack import Stack

SERVING_SECONDS = 120.0
EXAMPLE = "Great picture, and it was easy to set up."


def bring_to_life(stack: Stack, train_first: bool) -> int:
    """Train what has no champion yet and print how to use the stack; return what `up --detach` exits with."""
    service = ServiceClient(stack.settings)
    _wait_until(service.is_ready, stack)
    code = 0
    for loop in stack.loops if train_first else []:
        if not stack.stop_requested.is_set() and service.champion_version(loop.name) is None:
            code = code or train_first_model(stack, service, loop.name)
    if not stack.stop_requested.is_set():
        new_key = ensure_first_key(stack.settings)
        for line in describe(stack.settings, [loop.name for loop in stack.loops], new_key):
            stack.say(line)
    return code


def train_first_model(stack: Stack, service: ServiceClient, loop: str) -> int:
    """Start a loop's first retrain and follow it until the service answers; return the exit code that it deserves."""
    from infra.flow_runs import PREFECT_ERRORS, follow, start_flow_run

    stack.say(f"\n{loop} has no champion yet: the first retrain starts\n")
    try:
        run = start_flow_run(f"retrain/{loop}", {"loop": loop, "started_by": "person"})
        ended = follow(run.id, lambda line: stack.say(f"  {line}"), stack.stop_requested.is_set)
    except PREFECT_ERRORS as error:
        stack.say(f"{loop}: the retrain cannot be followed: {error}")
        return 1
    if ended is None:
        return 1
    if not ended.is_completed:
        stack.say(f"{loop}: no model yet, the retrain ended as {ended.state.name}: {ended.state.message}")
        return 1
    if _was_promoted(stack, ended) and _wait_until(lambda: service.champion_version(loop) is not None, stack):
        stack.say(f"\n{loop}: version {service.champion_version(loop)} answers")
        return 0
    stack.say(f"{loop}: trained, but no model serves: the gate or the service said no (see the run above)")
    return 3


def describe(settings: Settings, loops: list[str], new_key: str | None) -> list[str]:
    """Return the lines that say where everything is and how to call it."""
    lines = [
        "",
        f"Prefect UI    {settings.prefect_api.removesuffix('/api')}",
        f"MLflow UI     {settings.mlflow}",
        f"Service       {settings.api}",
        f"API docs      {settings.api}/docs",
        f"Logs          {settings.root / 'logs'}",
    ]
    if new_key:
        lines.append(f"API key       {new_key}  (also in {settings.root / FIRST_KEY})")
    elif read_first_key(settings):
        lines.append(f"API key       in {settings.root / FIRST_KEY}; another: evertune keys create NAME")
    else:
        lines.append("API key       make one: evertune keys create NAME")
    return [*lines, "", *[curl_line(settings, loop, new_key) for loop in loops[:1]], ""]


def curl_line(settings: Settings, loop: str, new_key: str | None = None) -> str:
    """Return a command line that asks the service for a prediction, ready to be pasted."""
    file = settings.root / FIRST_KEY
    key = f"$(cat {file})" if new_key or file.exists() else "YOUR_KEY"
    return (
        f'curl -s {settings.api}/v1/loops/{loop}/predict -H "Authorization: Bearer {key}" '
        f"-H 'Content-Type: application/json' -d '{{\"text\": \"{EXAMPLE}\"}}'"
    )


def _wait_until(claim: Any, stack: Stack) -> bool:
    deadline = time.monotonic() + SERVING_SECONDS
    while not stack.stop_requested.is_set() and time.monotonic() < deadline:
        if claim():
            return True
        stack.stop_requested.wait(0.25)
    return False


def _was_promoted(stack: Stack, ended: Any) -> bool:
    """Say whether the retrain put a champion in place, so that waiting for the service makes sense."""
    from tasks.stores.database import open_database
    from tasks.stores.ledger import Ledger

    row = Ledger(open_database(stack.settings.database)).retrain_by_flow_run(ended.flow_run_id)
    return row is None or row.record.get("released", "serving") in ("serving", "pending")
