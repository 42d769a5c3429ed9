"""Puts the service together: routes, pages, limits of a body, headers, and how failures are told."""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.settings import Settings
from infra.serving import admin, api, inference_protocol, invocations, jobs, key_admin, usage
from infra.serving.limits import ADMISSION, Admission
from infra.serving.openapi import describe_well
from infra.serving.pages import site
from infra.serving.problems import (
    ApiProblem,
    answer_http_exception,
    answer_invalid,
    answer_problem,
    not_ready,
    render,
)
from infra.serving.service import Service
from infra.serving.slots import Registry
from tasks.core.errors import TransientError

logger = logging.getLogger(__name__)
MAX_BODY_BYTES = 8 * 1024 * 1024
UPLOADS = re.compile(r"/v1/loops/[^/]+/jobs")
DESCRIPTION = "Labels texts with fine-tuned models that are kept true to today's data."


def create_app(settings: Settings, open_registry: Callable[[], Registry]) -> FastAPI:
    """Return the service; it starts its engines when the server does.

    Raises ConfigError for a wrong loop file or a missing operator token, TransientError when the database is not there.
    """

    service = Service(settings, open_registry)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="Evertune", version="1", description=DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.service = service
    for router in (
        api.predictions,
        api.router,
        invocations.router,
        inference_protocol.router,
        jobs.router,
        admin.router,
        admin.health,
        key_admin.router,
        usage.router,
        site.router,
    ):
        app.include_router(router)
    describe_well(app)
    app.mount("/static", site.static_files(), name="static")
    app.add_exception_handler(ApiProblem, answer_problem)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(TransientError, _answer_transient)
    app.add_exception_handler(Exception, _answer_failure)
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(Observed)
    return app


async def _answer_transient(request: Request, problem: Exception) -> Response:
    """Say that a store did not answer: nothing was promised, so the caller may try again."""
    logger.error("%s: %s", request.url.path, problem)
    return await answer_problem(request, not_ready("the service could not keep its records; try again"))


async def _answer_failure(_request: Request, _problem: Exception) -> Response:
    """Say that the fault is ours; the server logs the trace."""
    return render(500, "internal", "the service failed on this request; nothing was recorded")


class BodyLimit:
    """Answers 413 as soon as a body is longer than allowed, without reading the rest; jobs limit their own uploads."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the bytes of each body on their way in."""
        if scope["type"] != "http" or UPLOADS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await self._refuse()(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise ApiProblem(413, "body_too_long", self._message())
            return message

        await self._app(scope, counted, send)

    def _message(self) -> str:
        return f"the body is longer than {self._max_bytes} bytes"

    def _refuse(self) -> Response:
        return render(413, "body_too_long", self._message())


def _limit_headers(admission: Admission | None) -> list[tuple[bytes, bytes]]:
    headers = {} if admission is None else admission.headers
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


class Observed:
    """Counts and times requests by route, and sets the headers that keep pages safe."""

    HEADERS = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with the clock running."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                wanted = (*self.HEADERS, *_limit_headers(scope.get(ADMISSION)))
                message["headers"] = [*message["headers"], *(pair for pair in wanted if pair[0] not in present)]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        finally:
            if ADMISSION in scope:
                scope[ADMISSION].close()
            route = getattr(scope.get("route"), "path", "other")
            metrics = scope["app"].state.service.metrics
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - started)
