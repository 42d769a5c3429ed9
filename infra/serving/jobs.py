"""Files of texts, answered in the background: upload, look, cancel, fetch the result, delete it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response, StreamingResponse

from infra.serving.access import OPERATOR, Caller
from infra.serving.api import problems
from infra.serving.bodies import Name
from infra.serving.job_bodies import JobInfo
from infra.serving.json_bodies import content_type
from infra.serving.problems import ApiProblem
from infra.serving.service import Service, caller_of, service_of
from infra.serving.slots import Slot, new_prediction_id
from tasks.core.errors import DataError, TransientError
from tasks.stores.job_files import SUFFIXES, Accepted
from tasks.stores.jobs import Job

WhoCalls = Annotated[Caller, Depends(caller_of)]
JobId = Annotated[str, InPath(pattern="^[0-9a-f]{32}$")]
CHUNK = 1 << 20
NDJSON = "application/x-ndjson"
EXAMPLES = {
    NDJSON: '{"text": "It broke after a week.", "group": "session-17", "id": 4711}\n{"text": "It is a camera."}\n',
    "text/csv": "id,text\n4711,It broke after a week.\n",
}
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": {"type": "string"}, "example": text} for kind, text in EXAMPLES.items()},
    }
}
RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One line per row of the upload, in its order: the answer, or the `error` of a row without one",
        "content": {
            NDJSON: {
                "schema": {"type": "string"},
                "example": '{"row":1,"id":4711,"prediction_id":"0198c2a57b1e4f0d9c3a6b8e00000001","version":"3",'
                '"label":"negative","score":0.97,"scores":{"negative":0.97,"positive":0.03},"truncated":false}\n'
                '{"row":2,"error":"empty"}\n',
            }
        },
    }
}
AGAIN: dict[int | str, dict[str, Any]] = {200: {"model": JobInfo, "description": "This upload was accepted before"}}
GONE: dict[int | str, dict[str, Any]] = {**problems(404), 410: {**problems(404)[404], "description": "It was deleted"}}

router = APIRouter(prefix="/v1/loops/{loop}/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=202,
    response_model=JobInfo,
    responses=AGAIN | problems(400, 401, 403, 404, 413, 415, 422, 429, 503),
    openapi_extra=UPLOAD,
)
async def create_job(
    loop: str,
    request: Request,
    response: Response,
    caller: WhoCalls,
    text_column: Annotated[Name, Query(description="The field that holds the text")] = "text",
    idempotency_key: Annotated[
        Name | None, Header(description="Your own name for this upload: sent again, it is the same job")
    ] = None,
) -> JobInfo:
    """Accept a file of texts: JSON lines, or csv with a header. Beside the text may stand a `group` and an `id`.

    The job counts as one request, its texts as any others; the month's quota must have room for all of them.
    """
    service = service_of(request)
    slot = service.slot_for(loop, caller)
    suffix = SUFFIXES.get(content_type(request))
    if suffix is None:
        raise ApiProblem(415, "unsupported_media_type", f"send 'Content-Type: {NDJSON}' or text/csv")
    if idempotency_key is not None and (known := await _find_upload(request, slot, caller, idempotency_key)):
        response.status_code = 200
        response.headers["Location"] = f"/v1/loops/{loop}/jobs/{known.job_id}"
        return describe_job(known)
    job_id = new_prediction_id()
    try:
        accepted = await _receive(service, slot, request, job_id, suffix, text_column)
        job, headers = await _admit(service, slot, caller, job_id, accepted, idempotency_key)
        response.headers.update(headers)
    except BaseException:  # also when the caller goes away in the middle of an upload
        await asyncio.shield(asyncio.to_thread(service.runner.files.remove, job_id))
        raise
    if job.job_id != job_id:
        await asyncio.to_thread(service.runner.files.remove, job_id)
        response.status_code = 200
    service.runner.wake()
    response.headers["Location"] = f"/v1/loops/{loop}/jobs/{job.job_id}"
    return describe_job(job)


@router.get("", response_model=list[JobInfo], responses=problems(401, 403, 404, 422, 503))
async def list_jobs(
    loop: str, request: Request, caller: WhoCalls, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[JobInfo]:
    """Return this key's jobs with a loop, newest first; the operator sees every key's."""
    service = service_of(request)
    service.slot_for(loop, caller)
    key_id = None if caller.key_id == OPERATOR else caller.key_id
    return [describe_job(job) for job in await asyncio.to_thread(service.runner.jobs.list, key_id, loop, limit)]


@router.get("/{job_id}", response_model=JobInfo, responses=problems(401, 403, 404, 422, 503))
async def read_job(loop: str, job_id: JobId, request: Request, caller: WhoCalls) -> JobInfo:
    """Return how far a job got."""
    return describe_job(await _find(request, loop, job_id, caller))


@router.get(
    "/{job_id}/result",
    response_class=StreamingResponse,
    responses=RESULT | problems(401, 403, 409, 422, 503) | GONE,
)
async def read_result(loop: str, job_id: JobId, request: Request, caller: WhoCalls) -> Response:
    """Return the answers of a job that is over, as JSON lines; a cancelled job has those it got to."""
    runner = service_of(request).runner
    job = await _find(request, loop, job_id, caller)
    if not job.is_over or runner.is_working_on(job_id):
        raise ApiProblem(409, "not_finished", f"{job.n_done} of {job.n_rows} rows are answered", {"Retry-After": "2"})
    if job.removed_at is not None:
        raise ApiProblem(410, "result_deleted", f"the result was deleted at {job.removed_at.isoformat()}")
    path = runner.files.answers_of(job_id)
    size = await asyncio.to_thread(_size_of, path)
    headers = {"Content-Length": str(size), "Content-Disposition": f'attachment; filename="{job_id}.jsonl"'}
    return StreamingResponse(_chunks(path, size), media_type=NDJSON, headers=headers)


@router.post("/{job_id}/cancel", response_model=JobInfo, responses=problems(401, 403, 404, 409, 422, 503))
async def cancel_job(loop: str, job_id: JobId, request: Request, caller: WhoCalls) -> JobInfo:
    """Stop a job after the texts that it is at; what was answered until then stays, and counts."""
    runner = service_of(request).runner
    job = await _find(request, loop, job_id, caller)
    if not await asyncio.to_thread(runner.jobs.end, job_id, "cancelled", datetime.now(UTC)):
        raise ApiProblem(409, "is_over", f"the job is {job.status}")
    if not runner.is_working_on(job_id):
        await asyncio.to_thread(runner.files.finish, job_id)
        runner.wake()  # what it held of the month is free again
    return describe_job(await _find(request, loop, job_id, caller))


@router.delete("/{job_id}", response_model=JobInfo, responses=problems(401, 403, 409, 422, 503) | GONE)
async def delete_job(loop: str, job_id: JobId, request: Request, caller: WhoCalls) -> JobInfo:
    """Delete the result of a job that is over; without this it goes some days after the job's end."""
    runner = service_of(request).runner
    job = await _find(request, loop, job_id, caller)
    if not job.is_over or runner.is_working_on(job_id):
        raise ApiProblem(409, "not_finished", "cancel the job first", {"Retry-After": "2"})
    if job.removed_at is not None:
        raise ApiProblem(410, "result_deleted", f"the result was deleted at {job.removed_at.isoformat()}")
    await asyncio.to_thread(runner.files.remove, job_id)
    await asyncio.to_thread(runner.jobs.mark_removed, job_id, datetime.now(UTC))
    return describe_job(await _find(request, loop, job_id, caller))


