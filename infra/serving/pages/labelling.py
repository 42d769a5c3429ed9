"""Labelling: one text after another, by keyboard or thumb, with undo; disputes and agreement for the operator."""

import asyncio
import string
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.pages.rendering import PageRoute, check_form, go_to, read_form, require_visitor, show
from infra.serving.problems import ApiProblem
from infra.serving.service import Service, service_of
from infra.serving.sessions import Visitor
from infra.serving.slots import Slot
from tasks.core.errors import DataError
from tasks.core.labelling import Agreement, Candidate, Question, measure_agreement, order_queue
from tasks.stores.labels import Dispute, Labels, Said
from tasks.stores.prediction_log import SKIPPED

MAX_CANDIDATES = 1000  # newest texts among which the most useful are found
MAX_DISPUTES = 20
MAX_VOTES = 20_000  # newest labels in which agreement is measured
KEYS = string.digits[1:] + "".join(letter for letter in string.ascii_lowercase if letter not in "su")

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class Desk:
    """What a person who labels has before them."""

    question: Question | None
    text: str
    num_waiting: int
    is_all: bool  # else older texts wait besides
    last: Said | None
    num_own: int


@dataclass(frozen=True)
class Quality:
    """What the operator sees of everybody's labels."""

    counts: dict[str, int]
    agreement: Agreement
    disputes: list[Dispute]


@router.get("/labelling")
async def choose_queue(request: Request) -> Response:
    """Lead to the queue of the first loop that the visitor may label."""
    visitor = await require_visitor(request)
    loops = [name for name in sorted(service_of(request).slots) if visitor.caller.may_use(name)]
    if not loops:
        raise ApiProblem(404, "unknown_loop", "there is no loop that you may label")
    return go_to(f"/labelling/{loops[0]}")


@router.get("/labelling/{loop}")
async def show_queue(loop: str, request: Request) -> Response:
    """Show the text to label next."""
    visitor = await require_visitor(request)
    service = service_of(request)
    slot = service.slot_for(loop, visitor.caller)
    desk = await asyncio.to_thread(_set_desk, service.labels, slot, visitor)
    quality = await asyncio.to_thread(_judge_quality, service.labels, slot) if visitor.is_operator else None
    keys = list(zip(slot.answers, [*KEYS, *[""] * len(slot.answers)], strict=False))
    return await show(
        request, "labelling.html", shown=slot.loop, desk=desk, quality=quality, keys=keys,
        rules=slot.loop.serving.labelling,
    )  # fmt: skip


@router.post("/labelling/{loop}")
async def take_label(loop: str, request: Request) -> Response:
    """Keep a label, a skip, an undo, or the operator's word on a disputed text; then show the next one."""
    visitor = await require_visitor(request)
    service = service_of(request)
    slot = service.slot_for(loop, visitor.caller)
    fields = await read_form(request)
    check_form(request, fields)
    try:
        await asyncio.to_thread(_take, service, slot, visitor, fields)
    except DataError as error:
        raise ApiProblem(404, "unknown_prediction", str(error)) from error
    return go_to(f"/labelling/{loop}")


def _set_desk(labels: Labels, slot: Slot, visitor: Visitor) -> Desk:
    loop, rules = slot.loop.name, slot.loop.serving.labelling
    waiting = labels.candidates(loop, visitor.name, rules, MAX_CANDIDATES)
    queue = order_queue(waiting.candidates, rules, waiting.known, slot.loop.data.feedback.review_share)
    question = queue[0] if queue else None
    last = next(iter(labels.last(loop, visitor.name)), None)
    own = labels.count_by_labeller(loop).get(visitor.name, 0)
    return Desk(question, _text_of(question, waiting.candidates), len(queue), waiting.is_all, last, own)


def _text_of(question: Question | None, candidates: list[Candidate]) -> str:
    return "" if question is None else next(
        one.text for one in candidates if one.prediction_id == question.prediction_id
    )  # fmt: skip


def _judge_quality(labels: Labels, slot: Slot) -> Quality:
    loop, rules = slot.loop.name, slot.loop.serving.labelling
    agreement = measure_agreement(labels.votes(loop, MAX_VOTES))
    return Quality(labels.count_by_labeller(loop), agreement, labels.disputes(loop, rules, MAX_DISPUTES))


def _take(service: Service, slot: Slot, visitor: Visitor, fields: dict[str, str]) -> None:
    labels, loop, rules = service.labels, slot.loop.name, slot.loop.serving.labelling
    action, now = fields.get("action", "label"), datetime.now(UTC)
    if action == "undo":
        labels.undo(loop, visitor.name, now, rules)
        return
    label = SKIPPED if action == "skip" else fields.get("label", "")
    if action != "skip" and label not in slot.answers:
        raise ApiProblem(422, "unknown_label", f"label: not one of this loop's: {', '.join(slot.answers)}")
    prediction_id = fields.get("prediction_id", "")
    if action == "decide" and visitor.is_operator:
        if not labels.decide(loop, prediction_id, visitor.name, label, now):
            raise ApiProblem(409, "conflict", "this text got its label meanwhile, and it stays")
        return
    labels.add(loop, prediction_id, visitor.name, label, now, rules)
