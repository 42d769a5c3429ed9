"""The Open Inference Protocol, version 2: a loop is a model, a text an element of its BYTES input `text`.

Health and the server's own description are open, as there; all else needs the key. Errors have the protocol's form,
`{"error": "message"}`, with the statuses of the rest of the API.
"""

from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version as version_of
from itertools import chain
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response

from infra.serving.access import Caller
from infra.serving.api import PROBLEMS, answer_request
from infra.serving.bodies import PredictRequest
from infra.serving.json_bodies import Json, validate
from infra.serving.problems import ApiProblem, describe_errors, not_ready
from infra.serving.protocol_bodies import (
    InferAnswer,
    LiveAnswer,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    ReadyAnswer,
    ServerMetadata,
)
from infra.serving.service import caller_of, service_of
from infra.serving.slots import Answered, Slot
from infra.serving.tensors import Asked, Tensor, bad_request, read_request, write_response

TEXT, GROUP = "text", "group"
OUTPUTS = {"label": "BYTES", "score": "FP32", "scores": "FP32", "prediction_id": "BYTES", "truncated": "BOOL"}
JSON_LENGTH = "Inference-Header-Content-Length"
WhoCalls = Annotated[Caller, Depends(caller_of)]
STATUSES = (400, 401, 403, 404, 413, 415, 422, 429, 503)
EXAMPLE = {
    "inputs": [{"name": TEXT, "shape": [2], "datatype": "BYTES", "data": ["It broke after a week.", "It is a camera."]}]
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "additionalProperties": False,
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                        "outputs": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                    },
                },
                "example": EXAMPLE,
            },
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
            },
        },
    },
    "parameters": [
        {
            "name": JSON_LENGTH,
            "in": "header",
            "required": False,
            "description": "Bytes of the JSON part, where binary tensors follow it",
            "schema": {"type": "integer", "minimum": 0},
        }
    ],
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that are no success, in the protocol's form."""
    return {status: {"model": ProtocolError, "description": PROBLEMS[status]["description"]} for status in statuses}


