"""The routes that customers call."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from infra.serving.access import OPERATOR, Caller
from infra.serving.bodies import (
    FeedbackAnswer,
    FeedbackItem,
    FeedbackItemStatus,
    FeedbackRequest,
    FeedbackStatus,
    LoopInfo,
    LoopLimits,
    PredictAnswer,
    PredictInput,
    PredictRequest,
    ProblemAnswer,
)
from infra.serving.json_bodies import DirectRoute, Json, require_json
from infra.serving.limits import admit
from infra.serving.problems import ApiProblem, not_ready
from infra.serving.service import caller_of, service_of
from infra.serving.slots import Answered, Asked, Slot, new_prediction_id
from tasks.core.predictor import UNKNOWN
from tasks.stores.prediction_log import PredictionLog

WhoCalls = Annotated[Caller, Depends(caller_of)]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer, "description": description}
    for status, description in {
        400: "The body is not JSON",
        401: "No valid key",
        403: "The key may not use this loop",
        404: "No such loop or prediction",
        409: "Another label was recorded before",
        413: "A text or the body is too long",
        415: "The body is not application/json",
        422: "The body does not fit",
        429: "The plan of this key allows no more now; see Retry-After",
        503: "Not ready or too busy; see Retry-After",
    }.items()
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route that are no success."""
    return {status: PROBLEMS[status] for status in statuses}


router = APIRouter(prefix="/v1")
predictions = APIRouter(prefix="/v1", route_class=DirectRoute)


@predictions.post(
    "/loops/{loop}/predict",
    response_model=PredictAnswer,
    responses=problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
    tags=["predictions"],
)
async def predict(loop: str, body: PredictRequest, request: Request, caller: WhoCalls) -> Response:
    """Label texts. A 200 answer means that every prediction is in the prediction log."""
    answers = await answer_request(request, loop, body.as_inputs(), caller)
    return Json(
        {
            "loop": loop,
            "version": answers[0].version,
            "predictions": [
                {
                    "prediction_id": one.prediction_id,
                    "label": one.label,
                    "score": one.score,
                    "scores": one.scores,
                    "truncated": one.truncated,
                }
                | ({"version": one.version} if one.version != answers[0].version else {})
                for one in answers
            ],
        }
    )


async def answer_request(request: Request, loop: str, inputs: list[PredictInput], caller: Caller) -> list[Answered]:
    """Return one logged and metered answer per input; raises the problem of what the key or the loop does not allow."""
    service = service_of(request)
    slot = service.slot_for(loop, caller)
    admission = await admit(request, caller, len(inputs))
    answers = await answer(slot, inputs, caller)
    admission.settle(len(answers))
    service.metrics.count_texts(loop, answers)
    return answers


async def answer(slot: Slot, inputs: list[PredictInput], caller: Caller) -> list[Answered]:
    """Return one logged answer per input; raises the problem of what the loop's limits do not allow."""
    limits = slot.loop.serving
    if len(inputs) > limits.max_texts:
        raise ApiProblem(
            422, "too_many_texts", f"inputs: {len(inputs)} texts, at most {limits.max_texts} are accepted per request"
        )
    too_long = next((position for position, one in enumerate(inputs) if len(one.text) > limits.max_chars), None)
    if too_long is not None:
        raise ApiProblem(
            413,
            "text_too_long",
            f"inputs.{too_long}.text: {len(inputs[too_long].text)} characters, at most {limits.max_chars} are accepted",
        )
    if slot.served is None:
        raise not_ready(f"'{slot.loop.name}' has no champion yet", 10)
    ids = [new_prediction_id() for _ in inputs]
    arrived = time.monotonic()
    return await slot.batcher.answer(
        [
            Asked(one.text, one.group, caller.key_id, ids[0], prediction_id, arrived)
            for one, prediction_id in zip(inputs, ids, strict=True)
        ]
    )


@router.post(
    "/loops/{loop}/feedback",
    response_model=FeedbackStatus | FeedbackAnswer,
    responses=problems(400, 401, 403, 404, 409, 413, 415, 422, 503),
    dependencies=[Depends(require_json)],
    tags=["feedback"],
)
async def give_feedback(loop: str, body: FeedbackRequest, request: Request, caller: WhoCalls) -> Response:
    """Say what the true label of earlier predictions is: of one, or of up to 1,000 at once."""
    service = service_of(request)
    slot = service.slot_for(loop, caller)
    items = body.items if body.items is not None else [body.as_item()]
    found = await asyncio.to_thread(record_feedback, service.log, slot, items, caller)
    if body.items is not None:
        return JSONResponse({"items": [one.model_dump(exclude_none=True) for one in found]})
    raise_for_status(found[0])
    return JSONResponse({"status": found[0].status})


def record_feedback(
    log: PredictionLog, slot: Slot, items: list[FeedbackItem], caller: Caller
) -> list[FeedbackItemStatus]:
    """Record labels one by one; each item has its own outcome."""
    return [_record_one(log, slot, item, caller) for item in items]


def raise_for_status(found: FeedbackItemStatus) -> None:
    """Raise the problem of a single item that was not recorded."""
    codes = {"unknown": (404, "unknown_prediction"), "conflict": (409, "conflict"), "invalid": (422, "unknown_label")}
    if found.status in codes:
        status, code = codes[found.status]
        raise ApiProblem(status, code, found.message or found.status)


def _record_one(log: PredictionLog, slot: Slot, item: FeedbackItem, caller: Caller) -> FeedbackItemStatus:
    labels = slot.answers
    outcome = "invalid" if item.label not in labels else None
    message = f"label: not one of this loop's; accepted are {', '.join(labels)}" if outcome else None
    if outcome is None:
        known = log.read_prediction(item.prediction_id)
        is_theirs = known is not None and known.loop == slot.loop.name and caller.key_id in (known.key_id, OPERATOR)
        if is_theirs:
            now = datetime.now(UTC)
            outcome = log.record_feedback(item.prediction_id, item.label, item.labeller, now, caller.key_id)
        else:
            outcome = "unknown"
    if outcome == "unknown":
        message = "prediction_id: this key made no such prediction with this loop"
    if outcome == "conflict":
        message = "label: another label was recorded for this prediction before, and stays"
    return FeedbackItemStatus.model_validate(
        {"prediction_id": item.prediction_id, "status": outcome, "message": message}
    )


@router.get("/loops", response_model=list[LoopInfo], responses=problems(401, 503), tags=["loops"])
async def list_loops(request: Request, caller: WhoCalls) -> list[LoopInfo]:
    """Return the loops that this key may use."""
    slots = service_of(request).slots
    return [describe_loop(slots[name]) for name in sorted(slots) if caller.may_use(name)]


@router.get("/loops/{loop}", response_model=LoopInfo, responses=problems(401, 403, 404, 503), tags=["loops"])
async def read_loop(loop: str, request: Request, caller: WhoCalls) -> LoopInfo:
    """Return what a loop answers, and with which version since when."""
    return describe_loop(service_of(request).slot_for(loop, caller))


def describe_loop(slot: Slot) -> LoopInfo:
    """Return a loop as customers see it."""
    limits = slot.loop.serving
    return LoopInfo(
        name=slot.loop.name,
        description=slot.loop.description,
        labels=slot.loop.labels,
        answers_unknown=UNKNOWN in slot.answers and UNKNOWN not in slot.loop.labels,
        version=slot.served.version if slot.served else None,
        since=slot.served.since if slot.served else None,
        limits=LoopLimits(max_texts=limits.max_texts, max_chars=limits.max_chars),
    )
