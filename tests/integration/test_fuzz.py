"""No answer of the service is one that its OpenAPI does not describe, and a service that lies is found out."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.bench.serving.fuzz import fuzz, own_service
from tests.support.ports import free_port
from tests.support.serving import OPERATOR, wait_until_ready

CANCEL = "POST /v1/loops/{loop}/jobs/{job_id}/cancel"  # always 409: jobs this small are over before it is asked
DRAWN = 1  # request per operation beside the examples and the edges of every field


def test_every_answer_is_described(tmp_path: Path) -> None:
    with own_service(tmp_path) as running:
        found = fuzz(running.url, running.key, OPERATOR, DRAWN)
    assert found["failures"] == []
    assert (found["errors"], found["untested"]) == ([], [])
    assert found["cases"] > 1500
    for caller, answered in found["callers"].items():
        unreached = {
            name for name, statuses in answered["statuses"].items() if not any(one.startswith("2") for one in statuses)
        }
        theirs = {name for name in answered["statuses"] if caller == "key" and "403" in answered["statuses"][name]}
        assert unreached == theirs | {CANCEL}, caller
        assert all(" /v1/admin/" in name or name == "GET /metrics" for name in theirs)


def test_what_is_not_described_is_found() -> None:
    with lying_service() as url:
        found = fuzz(url, "key", "operator", 1)
    said = {(one["caller"], one["operation"], one["check"]) for one in found["failures"]}
    for caller in ("key", "operator"):
        assert {
            (caller, "GET /fails", "not_a_server_error"),
            (caller, "GET /surprises", "status_code_conformance"),
            (caller, "GET /changes", "content_type_conformance"),
            (caller, "GET /pretends", "response_schema_conformance"),
        } <= said
    assert not any(operation == "GET /v1/loops" for _, operation, _ in said)


@contextmanager
def lying_service() -> Iterator[str]:
    """Run a service whose answers are not what it says they are; readiness and loops are as in ours."""
    app = FastAPI()

    @app.get("/readyz")
    async def is_ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.get("/v1/loops")
    async def list_loops() -> list[dict[str, str]]:
        return [{"name": "toy", "version": "1"}]

    @app.get("/fails")
    async def fail() -> Any:
        return JSONResponse({}, status_code=500)

    @app.get("/surprises")
    async def surprise() -> Any:
        return JSONResponse({}, status_code=418)

    @app.get("/changes")
    async def change() -> Any:
        return PlainTextResponse("{}")

    @app.get("/pretends", response_model=dict[str, int])
    async def pretend() -> Response:
        return JSONResponse({"n": "three"})

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until_ready(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
