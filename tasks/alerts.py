"""Tells people what happened to a loop, through Prefect's events: automations send them to each channel."""

import logging
import os
from typing import Any, Literal

from prefect.events import emit_event
from prefect.exceptions import PrefectException

logger = logging.getLogger(__name__)
Kind = Literal["drift", "refused", "rollback", "approval", "release"]  # failed runs are Prefect's own events


def emit(kind: Kind, loop: str, payload: dict[str, Any]) -> None:
    """Emit the event `evertune.<kind>` of a loop, on which alerts and people's own automations hang.

    The payload has at least `summary` (one line), `body` (markdown: what, how bad, since when) and `link`. An event
    that cannot be sent never fails the run: it is logged. Without a Prefect server, the log is all.
    """
    complete = {"summary": f"{loop}: {kind}", "body": "", "link": "", **payload}
    logger.warning("%s of %s: %s", kind, loop, complete["summary"])
    if not os.environ.get("PREFECT_API_URL"):
        logger.warning("no Prefect server: this alert went to the log only")
        return
    resource = {"prefect.resource.id": f"evertune.loop.{loop}", "prefect.resource.name": loop}
    try:
        sent = emit_event(event=f"evertune.{kind}", resource=resource, payload=complete)
    except (PrefectException, ValueError) as error:  # too large, or not JSON
        logger.error("alert %s of %s was not sent: %s", kind, loop, error)
        return
    if sent is None:
        logger.error("alert %s of %s was not sent: Prefect accepts no events here", kind, loop)
