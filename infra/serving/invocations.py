"""MLflow's scoring protocol: `/invocations` as `mlflow models serve` answers it, behind keys, limits and the log.

A text stands in the column `text`, beside it optionally its `group`; other columns are left alone, as MLflow does. The
answers have the columns of a version served by MLflow (label, score, p_<label>), then prediction_id and truncated.
"""

import csv
import io
from collections.abc import Sequence
from importlib.metadata import version as version_of
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import PlainTextResponse, Response

from infra.serving.access import Caller
from infra.serving.api import answer_request, problems
from infra.serving.bodies import PredictInput, PredictRequest
from infra.serving.json_bodies import Json, content_type, decode, validate
from infra.serving.problems import ApiProblem, not_ready
from infra.serving.protocol_bodies import InvocationsAnswer
from infra.serving.service import Service, caller_of, service_of
from infra.serving.slots import Answered

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
TEXT, GROUP = "text", "group"
STATUSES = (400, 401, 403, 404, 413, 415, 422, 429, 503)
WhoCalls = Annotated[Caller, Depends(caller_of)]
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "One of the four formats, and nothing else but empty `params`.",
                    "properties": {
                        "dataframe_split": {"type": "object"},
                        "dataframe_records": {"type": "array", "items": {"type": "object"}},
                        "instances": {},
                        "inputs": {},
                        "params": {"type": ["object", "null"], "maxProperties": 0},
                    },
                },
                "examples": {
                    "split": {
                        "value": {"dataframe_split": {"columns": ["text"], "data": [["It broke after a week."]]}}
                    },
                    "records": {"value": {"dataframe_records": [{"text": "It broke after a week.", "group": "s-17"}]}},
                    "inputs": {"value": {"inputs": ["It broke after a week.", "It is a camera."]}},
                },
            },
            "text/csv": {"schema": {"type": "string"}, "example": "text\nIt broke after a week.\n"},
        },
    }
}

router = APIRouter(tags=["MLflow"])


@router.get("/ping", response_class=PlainTextResponse, responses=problems(503))
async def ping(request: Request) -> Response:
    """Say that every loop that has a champion answers, as MLflow's scoring server does."""
    missing = service_of(request).missing()
    if missing:
        raise not_ready(f"still loading: {', '.join(missing)}")
    return PlainTextResponse("\n")


@router.get("/version", response_class=PlainTextResponse)
async def read_version() -> Response:
    """Return the version of MLflow whose scoring protocol is spoken."""
    return PlainTextResponse(version_of("mlflow"))


@router.post("/invocations", response_model=InvocationsAnswer, responses=problems(*STATUSES), openapi_extra=BODY)
async def invoke(
    request: Request,
    caller: WhoCalls,
    loop: Annotated[str | None, Query(description="Not needed where the key may use one loop only")] = None,
) -> Response:
    """Label texts as MLflow's scoring server would."""
    return await _invoke(request, loop or _only_loop(service_of(request), caller), caller)


@router.post(
    "/v1/loops/{loop}/invocations",
    response_model=InvocationsAnswer,
    responses=problems(*STATUSES),
    openapi_extra=BODY,
)
async def invoke_loop(loop: str, request: Request, caller: WhoCalls) -> Response:
    """Label texts as MLflow's scoring server would, with the loop in the path."""
    return await _invoke(request, loop, caller)


async def _invoke(request: Request, loop: str, caller: Caller) -> Response:
    service_of(request).slot_for(loop, caller)
    answers = await answer_request(request, loop, await _read_inputs(request), caller)
    return Json({"predictions": [_as_row(one) for one in answers], "loop": loop, "version": answers[0].version})


def _only_loop(service: Service, caller: Caller) -> str:
    usable = [name for name in sorted(service.slots) if caller.may_use(name)]
    if len(usable) != 1:
        names = ", ".join(usable) or "none"
        raise ApiProblem(422, "which_loop", f"loop: this key may use {names}; say which with /invocations?loop=NAME")
    return usable[0]


def _as_row(one: Answered) -> dict[str, Any]:
    row = {"label": one.label, "score": one.score}
    row |= {f"p_{label}": value for label, value in one.scores.items()}
    return row | {"prediction_id": one.prediction_id, "truncated": one.truncated}