def describe_job(job: Job) -> JobInfo:
    """Return a job as its owner sees it."""
    return JobInfo(
        job_id=job.job_id,
        loop=job.loop,
        status=job.status,
        reason=job.reason,
        rows=job.n_rows,
        valid=job.n_valid,
        done=job.n_done,
        created_at=job.created_at,
        ended_at=job.ended_at,
        removed_at=job.removed_at,
    )


async def _find(request: Request, loop: str, job_id: str, caller: Caller) -> Job:
    service = service_of(request)
    service.slot_for(loop, caller)
    job = await asyncio.to_thread(service.runner.jobs.find, job_id)
    if job is None or job.loop != loop or caller.key_id not in (job.key_id, OPERATOR):
        raise ApiProblem(404, "unknown_job", "job_id: this key has no such job with this loop")
    return job


async def _find_upload(request: Request, slot: Slot, caller: Caller, token: str) -> Job | None:
    """Return the job of an earlier upload; raises the 422 problem when it was for another loop."""
    job = await asyncio.to_thread(service_of(request).runner.jobs.find_token, caller.key_id, token)
    if job is not None and job.loop != slot.loop.name:
        raise ApiProblem(422, "invalid_request", f"Idempotency-Key: it names a job of '{job.loop}'")
    if job is not None:
        async for _ in _blocks(request.stream(), slot.loop.serving.jobs.max_bytes):
            pass  # who still sends would not see the answer
    return job


