"""Tells Prefect what became of staged releases, over HTTP: the service knows no orchestration.

Alerts stand in the database with the stage that they are about. One that Prefect did not take, because it did not run
or the service was killed, is sent again; the id of the event makes sure that it counts once.
"""

import logging
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import httpx

from configs.settings import Settings
from tasks.stores.releases import DueAlert, Releases

logger = logging.getLogger(__name__)
NAMESPACE = uuid.UUID("5a0f3f0e-52a5-4f0c-9a53-9d0a3f1c7a11")
WORTH_TELLING = timedelta(days=1)  # an older alert is news no more


def deliver_alerts(releases: Releases, settings: Settings) -> bool:
    """Send the alerts that are due; False when Prefect did not take them. Raises TransientError as the store does."""
    now = datetime.now(UTC)
    due = releases.list_due_alerts(now - WORTH_TELLING)
    if not due:
        return True
    try:
        response = httpx.post(f"{settings.prefect_api}/events", json=_as_events(due), timeout=10.0)
        response.raise_for_status()
    except httpx.HTTPError as error:
        logger.debug("%d alerts wait for Prefect: %s", len(due), error)
        return False
    releases.mark_told(due, now)
    return True


def _as_events(due: Sequence[DueAlert]) -> list[dict[str, object]]:
    """Return the events that `tasks.alerts.emit` would emit."""
    return [
        {
            "id": str(uuid.uuid5(NAMESPACE, f"{one.loop}/{one.step_id}/{one.at.isoformat()}")),
            "occurred": one.at.isoformat(),
            "event": f"evertune.{one.alert['kind']}",
            "resource": {"prefect.resource.id": f"evertune.loop.{one.loop}", "prefect.resource.name": one.loop},
            "payload": {key: value for key, value in one.alert.items() if key != "kind"},
        }
        for one in due
    ]
