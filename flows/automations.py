"""Alerts: one Prefect block per channel that holds its address, and automations that send to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.blocks.notifications import SlackWebhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from configs import schema
from flows.deployments import OWNER_TAG, loop_tag

PREFIX = f"{OWNER_TAG} alert: "
RUN_EVENTS = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}
EVENT_BODY = """{{ event.payload.body }}

{{ event.payload.link }}

Loop {{ event.resource['prefect.resource.name'] }}, {{ event.occurred.strftime('%Y-%m-%d %H:%M UTC') }}."""
RUN_SUBJECT = "{{ flow.name }} of {{ deployment.name }} {{ flow_run.state.name | lower }}"
RUN_BODY = """Flow run {{ flow_run.name }} ended as {{ flow_run.state.name }}: {{ flow_run.state.message }}

Started {{ flow_run.start_time.strftime('%Y-%m-%d %H:%M UTC') if flow_run.start_time else 'never' }}, \
ended {{ event.occurred.strftime('%Y-%m-%d %H:%M UTC') }}. The champion serves on.

{{ flow_run | ui_url }}"""


@dataclass(frozen=True)
class Alert:
    """One automation as it should be."""

    name: str
    description: str
    trigger: EventTrigger
    subject: str
    body: str


def register_alerts(loops: Sequence[schema.Loop], environment: Mapping[str, str], report: Callable[[str], None]) -> int:
    """Create or update block and automations of every channel whose address the environment holds.

    Channels without an address are reported as a warning, and their automations are deleted. Returns the number of
    automations; what a person switched off in the UI stays off.
    """
    wanted: set[str] = set()
    with get_client(sync_client=True) as client:
        for loop in loops:
            for channel in loop.alerts:
                url = environment.get(channel.url_from, "").strip()
                if not url:
                    report(missing_address(loop.name, channel))
                    continue
                block_id = _save_block(loop.name, channel, url)
                for alert in plan_alerts(loop.name, channel):
                    _upsert(client, alert, block_id)
                    wanted.add(alert.name)
        for automation in client.read_automations(limit=200):
            if automation.name.startswith(PREFIX) and automation.name not in wanted:
                client.delete_automation(automation.id)
    return len(wanted)


def missing_address(loop: str, channel: schema.Channel) -> str:
    """Return the warning about a channel without an address."""
    return (
        f"WARNING: alerts of {loop} to '{channel.name}' ({', '.join(channel.events)}) go nowhere; "
        f"set {channel.url_from} to an Apprise URL and start again"
    )


def plan_alerts(loop: str, channel: schema.Channel) -> list[Alert]:
    """Return the automations of one channel: one on our own events, one on flow runs that fail."""
    events = [event for event in channel.events if event != "failed"]  # failed: Prefect's own event of a flow run
    alerts = [_event_alert(loop, channel, events)] if events else []
    return [*alerts, _run_alert(loop, channel)] if "failed" in channel.events else alerts


def _event_alert(loop: str, channel: schema.Channel, events: Sequence[str]) -> Alert:
    trigger = EventTrigger(
        expect={f"{OWNER_TAG}.{event}" for event in events},
        match={"prefect.resource.id": f"evertune.loop.{loop}"},
        posture=Posture.Reactive,
        threshold=1,
    )
    description = f"Tells '{channel.name}' about {', '.join(events)} of {loop}."
    return Alert(f"{PREFIX}{loop} to {channel.name}", description, trigger, "{{ event.payload.summary }}", EVENT_BODY)


def _run_alert(loop: str, channel: schema.Channel) -> Alert:
    trigger = EventTrigger(
        expect=RUN_EVENTS,
        match_related={"prefect.resource.id": f"prefect.tag.{loop_tag(loop)}", "prefect.resource.role": "tag"},
        posture=Posture.Reactive,
        threshold=1,
    )
    description = f"Tells '{channel.name}' about flow runs of {loop} that fail or crash."
    return Alert(f"{PREFIX}{loop} failed runs to {channel.name}", description, trigger, RUN_SUBJECT, RUN_BODY)


def _save_block(loop: str, channel: schema.Channel, url: str) -> UUID:
    """Save the address in a SlackWebhook block, the one Prefect block that takes any Apprise URL; return its id."""
    block = SlackWebhook(url=SecretStr(url))
    saved: Any = block.save(f"evertune-{loop}-{channel.name}", overwrite=True)
    return UUID(str(saved))


def _upsert(client: SyncPrefectClient, alert: Alert, block_id: UUID) -> None:
    existing = client.read_automations_by_name(alert.name)
    core = AutomationCore(
        name=alert.name,
        description=alert.description,
        trigger=alert.trigger,
        actions=[SendNotification(block_document_id=block_id, subject=alert.subject, body=alert.body)],
        enabled=existing[0].enabled if existing else True,
    )
    if existing and existing[0].id is not None:
        client.update_automation(existing[0].id, core)
    else:
        client.create_automation(core)
