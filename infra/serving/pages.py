"""The service's own pages for the operator: loops, one loop, playground, reports. They need no scripts."""

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ValidationError
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from infra.serving.access import OPERATOR, SESSION_SECONDS, Caller
from infra.serving.api import answer, raise_for_status, record_feedback
from infra.serving.bodies import FeedbackItem, PredictInput
from infra.serving.problems import ApiProblem, describe_errors
from infra.serving.service import Service, service_of
from infra.serving.slots import Slot
from tasks.core.errors import DataError, TransientError
from tasks.stores.snapshots import SnapshotStore

HERE = Path(__file__).parent
ALL = Caller(OPERATOR, None)
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# A report runs its own scripts, so it runs them in a sandbox: without our origin, cookies, forms or network.
REPORT_POLICY = (
    "sandbox allow-scripts allow-popups allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' "
    "blob:; worker-src blob:; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; form-action 'none'"
)
PAGE_POLICY = "default-src 'self'; form-action 'self'; frame-ancestors 'none'"
RECENT = 20

router = APIRouter(include_in_schema=False)
templates = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def static_files() -> StaticFiles:
    """Return the style sheet's folder."""
    return StaticFiles(directory=HERE / "static")


@router.get("/login")
async def show_login(request: Request) -> Response:
    """Ask for the operator token."""
    return _page("login.html", request, problem="")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Open a session for whoever knows the operator token."""
    access = service_of(request).access
    fields = await _form(request)
    if not access.is_operator(fields.get("token", "")):
        return _page("login.html", request, status=403, problem="That is not the operator token.")
    wanted = fields.get("next", "/")
    target = wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) else "/"
    response = RedirectResponse(target, status_code=303)
    response.set_cookie(
        access.cookie,
        access.open_session(),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session."""
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(service_of(request).access.cookie)
    return response


@router.get("/")
async def show_loops(request: Request) -> Response:
    """Show what serves, since when, and how it is doing."""
    service = service_of(request)
    if not service.access.has_session(request):
        return _to_login(request)
    loops = [await asyncio.to_thread(_summary, service, slot) for _, slot in sorted(service.slots.items())]
    return _page("loops.html", request, loops=loops)


@router.get("/loops/{loop}")
async def show_loop(loop: str, request: Request) -> Response:
    """Show one loop: releases, monitoring, retrains."""
    service = service_of(request)
    if not service.access.has_session(request):
        return _to_login(request)
    slot = service.slot_for(loop, ALL)
    history = await asyncio.to_thread(_history, service, loop)
    summary = await asyncio.to_thread(_summary, service, slot)
    return _page("loop.html", request, shown=summary, **history)


@router.get("/playground/{loop}")
async def show_playground(loop: str, request: Request) -> Response:
    """Show a field to type a text into."""
    service = service_of(request)
    if not service.access.has_session(request):
        return _to_login(request)
    return _playground(request, service.slot_for(loop, ALL))


@router.post("/playground/{loop}")
async def ask_playground(loop: str, request: Request) -> Response:
    """Answer the typed text, or keep the label that a person gave to the last one."""
    service = service_of(request)
    if not service.access.has_session(request):
        return _to_login(request)
    slot = service.slot_for(loop, ALL)
    fields = await _form(request)
    if not service.access.is_form_token(request, fields.get("form_token", "")):
        return _playground(request, slot, problem="This form is too old. Please try again.", status=403)
    text = fields.get("text", "")
    try:
        if "label" in fields:
            item = FeedbackItem(
                prediction_id=fields.get("prediction_id", ""), label=fields["label"], labeller="operator"
            )
            found = await asyncio.to_thread(record_feedback, service.log, slot, [item], ALL)
            raise_for_status(found[0])
            return _playground(request, slot, text=text, thanks=f"Kept: {item.label}.")
        answers = await answer(slot, [PredictInput(text=text)], ALL)
    except ValidationError as error:
        return _playground(request, slot, text=text, problem=describe_errors(error.errors()), status=422)
    except ApiProblem as problem:
        return _playground(request, slot, text=text, problem=problem.message, status=problem.status)
    return _playground(request, slot, text=text, answer=answers[0])


@router.get("/reports/{loop}/{report_id}")
async def show_report(loop: str, report_id: str, request: Request) -> Response:
    """Show the Evidently page of a monitored window."""
    service = service_of(request)
    if not await _may_read(service, request):
        return _to_login(request)
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