class ProtocolRoute(APIRoute):
    """A route whose problems have the protocol's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ApiProblem as problem:
                return JSONResponse({"error": problem.message}, problem.status, problem.headers)
            except RequestValidationError as problem:
                return JSONResponse({"error": describe_errors(problem.errors())}, 422)

        return answer


router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], route_class=ProtocolRoute)


@router.get("", response_model=ServerMetadata)
async def describe_server() -> Response:
    """Say which server this is and what it speaks beyond the protocol."""
    return Json({"name": "evertune", "version": version_of("evertune"), "extensions": ["binary_tensor_data"]})


@router.get("/health/live", response_model=LiveAnswer)
async def say_live() -> Response:
    """Say that the process answers."""
    return Json({"live": True})


@router.get("/health/ready", response_model=ReadyAnswer, responses=problems(503))
async def say_ready(request: Request) -> Response:
    """Say that every loop that has a champion is loaded."""
    missing = service_of(request).missing()
    if missing:
        raise not_ready(f"still loading: {', '.join(missing)}")
    return Json({"ready": True})


@router.get("/models/{loop}", response_model=ModelMetadata, responses=problems(401, 403, 404, 503))
async def describe_model(loop: str, request: Request, caller: WhoCalls) -> Response:
    """Say what a loop takes and answers."""
    return Json(_describe(service_of(request).slot_for(loop, caller)))


@router.get("/models/{loop}/versions/{version}", response_model=ModelMetadata, responses=problems(401, 403, 404, 503))
async def describe_version(loop: str, version: str, request: Request, caller: WhoCalls) -> Response:
    """Say what the serving version of a loop takes and answers."""
    slot = service_of(request).slot_for(loop, caller)
    _check_version(slot, version)
    return Json(_describe(slot))


@router.get("/models/{loop}/ready", response_model=ModelReady, responses=problems(401, 403, 404, 503))
async def say_model_ready(loop: str, request: Request, caller: WhoCalls) -> Response:
    """Say that a loop answers."""
    return _say_ready(service_of(request).slot_for(loop, caller))


@router.get("/models/{loop}/versions/{version}/ready", response_model=ModelReady,
            responses=problems(401, 403, 404, 503))  # fmt: skip
async def say_version_ready(loop: str, version: str, request: Request, caller: WhoCalls) -> Response:
    """Say that this very version of a loop answers."""
    slot = service_of(request).slot_for(loop, caller)
    _check_version(slot, version)
    return _say_ready(slot)


@router.post("/models/{loop}/infer", response_model=InferAnswer, responses=problems(*STATUSES), openapi_extra=BODY)
async def infer(loop: str, request: Request, caller: WhoCalls) -> Response:
    """Label texts. A 200 answer means that every prediction is in the prediction log."""
    return await _infer(loop, request, caller)


@router.post("/models/{loop}/versions/{version}/infer", response_model=InferAnswer, responses=problems(*STATUSES),
             openapi_extra=BODY)  # fmt: skip
async def infer_version(loop: str, version: str, request: Request, caller: WhoCalls) -> Response:
    """Label texts if this version serves; a canary that is asked for a share of the texts may answer instead."""
    _check_version(service_of(request).slot_for(loop, caller), version)
    return await _infer(loop, request, caller)


async def _infer(loop: str, request: Request, caller: Caller) -> Response:
    slot = service_of(request).slot_for(loop, caller)
    asked = await _read(request)
    answers = await answer_request(request, loop, _as_inputs(asked), caller)
    tensors = [one for one in _as_tensors(answers, slot, asked) if asked.outputs is None or one.name in asked.outputs]
    header: dict[str, Any] = {"model_name": loop, "model_version": answers[0].version}
    if asked.request_id is not None:
        header["id"] = asked.request_id
    content, json_length = write_response(header, tensors, asked)
    if json_length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={JSON_LENGTH: str(json_length)})


async def _read(request: Request) -> Asked:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiProblem(415, "unsupported_media_type", "Content-Encoding: compressed bodies are not accepted")
    length = request.headers.get(JSON_LENGTH)
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 12):
        raise bad_request(f"{JSON_LENGTH}: should be a number of bytes")
    asked = read_request(await request.body(), None if length is None else int(length))
    unknown = sorted(set(asked.texts) - {TEXT, GROUP})
    if unknown or TEXT not in asked.texts:
        raise bad_request(f"inputs: accepted are '{TEXT}' and beside it '{GROUP}'")
    if asked.outputs is not None and set(asked.outputs) - set(OUTPUTS):
        raise bad_request(f"outputs: accepted are {', '.join(OUTPUTS)}")
    return asked


def _as_inputs(asked: Asked) -> list[Any]:
    texts = asked.texts[TEXT]
    groups = asked.texts.get(GROUP, [""] * len(texts))
    if len(groups) != len(texts):
        raise bad_request(f"input '{GROUP}': {len(groups)} elements for {len(texts)} texts")
    rows = [{"text": text, "group": group or None} for text, group in zip(texts, groups, strict=True)]
    return validate(PredictRequest, {"inputs": rows}).as_inputs()


def _as_tensors(answers: Sequence[Answered], slot: Slot, asked: Asked) -> list[Tensor]:
    shape, labels = asked.shapes[TEXT], slot.loop.labels
    columns: dict[str, Sequence[Any]] = {
        "label": [one.label for one in answers],
        "score": [one.score for one in answers],
        "scores": list(chain.from_iterable([one.scores[label] for label in labels] for one in answers)),
        "prediction_id": [one.prediction_id for one in answers],
        "truncated": [one.truncated for one in answers],
    }
    shapes = {"scores": [len(answers), len(labels)]}
    return [Tensor(name, kind, shapes.get(name, shape), columns[name]) for name, kind in OUTPUTS.items()]


def _describe(slot: Slot) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in OUTPUTS.items()]
    scores = next(one for one in outputs if one["name"] == "scores")
    scores["shape"] = [-1, len(slot.loop.labels)]
    scores["parameters"] = {"labels": orjson.dumps(slot.loop.labels).decode()}
    return {
        "name": slot.loop.name,
        "versions": [slot.served.version] if slot.served else [],
        "platform": "evertune",
        "inputs": [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in (TEXT, GROUP)],
        "outputs": outputs,
    }


def _say_ready(slot: Slot) -> Response:
    if slot.served is None:
        raise not_ready(f"'{slot.loop.name}' has no champion yet", 10)
    return Json({"name": slot.loop.name, "ready": True})


def _check_version(slot: Slot, version: str) -> None:
    served = slot.served.version if slot.served else None
    if version != served:
        raise ApiProblem(404, "unknown_version", f"version {version[:20]} does not serve; {served or 'none'} does")
