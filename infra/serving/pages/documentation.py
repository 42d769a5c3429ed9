"""The page of the API: every route with an example, made from the OpenAPI description."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from infra.serving.pages.rendering import PageRoute, show

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/docs")
async def show_docs(request: Request) -> Response:
    """Show every route with an example; with no script from elsewhere."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for route in list_routes(request.app.openapi()):
        groups.setdefault(route["group"], []).append(route)
    return await show(request, "docs.html", groups=groups, base=str(request.base_url).rstrip("/"))


def list_routes(openapi: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the page shows of each route."""
    routes = []
    for path, methods in openapi["paths"].items():
        for method, described in methods.items():
            body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            schema = openapi["components"]["schemas"].get(body.get("$ref", "").rsplit("/", 1)[-1], {})
            routes.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "group": described.get("tags", ["other"])[0],
                    "description": described.get("description", ""),
                    "parameters": described.get("parameters", []),
                    "examples": schema.get("examples", []),
                    "answers": [
                        (status, answer.get("description", "")) for status, answer in described["responses"].items()
                    ],
                }
            )
    return routes
