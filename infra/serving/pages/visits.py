"""Signing in and out: the operator with the token, people who label with their pass."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.access import SESSION_SECONDS
from infra.serving.pages.rendering import (
    PageRoute,
    check_form,
    find_visitor,
    go_to,
    own_path,
    read_form,
    show,
    words_of,
)
from infra.serving.problems import ApiProblem
from infra.serving.service import service_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/login")
async def show_login(request: Request) -> Response:
    """Ask for the operator token or a labeller's pass."""
    return await show(request, "login.html", problem="", next=request.query_params.get("next", "/"))


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Open a session for whoever knows the operator token or has a pass."""
    service, words = service_of(request), words_of(request)
    fields = await read_form(request)
    wanted = fields.get("next", "/")
    try:
        check_form(request, fields)
    except ApiProblem:
        return await show(request, "login.html", 403, problem=words("problem.stale_form"), next=wanted)
    secret = fields.get("token", "").strip()
    if service.access.is_operator(secret):
        response = go_to(own_path(wanted))
        cookie, value = service.access.cookie, service.access.open_session()
    elif person := await asyncio.to_thread(service.sessions.labellers.find, secret):
        response = go_to(own_path(wanted) if wanted.startswith("/labelling") else "/labelling")
        cookie, value = service.sessions.labeller_cookie, service.sessions.open_labeller_session(person)
    else:
        return await show(request, "login.html", 403, problem=words("login.wrong"), next=wanted)
    secure = request.url.scheme == "https"
    response.set_cookie(cookie, value, max_age=SESSION_SECONDS, httponly=True, samesite="strict", secure=secure)
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """End the sessions of this browser."""
    service = service_of(request)
    if await find_visitor(request) is not None:
        check_form(request, await read_form(request))
    response = go_to("/login")
    response.delete_cookie(service.access.cookie)
    response.delete_cookie(service.sessions.labeller_cookie)
    return response