async def _receive(
    service: Service, slot: Slot, request: Request, job_id: str, suffix: str, text_column: str
) -> Accepted:
    limits = slot.loop.serving
    upload = await asyncio.to_thread(service.runner.files.new_upload, job_id, suffix)
    try:
        with upload.open("wb") as file:
            async for block in _blocks(request.stream(), limits.jobs.max_bytes):
                await asyncio.to_thread(file.write, block)
        arguments = (upload, text_column, limits.max_chars, limits.jobs.max_texts)
        return await asyncio.to_thread(service.runner.files.accept, *arguments)
    except DataError as error:
        raise ApiProblem(422, "invalid_file", str(error)) from error


async def _blocks(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    """Gather what the network brings into larger blocks; raises the 413 problem beyond the limit."""
    block, received = bytearray(), 0
    async for chunk in stream:
        received += len(chunk)
        if received > max_bytes:
            raise ApiProblem(413, "body_too_long", f"the file is longer than {max_bytes} bytes")
        block += chunk
        if len(block) >= CHUNK:
            yield bytes(block)
            block.clear()
    yield bytes(block)


async def _admit(
    service: Service, slot: Slot, caller: Caller, job_id: str, accepted: Accepted, token: str | None
) -> tuple[Job, dict[str, str]]:
    """Return the job and the limits' headers. Its texts are counted as they are answered, and held until then."""
    admission = await service.limits.admit(caller, accepted.n_valid)
    try:
        job = await asyncio.to_thread(_keep, service, slot, caller, job_id, accepted, token)
        if job.job_id == job_id:
            with suppress(TransientError):  # the job is accepted; the runner holds its texts when it sees it
                await service.runner.hold(job)
    finally:
        admission.close()
    return job, admission.headers


def _keep(service: Service, slot: Slot, caller: Caller, job_id: str, accepted: Accepted, token: str | None) -> Job:
    runner = service.runner
    job = Job(
        job_id=job_id,
        key_id=caller.key_id,
        loop=slot.loop.name,
        place=runner.place,
        token=token,
        status="queued",
        reason=None,
        n_rows=accepted.n_rows,
        n_valid=accepted.n_valid,
        n_done=0,
        first_row=accepted.first_row,
        created_at=datetime.now(UTC),
    )
    try:
        return runner.jobs.create(job, slot.loop.serving.jobs.max_open)
    except DataError as error:
        raise ApiProblem(429, "too_many_jobs", str(error), {"Retry-After": "10"}) from error


def _size_of(path: Path) -> int:
    """Return how many bytes a result has; a job that was cancelled before its first text has none."""
    return path.stat().st_size if path.exists() else 0


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    """Yield a file; an iterator that blocks is read in a thread by the server."""
    if size:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
