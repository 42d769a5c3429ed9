"""What all pages share: who may look, language, forms, templates, and failures told as pages."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import Request
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from infra.serving.i18n.languages import DEFAULT, LANGUAGES, Words, choose_language
from infra.serving.problems import ApiProblem, not_ready
from infra.serving.service import service_of
from infra.serving.sessions import Visitor
from tasks.core.errors import TransientError

TEMPLATES = Path(__file__).parents[1] / "templates"
LANGUAGE_COOKIE = "evertune_language"
YEAR_SECONDS = 365 * 86_400
# No inline script or style, nothing from elsewhere, no frame around the page.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
MAX_FIELDS = 40
OF_KEYS = ("forbidden", "unknown_loop")  # whose messages speak to the holder of a key

templates = Environment(
    loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


class SignInNeeded(Exception):
    """Nobody has signed in, and the page is not for everyone."""


class PageRoute(APIRoute):
    """A route whose failures are pages where a browser asks: a way to sign in, or what went wrong in words."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the route's handler with its failures caught."""
        answer = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await answer(request)
            except SignInNeeded:
                return _to_login(request)
            except ApiProblem as problem:
                return await _show_problem(request, problem)
            except TransientError:
                return await _show_problem(request, not_ready("the service could not keep its records; try again"))

        return answered


async def find_visitor(request: Request) -> Visitor | None:
    """Return who looks, looked up once per request."""
    if not hasattr(request.state, "visitor"):
        request.state.visitor = await service_of(request).sessions.find_visitor(request)
    found: Visitor | None = request.state.visitor
    return found


async def require_visitor(request: Request) -> Visitor:
    """Return who looks; raises SignInNeeded for nobody."""
    visitor = await find_visitor(request)
    if visitor is None:
        raise SignInNeeded
    return visitor


async def require_operator(request: Request) -> Visitor:
    """Return the operator who looks; raises SignInNeeded for nobody and the 403 problem for a labeller."""
    visitor = await require_visitor(request)
    if not visitor.is_operator:
        raise ApiProblem(403, "forbidden", "this page needs the operator token")
    return visitor


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a plain HTML form, the last of each name; the body limit of the app bounds its size."""
    return {name: values[-1] for name, values in (await read_all_fields(request)).items()}


async def read_all_fields(request: Request) -> dict[str, list[str]]:
    """Return the fields of a plain HTML form with all their values."""
    body = (await request.body()).decode("utf-8", "replace")
    try:
        return parse_qs(body, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError as error:
        raise ApiProblem(422, "invalid_request", f"a form has at most {MAX_FIELDS} fields") from error


def check_form(request: Request, fields: dict[str, str]) -> None:
    """Raise the 403 problem unless a form came from a page of this browser's session."""
    if not service_of(request).sessions.is_form_token(request, fields.get("form_token", "")):
        raise ApiProblem(403, "stale_form", "this form is too old; load the page again")


def words_of(request: Request) -> Words:
    """Return the strings of the language that a request is answered in."""
    asked, kept = request.query_params.get("lang"), request.cookies.get(LANGUAGE_COOKIE)
    return Words(choose_language(asked, kept, request.headers.get("accept-language", "")))


def tell(words: Words, problem: ApiProblem) -> str:
    """Return what went wrong in the visitor's language; without its details where only English has them."""
    told = words.name("problem", problem.code)
    if problem.code in OF_KEYS:
        return told
    return problem.message if words.language == DEFAULT or told == problem.code else told


async def show(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page, with the cookies that bind its forms and keep its language."""
    service, words = service_of(request), words_of(request)
    sessions = service.sessions
    visitor, visit = await find_visitor(request), sessions.visit_of(request)
    common = {
        "words": words,
        "visitor": visitor,
        "form_token": sessions.form_token(request, visit),
        "path": request.url.path,
        "languages": [(code, name, _with_language(request, code)) for code, name in LANGUAGES.items()],
        "loop_names": [name for name in sorted(service.slots) if visitor and visitor.caller.may_use(name)],
        "now": datetime.now(UTC),
    }
    html = await asyncio.to_thread(_render, template, common | values)  # answers do not wait for a long page
    response = HTMLResponse(html, status_code=status, headers={"Content-Security-Policy": PAGE_POLICY})
    secure = request.url.scheme == "https"
    if sessions.visit_cookie not in request.cookies:
        response.set_cookie(sessions.visit_cookie, visit, httponly=True, samesite="strict", secure=secure)
    if request.query_params.get("lang") in LANGUAGES:
        response.set_cookie(LANGUAGE_COOKIE, words.language, max_age=YEAR_SECONDS, samesite="lax", secure=secure)
    return response


def _render(template: str, values: dict[str, Any]) -> str:
    return templates.get_template(template).render(values)


def go_to(path: str) -> RedirectResponse:
    """Return an answer that makes the browser load a page of ours, so that a reload repeats nothing."""
    return RedirectResponse(path, status_code=303)


def own_path(wanted: str) -> str:
    """Return a path of this service, the front page for anything else."""
    return wanted if wanted.startswith("/") and not wanted.startswith(("//", "/\\")) else "/"


def _to_login(request: Request) -> Response:
    return go_to(f"/login?next={request.url.path}")


async def _show_problem(request: Request, problem: ApiProblem) -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        raise problem
    page = await show(request, "problem.html", problem.status, told=tell(words_of(request), problem), code=problem.code)
    page.headers.update(problem.headers or {})
    return page


def _with_language(request: Request, code: str) -> str:
    """Return the link to this page in a language; a page that answered a form is loaded anew."""
    query = {name: value for name, value in request.query_params.items() if name != "lang"}
    return f"{request.url.path}?{urlencode(query | {'lang': code})}"
