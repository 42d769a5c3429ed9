"""The operator's routes on keys: make, list, change, rotate, revoke. They take effect at once in this process."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Depends, Request

from configs.load import ConfigError
from infra.serving.access import OPERATOR, Caller
from infra.serving.api import problems
from infra.serving.json_bodies import require_json
from infra.serving.key_bodies import ChangeKeyRequest, CreateKeyRequest, KeyInfo, NewKey, NewSecret, RotateKeyRequest
from infra.serving.problems import ApiProblem
from infra.serving.service import Service, require_operator, service_of
from tasks.stores.api_keys import ApiKey

ALL = Caller(OPERATOR, None)
router = APIRouter(prefix="/v1/admin/keys", dependencies=[Depends(require_operator)], tags=["operator"])
BODY_PROBLEMS = problems(400, 401, 403, 404, 413, 415, 422, 503)


@router.get("", response_model=list[KeyInfo], responses=problems(401, 403, 503))
async def list_keys(request: Request) -> list[KeyInfo]:
    """Return every key without its secret."""
    now = datetime.now(UTC)
    return [describe_key(key, now) for key in await asyncio.to_thread(service_of(request).keys.list)]


@router.post("", status_code=201, response_model=NewKey, responses=BODY_PROBLEMS, dependencies=[Depends(require_json)])
async def create_key(body: CreateKeyRequest, request: Request) -> NewKey:
    """Make a key; its secret is shown this once."""
    service, now = service_of(request), datetime.now(UTC)
    for loop in body.loops or []:
        service.slot_for(loop, ALL)
    plan = body.plan
    if "plan" not in body.model_fields_set:
        plan = (await asyncio.to_thread(service.plans.read)).default_plan
    await _check_terms(service, plan, body.expires_at, now)
    key, secret = await asyncio.to_thread(
        service.keys.create, body.name, body.loops, now, plan=plan, expires_at=body.expires_at
    )
    return NewKey(**describe_key(key, now).model_dump(), secret=secret)


@router.patch("/{key_id}", response_model=KeyInfo, responses=BODY_PROBLEMS, dependencies=[Depends(require_json)])
async def change_key(key_id: str, body: ChangeKeyRequest, request: Request) -> KeyInfo:
    """Give a key another plan or end; a month is billed by the dearest plan that the key had in it."""
    service, now = service_of(request), datetime.now(UTC)
    known = await asyncio.to_thread(service.keys.get, key_id)
    if known is None:
        raise _unknown()
    plan = body.plan if "plan" in body.model_fields_set else known.plan
    end = body.expires_at if "expires_at" in body.model_fields_set else known.expires_at
    await _check_terms(service, body.plan, body.expires_at, now)
    if not await asyncio.to_thread(service.keys.change, key_id, now, plan=plan, expires_at=end):
        raise _unknown()
    service.access.forget(key_id)
    changed = await asyncio.to_thread(service.keys.get, key_id)
    assert changed is not None
    return describe_key(changed, now)


@router.post(
    "/{key_id}/rotate", response_model=NewSecret, responses=BODY_PROBLEMS, dependencies=[Depends(require_json)]
)
async def rotate_key(key_id: str, body: RotateKeyRequest, request: Request) -> NewSecret:
    """Give a key a new secret, shown this once; the one before is good for a time of grace."""
    service, now = service_of(request), datetime.now(UTC)
    grace = timedelta(hours=body.grace_hours)
    secret = await asyncio.to_thread(service.keys.rotate, key_id, now, grace)
    if secret is None:
        raise _unknown()
    service.access.forget(key_id)
    return NewSecret(key_id=key_id, secret=secret, former_until=now + grace)


@router.delete("/{key_id}", responses=problems(401, 403, 404, 503))
async def revoke_key(key_id: str, request: Request) -> dict[str, str]:
    """End a key with every secret it had; other processes may answer it for a few seconds more."""
    service = service_of(request)
    if not await asyncio.to_thread(service.keys.revoke, key_id, datetime.now(UTC)):
        raise _unknown()
    service.access.forget(key_id)
    return {"status": "revoked"}


def describe_key(key: ApiKey, now: datetime) -> KeyInfo:
    """Return a key as the operator sees it."""
    return KeyInfo(**asdict(key), state=key.state(now))


async def _check_terms(service: Service, plan: str | None, expires_at: datetime | None, now: datetime) -> None:
    if plan is not None:
        try:
            (await asyncio.to_thread(service.plans.read)).find(plan)
        except ConfigError as error:
            raise ApiProblem(422, "unknown_plan", f"plan: {error}") from error
    if expires_at is not None and expires_at <= now:
        raise ApiProblem(422, "invalid_request", "expires_at: is past; to end a key now, delete it")


def _unknown() -> ApiProblem:
    return ApiProblem(404, "unknown_key", "there is no such live key")
