"""The playground: type a text, see the answer and which words mattered, say what is right."""

import asyncio

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import HTMLResponse, Response

from infra.serving.api import answer, raise_for_status, record_feedback
from infra.serving.bodies import FeedbackItem, PredictInput
from infra.serving.pages.rendering import (
    PageRoute,
    check_form,
    go_to,
    read_form,
    require_operator,
    show,
    tell,
    words_of,
)
from infra.serving.problems import ApiProblem, describe_errors
from infra.serving.service import service_of
from infra.serving.sessions import Visitor
from infra.serving.slots import Answered, Slot
from tasks.core.attribution import Part, find_parts, leave_out, weigh_parts

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/playground")
async def choose_playground(request: Request) -> Response:
    """Lead to the first loop's playground."""
    await require_operator(request)
    loops = sorted(service_of(request).slots)
    return go_to(f"/playground/{loops[0]}" if loops else "/")


@router.get("/playground/{loop}")
async def show_playground(loop: str, request: Request) -> Response:
    """Show a field to type a text into."""
    visitor = await require_operator(request)
    return await _show(request, service_of(request).slot_for(loop, visitor.caller))


@router.post("/playground/{loop}")
async def ask_playground(loop: str, request: Request) -> Response:
    """Answer the typed text, or keep the label that a person gave to the last one."""
    visitor = await require_operator(request)
    slot = service_of(request).slot_for(loop, visitor.caller)
    fields = await read_form(request)
    text = fields.get("text", "")
    try:
        check_form(request, fields)
        if "label" in fields:
            label = await _keep_feedback(request, slot, fields, visitor)
            return await _show(request, slot, text=text, thanks=words_of(request)("playground.kept", label=label))
        (answered,) = await answer(slot, [PredictInput(text=text)], visitor.caller)
    except ValidationError as error:
        return await _show(request, slot, 422, text=text, problem=describe_errors(error.errors()))
    except ApiProblem as problem:
        return await _show(request, slot, problem.status, text=text, problem=tell(words_of(request), problem))
    parts = await asyncio.to_thread(explain, slot, text, answered)
    return await _show(request, slot, text=text, answer=answered, parts=parts)


def explain(slot: Slot, text: str, answered: Answered) -> list[Part]:
    """Return the text with the weight of its words, asked of the version that answered.

    These answers are neither logged nor counted as usage. Empty where that version is gone by now.
    """
    known = [slot.served, slot.candidate.served if slot.candidate is not None else None]  # a canary may have answered
    served = next((one for one in known if one is not None and one.version == answered.version), None)
    if served is None:
        return []
    parts = find_parts(text)
    variants = leave_out(text, parts)
    whole = [answered.scores[label] for label in served.predictor.labels]
    asked = served.predictor.predict(variants, slot.loop.serving.max_batch)
    return weigh_parts(text, parts, whole, asked.probabilities)


async def _keep_feedback(request: Request, slot: Slot, fields: dict[str, str], visitor: Visitor) -> str:
    item = FeedbackItem(prediction_id=fields.get("prediction_id", ""), label=fields["label"], labeller=visitor.name)
    log = service_of(request).log
    found = await asyncio.to_thread(record_feedback, log, slot, [item], visitor.caller)
    raise_for_status(found[0])
    return item.label


async def _show(
    request: Request,
    slot: Slot,
    status: int = 200,
    *,
    text: str = "",
    answer: Answered | None = None,
    parts: list[Part] | None = None,
    problem: str = "",
    thanks: str = "",
) -> HTMLResponse:
    return await show(
        request, "playground.html", status, shown=slot.loop, version=slot.served.version if slot.served else None,
        labels=slot.answers, text=text, answer=answer, parts=parts or [], problem=problem, thanks=thanks,
    )  # fmt: skip
