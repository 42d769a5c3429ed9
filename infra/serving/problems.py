"""What the API says when it cannot answer: always a status, a code and a message, never the caller's text."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

SHOWN_PROBLEMS = 5
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SHOWN_CHARS = 40  # of a key that the caller made up: it may be a text


class ApiProblem(HTTPException):
    """An answer other than 2xx. FastAPI's own exception, so that one raised while a body is read comes through."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def not_ready(message: str, retry_after_seconds: int = 1) -> ApiProblem:
    """Return a 503 that says when to come back."""
    return ApiProblem(503, "unavailable", message, {"Retry-After": str(retry_after_seconds)})


def render(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the body that every error of this API has."""
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=status, headers=dict(headers or {}))


async def answer_problem(_request: Request, problem: Exception) -> Response:
    """Answer an ApiProblem."""
    assert isinstance(problem, ApiProblem)
    return render(problem.status, problem.code, problem.message, problem.headers)


async def answer_http_exception(request: Request, problem: Exception) -> Response:
    """Answer what starlette and FastAPI raise themselves: no such route, wrong method, a body that is no text."""
    assert isinstance(problem, StarletteHTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
    message = "the body is not UTF-8 JSON" if problem.status_code == 400 else str(problem.detail)
    headers = dict(problem.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(_list_methods(request))
    return render(problem.status_code, codes.get(problem.status_code, "error"), message, headers)


def _list_methods(request: Request) -> list[str]:
    """Return every method that a path answers to; starlette names those of the first of its routes only."""
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


async def answer_invalid(_request: Request, problem: Exception) -> Response:
    """Answer a body that is no JSON (400) or does not fit (422), naming the place and what is accepted."""
    assert isinstance(problem, RequestValidationError)
    errors = problem.errors()
    if any(error["type"] == "json_invalid" for error in errors):
        place = next(error["loc"][-1] for error in errors if error["type"] == "json_invalid")
        return render(400, "malformed_json", f"the body is not JSON (character {place})")
    return render(422, "invalid_request", describe_errors(errors))


def describe_errors(errors: Sequence[Any]) -> str:
    """Return the problems of a body as one line, without repeating what was sent."""
    shown = [f"{_place(error['loc'])}: {_message(error)}" for error in errors[:SHOWN_PROBLEMS]]
    more = len(errors) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _place(place: Sequence[str | int]) -> str:
    steps = [str(step) for step in place if step != "body"]
    return ".".join(step if len(step) <= SHOWN_CHARS else f"{step[:SHOWN_CHARS]}…" for step in steps) or "body"


def _message(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "string_type":
        return f"{message}, found {type(error['input']).__name__}"
    return message
