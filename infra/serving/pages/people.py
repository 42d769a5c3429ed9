"""Who labels: the operator invites people by name; each gets a pass, shown once."""

import asyncio
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError
from starlette.responses import HTMLResponse, Response

from infra.serving.access import OPERATOR
from infra.serving.bodies import Name
from infra.serving.pages.rendering import (
    PageRoute,
    check_form,
    go_to,
    read_all_fields,
    require_operator,
    show,
    words_of,
)
from infra.serving.problems import describe_errors
from infra.serving.service import service_of
from tasks.core.errors import DataError
from tasks.stores.labellers import Labeller

NAME: TypeAdapter[str] = TypeAdapter(Name)

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/people")
async def show_people(request: Request) -> Response:
    """Show who may label."""
    await require_operator(request)
    return await _show(request)


@router.post("/people")
async def change_people(request: Request) -> Response:
    """Invite somebody, or end a pass."""
    visitor = await require_operator(request)
    service, words = service_of(request), words_of(request)
    every = await read_all_fields(request)
    fields = {name: values[-1] for name, values in every.items()}
    check_form(request, fields)
    labellers, now = service.sessions.labellers, datetime.now(UTC)
    if "revoke" in fields:
        await asyncio.to_thread(labellers.revoke, fields["revoke"], now)
        return go_to("/people")
    # A loop that is gone is refused: left out, the last one gone would turn "these" into "all".
    loops = [service.slot_for(name, visitor.caller).loop.name for name in every.get("loop", [])]
    try:
        name = NAME.validate_python(fields.get("name", "").strip())
        if name.casefold() == OPERATOR:
            return await _show(request, 422, problem=words("people.reserved"))
        person, secret = await asyncio.to_thread(labellers.invite, name, loops or None, now)
    except ValidationError as error:
        return await _show(request, 422, problem=describe_errors(error.errors()))
    except DataError:
        return await _show(request, 409, problem=words("people.taken"))
    return await _show(request, invited=person, secret=secret)


async def _show(
    request: Request, status: int = 200, *, problem: str = "", invited: Labeller | None = None, secret: str = ""
) -> HTMLResponse:
    service = service_of(request)
    people = await asyncio.to_thread(service.sessions.labellers.list)
    url = f"{str(request.base_url).rstrip('/')}/login"
    return await show(
        request, "people.html", status, people=people, problem=problem, invited=invited, secret=secret, url=url
    )
