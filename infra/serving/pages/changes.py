"""The page of one monitored window: what changed, with example texts that are read afresh, so erased ones are gone."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.pages.rendering import PageRoute, require_operator, show
from infra.serving.problems import ApiProblem
from infra.serving.service import Service, service_of
from tasks.core.errors import DataError, TransientError
from tasks.core.redaction import redact
from tasks.stores.snapshots import SnapshotStore

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/loops/{loop}/windows/{report_id}")
async def show_window(loop: str, report_id: str, request: Request) -> Response:
    """Show what changed between the reference and one window."""
    visitor = await require_operator(request)
    service = service_of(request)
    service.slot_for(loop, visitor.caller)
    row = await asyncio.to_thread(service.ledger.find_report, loop, report_id)
    explanation = row.record.get("explanation") if row else None
    if row is None or explanation is None:
        raise ApiProblem(404, "unknown_report", "there is no such report, or nothing was compared in it")
    texts = await asyncio.to_thread(_read_examples, service, loop, row.record)
    names = {key.key_id: key.name for key in await asyncio.to_thread(service.keys.list)}
    return await show(
        request, "window.html", loop=loop, report=row, explanation=explanation, texts=texts, key_names=names
    )


def _read_examples(service: Service, loop: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a report's examples by id; one that was erased, or is past keeping, is not there."""
    topics: Sequence[Mapping[str, Any]] = record["explanation"]["topics"]
    current = [example for topic in topics for example in topic["current_examples"]]
    known = [example for topic in topics for example in topic["reference_examples"]]
    found = service.log.read_predictions([*current, *known])  # known: of an acknowledged window
    texts = {row.prediction_id: row.text for row in found.values() if row.loop == loop}
    missing = set(known) - texts.keys()
    snapshot = (record.get("reference") or {}).get("snapshot")
    return texts | (_read_test_rows(service, loop, snapshot, missing) if missing and snapshot else {})


def _read_test_rows(service: Service, loop: str, fingerprint: str, row_ids: set[str]) -> dict[str, str]:
    try:
        store = SnapshotStore(service.settings.snapshots)
        snapshot = store.find(loop, fingerprint)
        rows = store.read_split(snapshot, "test") if snapshot else None
    except (DataError, TransientError):  # the page does without: it says that the examples are not kept
        return {}
    if rows is None:
        return {}
    rows = rows[rows["row_id"].isin(list(row_ids))]
    return {row_id: redact(text) for row_id, text in zip(rows["row_id"], rows["text"], strict=True)}
