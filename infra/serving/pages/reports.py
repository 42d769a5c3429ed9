"""Pages that flows wrote: monitored windows, validated snapshots, suspicious labels."""

import asyncio
import re
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from infra.serving.access import OPERATOR, Caller
from infra.serving.pages.rendering import PageRoute, find_visitor, require_operator
from infra.serving.problems import ApiProblem
from infra.serving.service import service_of
from tasks.core.errors import DataError, TransientError
from tasks.stores.snapshots import SnapshotStore

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# A report runs its own scripts, so it runs them in a sandbox: without our origin, cookies, forms or network.
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' "
    "blob:; worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; form-action 'none'"
)
ALL = Caller(OPERATOR, None)

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/reports/{loop}/{report_id}")
async def show_report(loop: str, report_id: str, request: Request) -> Response:
    """Show the Evidently page of a monitored window."""
    await _require_reader(request)
    service = service_of(request)
    service.slot_for(loop, ALL)
    name = report_id.removesuffix(".html")
    path = service.settings.root / "reports" / loop / f"{name}.html"
    if not SAFE_NAME.fullmatch(name) or not path.is_file():
        raise ApiProblem(404, "unknown_report", "there is no such report; old ones are deleted")
    return HTMLResponse(await asyncio.to_thread(path.read_bytes), headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/validation/{loop}/{fingerprint}")
async def show_validation(loop: str, fingerprint: str, request: Request) -> Response:
    """Show the data validation page of a snapshot."""
    return await _snapshot_page(loop, fingerprint, request, "validation")


@router.get("/suspects/{loop}/{fingerprint}")
async def show_suspects(loop: str, fingerprint: str, request: Request) -> Response:
    """Show which training rows of a snapshot have labels that look wrong."""
    return await _snapshot_page(loop, fingerprint, request, "suspects")


async def _snapshot_page(
    loop: str, fingerprint: str, request: Request, kind: Literal["validation", "suspects"]
) -> Response:
    await _require_reader(request)
    service = service_of(request)
    service.slot_for(loop, ALL)
    try:
        page = await asyncio.to_thread(SnapshotStore(service.settings.snapshots).read_page, loop, fingerprint, kind)
    except (DataError, TransientError) as error:
        raise ApiProblem(404, "unknown_snapshot", "there is no such snapshot") from error
    if page is None:
        raise ApiProblem(404, "unknown_snapshot", "there is no such snapshot, or no such page of it")
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


async def _require_reader(request: Request) -> None:
    """Let the operator in, by session or, for machines, by token; raises what tells the others."""
    if await find_visitor(request) is None and "authorization" in request.headers:
        await service_of(request).access.require_operator(request)
        return
    await require_operator(request)
