"""What a fresh stack does once its servers run: a first model for each loop, a first key, and what to do next."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from configs.load import ConfigError
from configs.settings import Settings
from infra.credentials import FIRST_KEY, ensure_first_key, read_first_key
from infra.service_client import ServiceClient
from infra.stack import Stack
from tasks.core.approval import find_question
from tasks.core.errors import TransientError

T = TypeVar("T")
SERVING_SECONDS = 120.0
NOBODY = "no champion"
EXAMPLE = "Great picture, and it was easy to set up."


def bring_to_life(stack: Stack, train_first: bool) -> int:
    """Train what has no champion yet and print how to use the stack; return what `up --detach` exits with.

    The key itself is only shown on a terminal: what is said otherwise ends in a log file.
    """
    service = ServiceClient(stack.settings)
    code = 0
    if not _wait_for(service.is_ready, stack):
        if not stack.stop_requested.is_set():
            stack.say(_not_ready(stack.settings))
        code = 1
    elif train_first:
        code = train_first_models(stack, service)
    if not stack.stop_requested.is_set():
        made = ensure_first_key(stack.settings)
        shown = made if sys.stdout.isatty() else None
        for line in describe(stack.settings, [loop.name for loop in stack.loops], shown):
            stack.say(line)
    return code


def train_first_models(stack: Stack, service: ServiceClient) -> int:
    """Train a first model for each loop of which the service says that it has no champion; return the exit code."""
    code = 0
    for loop in stack.loops:
        name = loop.name
        champion = _wait_for(lambda name=name: service.champion_version(name) or NOBODY, stack)  # type: ignore[misc]
        if champion == NOBODY:
            code = code or train_first_model(stack, service, name)
        elif champion is None and not stack.stop_requested.is_set():
            stack.say(f"{name}: the service does not say whether it has a champion, so no first model is trained")
            code = code or 1
    return code


def train_first_model(stack: Stack, service: ServiceClient, loop: str) -> int:
    """Start a loop's first retrain and follow it until the service answers; return the exit code that it deserves."""
    from infra.flow_runs import PREFECT_ERRORS, follow, start_flow_run

    told: tuple[type[Exception], ...] = (*PREFECT_ERRORS, ConfigError, TransientError)
    stack.say(f"\n{loop} has no champion yet: the first retrain starts\n")
    try:
        run = start_flow_run(f"retrain/{loop}", {"loop": loop, "started_by": "person"})
        ended = follow(run.id, lambda line: stack.say(f"  {line}"), stack.stop_requested.is_set)
    except told as error:
        stack.say(f"{loop}: the retrain cannot be followed: {error}")
        return 1
    if ended is None:
        return 1
    if not ended.is_completed:
        stack.say(f"{loop}: no model yet, the retrain ended as {ended.state.name}: {ended.state.message}")
        return 1
    released = _what_became(stack, ended)
    if released == "awaiting approval":
        stack.say(f"{loop}: a version waits for a person's yes before it serves: evertune approve {loop}")
        return 0
    if released in ("serving", "pending") and (version := _wait_for(lambda: service.champion_version(loop), stack)):
        stack.say(f"\n{loop}: version {version} answers")
        return 0
    stack.say(f"{loop}: no model serves: the gate or the service said no, or nothing was new (see the run above)")
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


def _wait_for(question: Callable[[], T | None], stack: Stack) -> T | None:
    """Return the first answer that is not empty; None when the time is up or the stack stops.

    A service that cannot be asked just now, because it restarts or its stores are busy, has not answered yet.
    """
    deadline = time.monotonic() + SERVING_SECONDS
    while not stack.stop_requested.is_set() and time.monotonic() < deadline:
        with suppress(TransientError):
            if answer := question():
                return answer
        stack.stop_requested.wait(0.25)
    return None


def _not_ready(settings: Settings) -> str:
    log = settings.root / "logs" / "service.log"
    return (
        f"the prediction service is not ready after {SERVING_SECONDS:.0f} s, so no first model is trained; "
        f"see {log} and: evertune status"
    )


def _what_became(stack: Stack, ended: Any) -> str:
    """Return what the retrain's record says of its version; `pending`: waiting for the service makes sense.

    Without a row, or while the ledger cannot be read, it may serve soon. A retrain that was skipped because its version
    waits for approval awaits it still.
    """
    from tasks.stores.database import open_database
    from tasks.stores.ledger import Ledger

    try:
        ledger = Ledger(open_database(stack.settings.database))
        row = ledger.retrain_by_flow_run(ended.flow_run_id)
        waits = row is not None and find_question(ledger.audit(row.loop), days=0) is not None
    except TransientError:
        return "pending"
    if row is None:
        return "pending"
    return "awaiting approval" if waits else str(row.record.get("released"))
