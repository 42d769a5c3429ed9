"""How JSON comes in and goes out where texts are answered: few steps per request, the same messages as elsewhere."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse, Response

from infra.serving.problems import ApiProblem, describe_errors
from infra.serving.service import caller_of

Model = TypeVar("Model", bound=BaseModel)


class Json(JSONResponse):
    """A JSON answer; floats are written by their shortest form, as Python does."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return orjson.dumps(content)


class DirectRoute(APIRoute):
    """A route `(loop, body, request, caller)` that is documented like any other and called without introspection.

    First comes the caller, then the body: who has no key learns nothing about bodies.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        endpoint = self.endpoint
        body_type: type[BaseModel] = endpoint.__annotations__["body"]

        async def handle(request: Request) -> Response:
            caller = await caller_of(request)
            body = await read_body(request, body_type)
            response: Response = await endpoint(request.path_params["loop"], body, request, caller)
            return response

        return handle


async def require_json(request: Request) -> None:
    """Raise the 415 problem unless the body says it is JSON."""
    kind = content_type(request)
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiProblem(415, "unsupported_media_type", "send 'Content-Type: application/json'")


def content_type(request: Request) -> str:
    """Return what the body says it is, in small letters and without parameters; empty when it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, model: type[Model]) -> Model:
    """Return the validated body; raises the 400, 413, 415 or 422 problem."""
    await require_json(request)
    raw = await request.body()
    if not raw:
        raise ApiProblem(422, "invalid_request", "body: Field required")
    try:
        return model.model_validate_json(raw)
    except ValidationError:  # read again, slowly, to say what is wrong
        return validate(model, decode(raw))


def decode(raw: bytes) -> Any:
    """Return what a JSON body holds; raises the 400 problem."""
    try:
        return json.loads(raw)
    except UnicodeDecodeError as error:
        raise ApiProblem(400, "bad_request", "the body is not UTF-8 JSON") from error
    except json.JSONDecodeError as error:
        raise ApiProblem(400, "malformed_json", f"the body is not JSON (character {error.pos})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        raise ApiProblem(400, "malformed_json", "the body is JSON that nobody can read") from error


def validate(model: type[Model], content: object) -> Model:
    """Return a body that was decoded already as a model; raises the 422 problem, which names the places."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ApiProblem(422, "invalid_request", describe_errors(error.errors(include_url=False))) from error