async def _snapshot_page(
    loop: str, fingerprint: str, request: Request, kind: Literal["validation", "suspects"]
) -> Response:
    service = service_of(request)
    if not await _may_read(service, request):
        return _to_login(request)
    service.slot_for(loop, ALL)
    try:
        page = await asyncio.to_thread(SnapshotStore(service.settings.snapshots).read_page, loop, fingerprint, kind)
    except (DataError, TransientError) as error:
        raise ApiProblem(404, "unknown_snapshot", "there is no such snapshot") from error
    if page is None:
        raise ApiProblem(404, "unknown_snapshot", "there is no such snapshot, or no such page of it")
    return HTMLResponse(page, headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/suspects/{loop}/{fingerprint}")
async def show_suspects(loop: str, fingerprint: str, request: Request) -> Response:
    """Show which training rows of a snapshot have labels that look wrong."""
    return await _snapshot_page(loop, fingerprint, request, "suspects")


@router.get("/docs")
async def show_docs(request: Request) -> Response:
    """Show every route with an example; made from the OpenAPI description, with no script from elsewhere."""
    return _page("docs.html", request, routes=_routes(request.app.openapi()), base=str(request.base_url).rstrip("/"))


async def _may_read(service: Service, request: Request) -> bool:
    """Say whether a session is open; a bearer token is checked and may raise its problem."""
    if service.access.has_session(request):
        return True
    if "authorization" in request.headers:
        await service.access.require_operator(request)
        return True
    return False


def _to_login(request: Request) -> Response:
    return RedirectResponse(f"/login?next={request.url.path}", status_code=303)


def _page(name: str, request: Request, status: int = 200, **values: Any) -> HTMLResponse:
    access = service_of(request).access
    common = {
        "signed_in": access.has_session(request),
        "form_token": access.form_token(request),
        "next": request.query_params.get("next", "/"),
        "loop_names": sorted(service_of(request).slots),
    }
    html = templates.get_template(name).render(**common, **values)
    return HTMLResponse(html, status_code=status, headers={"Content-Security-Policy": PAGE_POLICY})


def _playground(request: Request, slot: Slot, status: int = 200, **values: Any) -> HTMLResponse:
    nothing = {"text": "", "answer": None, "problem": "", "thanks": ""}
    return _page("playground.html", request, status=status, shown=slot.loop, labels=slot.answers, **nothing | values)


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a plain HTML form; the body limit of the app bounds its size."""
    body = (await request.body()).decode("utf-8", "replace")
    return {name: values[-1] for name, values in parse_qs(body, keep_blank_values=True, max_num_fields=20).items()}


def _summary(service: Service, slot: Slot) -> dict[str, Any]:
    name = slot.loop.name
    report = next(iter(service.ledger.recent_reports(name, 1)), None)
    retrain = next(iter(service.ledger.recent_retrains(name, 1)), None)
    return {
        "name": name,
        "description": slot.loop.description,
        "labels": slot.loop.labels,
        "version": slot.served.version if slot.served else None,
        "since": slot.served.since if slot.served else None,
        "waiting": slot.batcher.num_waiting,
        "report": report,
        "retrain": retrain,
        "traffic": _traffic(service, name),
        "mlflow": f"{service.settings.mlflow}/#/models/{name}",
        "prefect": service.settings.prefect_api.removesuffix("/api"),
    }


def _history(service: Service, loop: str) -> dict[str, Any]:
    return {
        "moves": list(reversed(service.ledger.audit(loop)))[:RECENT],
        "reports": service.ledger.recent_reports(loop, RECENT),
        "retrains": service.ledger.recent_retrains(loop, RECENT),
    }


def _traffic(service: Service, loop: str) -> int:
    return sum(
        int(sample.value)
        for metric in service.metrics.texts.collect()
        for sample in metric.samples
        if sample.name == "evertune_texts_total" and sample.labels["loop"] == loop
    )


def _routes(openapi: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the documentation page shows of each route."""
    routes = []
    for path, methods in openapi["paths"].items():
        for method, described in methods.items():
            body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = openapi["components"]["schemas"].get(body.get("$ref", "").rsplit("/", 1)[-1], {})
            routes.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "group": described.get("tags", ["other"])[0],
                    "description": described.get("description", ""),
                    "parameters": described.get("parameters", []),
                    "examples": schema.get("examples", []),
                    "answers": [
                        (status, answer.get("description", "")) for status, answer in described["responses"].items()
                    ],
                }
            )
    return routes
