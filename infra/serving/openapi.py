"""The OpenAPI description: what FastAPI finds, and what it cannot know: keys, headers, and which answers never come."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

KEY = "key"
KEY_SCHEME = {"type": "http", "scheme": "bearer", "description": "An API key; on the operator's routes the token"}
JSON = "application/json"
AUTOMATIC = ("HTTPValidationError", "ValidationError")  # FastAPI's own form of a 422, which this API never answers in
HEADERS: dict[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}},
    "429": {"Retry-After": {"description": "Seconds until it may be asked again", "schema": {"type": "integer"}}},
    "503": {"Retry-After": {"description": "Seconds until it may be asked again", "schema": {"type": "integer"}}},
}
LIMIT_HEADERS = {
    "RateLimit-Policy": {
        "description": "What the key's plan allows (draft-ietf-httpapi-ratelimit-headers); not there without limits",
        "schema": {"type": "string"},
    },
    "RateLimit": {"description": "What is left of it", "schema": {"type": "string"}},
}


def describe_well(app: FastAPI) -> None:
    """Let an app whose routes are all there describe itself completely."""
    find = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete(find())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def complete(described: dict[str, Any]) -> None:
    """Add to a description, in place, what its routes do not say one by one."""
    components = described["components"]
    components["securitySchemes"] = {KEY: KEY_SCHEME}
    for name in AUTOMATIC:
        components["schemas"].pop(name, None)
    for operation in _operations(described):
        answers = operation["responses"]
        if any(name in str(answers.get("422")) for name in AUTOMATIC):
            del answers["422"]  # a name in the path is a string: nothing about it can fail
        if "401" in answers:
            operation["security"] = [{KEY: []}]
        for status, answer in answers.items():
            if int(status) >= 400 and "content" in answer:  # FastAPI says that errors have the type of the success
                answer["content"] = {JSON: next(iter(answer["content"].values()))}
        for status, headers in HEADERS.items():
            if status in answers:
                answers[status]["headers"] = headers
        if "429" in answers:
            for status in ("200", "202", "429"):
                if status in answers:
                    answers[status]["headers"] = answers[status].get("headers", {}) | LIMIT_HEADERS


def _operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in described["paths"].values():
        yield from methods.values()
