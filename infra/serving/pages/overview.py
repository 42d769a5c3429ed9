"""The pages of the loops: all of them at a glance, and one with its versions, release, monitoring and ledger."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.i18n.languages import Words
from infra.serving.pages.charts import describe_accuracy, draw_accuracy, draw_drift, draw_new, draw_strip, draw_traffic
from infra.serving.pages.gate_table import list_versions
from infra.serving.pages.rendering import PageRoute, find_visitor, go_to, require_operator, show, words_of
from infra.serving.pages.retrains import find_marked, list_retrains, tell_month
from infra.serving.service import Service, service_of
from infra.serving.slots import Slot
from tasks.core.drift_decisions import stand
from tasks.core.explanation import describe_change
from tasks.stores.ledger import ReportRow

STRIP, TIMELINE, TABLE, RECENT = 20, 60, 8, 20  # windows in strip, charts and table; rows of the other tables
TRAFFIC_DAYS, CARD_DAYS = 30, 14

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/")
async def show_loops(request: Request) -> Response:
    """Show what serves, since when, and how it is doing; people who label are led to their queue."""
    visitor = await find_visitor(request)
    if visitor is not None and not visitor.is_operator:
        return go_to("/labelling")
    await require_operator(request)
    service, words = service_of(request), words_of(request)
    slots = [slot for _, slot in sorted(service.slots.items())]
    loops = await asyncio.gather(*(asyncio.to_thread(_summarise, service, slot, words) for slot in slots))
    return await show(request, "loops.html", loops=loops)


@router.get("/loops/{loop}")
async def show_loop(loop: str, request: Request) -> Response:
    """Show one loop: versions with their gate tables, release, monitoring, ledger and audit log."""
    visitor = await require_operator(request)
    service, words = service_of(request), words_of(request)
    slot = service.slot_for(loop, visitor.caller)
    shown = await asyncio.to_thread(_summarise, service, slot, words)
    history = await asyncio.to_thread(_recall, service, slot, words)
    return await show(request, "loop.html", shown=shown, **history)


def _summarise(service: Service, slot: Slot, words: Words) -> dict[str, Any]:
    """Return what a loop's card shows."""
    name, ledger = slot.loop.name, service.ledger
    reports = ledger.recent_reports(name, STRIP)
    retrain = next(iter(ledger.recent_retrains(name, 1)), None)
    served = slot.served.version if slot.served else None
    accuracy = _find_accuracy([row for row in reports if row.version == served]) or _find_accuracy(reports)
    days = service.traffic.by_day(name, CARD_DAYS)
    return {
        "loop": slot.loop,
        "name": name,
        "version": served,
        "since": slot.served.since if slot.served else None,
        "problem": slot.problem,
        "waiting": slot.batcher.num_waiting,
        "report": reports[0] if reports else None,
        "accuracy_row": accuracy,
        "accuracy": describe_accuracy(accuracy, words) if accuracy else "",
        "is_measured": accuracy is not None and accuracy.record["accuracy"]["measured"] is not None,
        "strip": draw_strip(reports[::-1], words),
        "texts": sum(texts for _, texts in days),
        "traffic_days": CARD_DAYS,
        "traffic": draw_traffic(days, words, height=110),
        "retrain": retrain,
        "release": service.releases.find_running(name),
        "mlflow": f"{service.settings.mlflow}/#/models/{name}",
        "prefect": service.settings.prefect_api.removesuffix("/api"),
    }


def _find_accuracy(reports: Sequence[ReportRow]) -> ReportRow | None:
    """Return the newest window whose accuracy was measured, else the newest one that has an estimate."""
    by_kind = (row for kind in ("measured", "estimated") for row in reports if row.record["accuracy"][kind] is not None)
    return next(by_kind, None)


def _recall(service: Service, slot: Slot, words: Words) -> dict[str, Any]:
    """Return what a loop's own page shows besides."""
    name, ledger = slot.loop.name, service.ledger
    reports = ledger.recent_reports(name, TIMELINE)
    retrains = ledger.recent_retrains(name, RECENT)
    served = slot.served.version if slot.served else None
    releases = service.releases.list_recent(name, RECENT)
    decisions = service.drift_decisions.of_loop(name)
    explained = next((row for row in reports if row.record.get("explanation")), None)
    return {
        "versions": list_versions(retrains, served, service.settings.root / "models" / name),
        "drift": draw_drift(reports[::-1], slot.loop.monitoring.alpha, words, decisions),
        "new_chart": draw_new(reports[::-1], words),
        "mute_note": stand(decisions, version=served or "", now=datetime.now(UTC)).mute_note,
        "explained": explained,
        "told": describe_change(explained.record["explanation"])[1:] if explained else [],
        "accuracy_chart": draw_accuracy(reports[::-1], words),
        "traffic_chart": draw_traffic(service.traffic.by_day(name, TRAFFIC_DAYS), words),
        "reports": [(row, describe_accuracy(row, words)) for row in reports[:TABLE]],
        "retrains": list_retrains(retrains, words),
        "month": tell_month(service, name, slot.loop.retraining.budget_hours, words),
        "marked": find_marked(service, name),
        "moves": list(reversed(ledger.audit(name)))[:RECENT],
        "releases": [(one, service.releases.list_steps(one.release_id)) for one in releases],
    }