async def _read_inputs(request: Request) -> list[PredictInput]:
    kind, raw = content_type(request), await request.body()
    if kind == "text/csv":
        rows: Sequence[Any] = read_csv(raw)
    elif kind == "application/json":
        rows = read_rows(decode(raw))
    else:
        raise ApiProblem(415, "unsupported_media_type", "send 'Content-Type: application/json' or text/csv")
    return validate(PredictRequest, {"inputs": rows}).as_inputs()


def read_rows(body: object) -> list[dict[str, Any]]:
    """Return the text and group of every row in any of MLflow's formats; raises the 422 problem of what fits none."""
    if not isinstance(body, dict):
        raise _does_not_fit(f"body: should be an object with one of {', '.join(FORMATS)}")
    found = [name for name in FORMATS if name in body]
    unknown = sorted(set(body) - {*FORMATS, "params"})
    if len(found) != 1 or unknown:
        raise _does_not_fit(f"body: should have exactly one of {', '.join(FORMATS)}, and else only empty 'params'")
    if body.get("params") not in (None, {}):
        raise _does_not_fit("params: these models take none")
    (name,) = found
    content = body[name]
    if name == "dataframe_split":
        return _read_split(content)
    if name == "dataframe_records":
        return [_pick(row, f"{name}.{place}") for place, row in enumerate(_as_list(content, name))]
    return _read_tensor(content, name)


def read_csv(raw: bytes) -> list[dict[str, Any]]:
    """Return the text and group of every row of a csv file with a header."""
    try:
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        rows = [{key: value for key, value in row.items() if key is not None} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ApiProblem(400, "malformed_csv", f"the body is not csv in UTF-8: {type(error).__name__}") from error
    if TEXT not in (reader.fieldnames or []):
        raise _does_not_fit(f"line 1: no column '{TEXT}'")
    return [_pick(row, f"row {place}") for place, row in enumerate(rows, start=1)]


def _read_split(content: object) -> list[dict[str, Any]]:
    columns = content.get("columns") if isinstance(content, dict) else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(columns, list) or not isinstance(data, list):
        raise _does_not_fit("dataframe_split: should have 'columns' and 'data'")
    if columns.count(TEXT) != 1:
        raise _does_not_fit(f"dataframe_split.columns: should name '{TEXT}' once")
    rows = []
    for place, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            raise _does_not_fit(f"dataframe_split.data.{place}: should have a value per column, {len(columns)} of them")
        named = {name: value for name, value in zip(columns, row, strict=True) if isinstance(name, str)}
        rows.append(_pick(named, f"dataframe_split.data.{place}"))
    return rows


def _read_tensor(content: object, name: str) -> list[dict[str, Any]]:
    """Return rows of a list of texts, of lists of one text each, or of objects; or of an object of such lists."""
    if isinstance(content, str):
        return [{TEXT: content}]
    if isinstance(content, dict):
        if TEXT not in content:
            raise _does_not_fit(f"{name}: no '{TEXT}'")
        texts = _as_column(content[TEXT], f"{name}.{TEXT}")
        groups = _as_column(content.get(GROUP) or [None] * len(texts), f"{name}.{GROUP}")
        if len(groups) != len(texts):
            raise _does_not_fit(f"{name}.{GROUP}: {len(groups)} values for {len(texts)} texts")
        return [{TEXT: text, GROUP: group} for text, group in zip(texts, groups, strict=True)]
    rows = _as_list(content, name)
    return [
        _pick(row, f"{name}.{place}") if isinstance(row, dict) else {TEXT: _unwrap(row)}
        for place, row in enumerate(rows)
    ]


def _as_column(values: object, place: str) -> list[Any]:
    return [values] if isinstance(values, str) else [_unwrap(value) for value in _as_list(values, place)]


def _unwrap(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _as_list(value: object, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise _does_not_fit(f"{place}: should be a list, found {type(value).__name__}")
    return value


def _pick(row: object, place: str) -> dict[str, Any]:
    if not isinstance(row, dict) or TEXT not in row:
        raise _does_not_fit(f"{place}: should be an object with '{TEXT}'")
    group = row.get(GROUP)
    is_missing = group is None or group == "" or group != group  # how frames say that there is no value
    return {TEXT: row[TEXT], GROUP: None if is_missing else group}


def _does_not_fit(message: str) -> ApiProblem:
    return ApiProblem(422, "invalid_request", message)
