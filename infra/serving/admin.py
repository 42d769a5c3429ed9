"""The routes that need the operator token, and those that tell machines how the service is."""

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from infra.serving.access import OPERATOR, Caller
from infra.serving.api import problems
from infra.serving.bodies import ReleaseRequest
from infra.serving.json_bodies import require_json
from infra.serving.problems import ApiProblem, not_ready
from infra.serving.service import require_operator, service_of
from infra.serving.slots import VersionRefused
from tasks.core.errors import DataError, TransientError

ALL = Caller(OPERATOR, None)
RECENT_RELEASES = 20


health = APIRouter(tags=["health"])
router = APIRouter(prefix="/v1/admin", dependencies=[Depends(require_operator)], tags=["operator"])


@health.get("/healthz")
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@health.get("/readyz", responses=problems(503))
async def readyz(request: Request) -> dict[str, Any]:
    """Say that every loop that has a champion is loaded."""
    service = service_of(request)
    missing = service.missing()
    if missing:
        raise not_ready(f"still loading: {', '.join(missing)}")
    return {"status": "ready", "versions": {name: slot.served and slot.served.version
                                            for name, slot in service.slots.items()}}  # fmt: skip


@health.get(
    "/metrics",
    dependencies=[Depends(require_operator)],
    response_class=PlainTextResponse,
    responses=problems(401, 403, 503),
)
async def metrics(request: Request) -> Response:
    """Return what Prometheus scrapes, with the operator token as its bearer token."""
    service = service_of(request)
    for name, slot in service.slots.items():
        service.metrics.queue.labels(name).set(slot.batcher.num_waiting)
        newest = await asyncio.to_thread(service.ledger.recent_reports, name, 1)
        service.metrics.show_report(name, newest[0] if newest else None)
        service.metrics.show_release(name, await asyncio.to_thread(service.releases.find_running, name))
    return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post(
    "/loops/{loop}/release",
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
    dependencies=[Depends(require_json)],
)
async def release(loop: str, body: ReleaseRequest, request: Request) -> Response:
    """Load a version beside the serving one, check it and switch to it; 409 when a check says no.

    With `check_only` it stays loaded beside: who moves the champion alias asks first, so that it never names a version
    that may not serve, and the switch that follows needs no second load.
    """
    service = service_of(request)
    slot = service.slot_for(loop, ALL)
    previous = slot.served.version if slot.served else None
    try:
        registry = await asyncio.to_thread(service.open_registry)
        version = await asyncio.to_thread(registry.get, loop, body.version)
        checks = await (slot.check if body.check_only else slot.switch_to)(version, registry)
    except VersionRefused as error:
        return JSONResponse({"status": "refused", "reason": str(error), "version": body.version}, status_code=409)
    except DataError as error:
        raise ApiProblem(404, "unknown_version", str(error)) from error
    except TransientError as error:
        raise not_ready(str(error), 10) from error
    status = "checked" if body.check_only else "serving"
    return JSONResponse({"status": status, "version": body.version, "previous": previous, "checks": checks})


@router.get("/loops/{loop}/releases", responses=problems(401, 403, 404, 503))
async def list_releases(loop: str, request: Request) -> dict[str, Any]:
    """Return the release that is on its way, with what its limits say, and the newest ones that went through stages."""
    service = service_of(request)
    service.slot_for(loop, ALL)
    running = await asyncio.to_thread(service.releases.find_running, loop)
    recent = await asyncio.to_thread(service.releases.list_recent, loop, RECENT_RELEASES)
    return {"running": running and asdict(running), "recent": [asdict(release) for release in recent]}
