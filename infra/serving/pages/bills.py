"""Monthly statements as the operator reads them: what each key was billed, and what each loop earned."""

import asyncio
import re
from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.pages.rendering import PageRoute, require_operator
from infra.serving.problems import ApiProblem
from infra.serving.service import service_of
from tasks.core.billing import Statement
from tasks.core.statement_page import render_month, render_statement, write_revenue_csv, write_statement_csv

MONTH = re.compile(r"20\d\d-(0[1-9]|1[0-2])")
# They bring their own style and no script.
STATEMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {"html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8"}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/statements/{month}/{name}")
async def show_statement(month: str, name: str, request: Request) -> Response:
    """Show a month (index.html, revenue.csv), or one key's statement (KEY.html, KEY.csv), by the names of its files."""
    await require_operator(request)
    written = await asyncio.to_thread(service_of(request).statements.read, month) if MONTH.fullmatch(month) else []
    stem, _, kind = name.rpartition(".")
    content = _render(month, stem, kind, written) if written and kind in TYPES else None
    if content is None:
        raise ApiProblem(404, "unknown_statement", "there is no such statement; a month is billed when it is over")
    headers = {"Content-Security-Policy": STATEMENT_POLICY}
    if kind == "csv":
        headers["Content-Disposition"] = f'attachment; filename="{month}-{stem}.csv"'
    return Response(content, media_type=TYPES[kind], headers=headers)


def _render(month: str, stem: str, kind: str, written: list[Statement]) -> str | None:
    if (stem, kind) == ("index", "html"):
        return render_month(month, written)
    if (stem, kind) == ("revenue", "csv"):
        return write_revenue_csv(month, written)
    render: Callable[[Statement], str] = render_statement if kind == "html" else write_statement_csv
    return next((render(one) for one in written if one.key_id == stem), None)
