"""The rows of asynchronous jobs: whose they are, how far they got and how they ended. Their texts are in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, Row, Update, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from tasks.core.errors import DataError
from tasks.stores.database import reading, writing
from tasks.stores.schema import jobs

JobStatus = Literal["queued", "running", "done", "failed", "cancelled"]
UNFINISHED: tuple[JobStatus, ...] = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """A file of texts that is answered in the background."""

    job_id: str
    key_id: str
    loop: str
    place: str  # which service's files hold it
    token: str | None  # the caller's own name for the upload: the same one twice is one job
    status: JobStatus
    reason: str | None  # why it failed
    n_rows: int
    n_valid: int
    n_done: int
    first_row: int
    created_at: datetime
    ended_at: datetime | None = None
    removed_at: datetime | None = None  # when its answers were deleted

    @property
    def is_over(self) -> bool:
        """Say whether nothing more will happen."""
        return self.status not in UNFINISHED


class Jobs:
    """The jobs in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(self, job: Job, max_open: int) -> Job:
        """Keep a new job, or return the one that the key created with the same token before.

        Raises DataError when the key has `max_open` unfinished jobs.
        """
        try:
            with writing(self._engine) as connection:
                known = None if job.token is None else _find_token(connection, job.key_id, job.token)
                if known is not None:
                    return known
                unfinished = select(func.count()).where(jobs.c.key_id == job.key_id, jobs.c.status.in_(UNFINISHED))
                if connection.execute(unfinished).scalar_one() >= max_open:
                    raise DataError(f"this key has {max_open} unfinished jobs, which is the limit; wait or cancel one")
                connection.execute(insert(jobs), [vars(job)])
        except IntegrityError:  # another process created it between our look and our write
            known = None if job.token is None else self.find_token(job.key_id, job.token)
            if known is None:
                raise
            return known
        return job

    def find_token(self, key_id: str, token: str) -> Job | None:
        """Return the job that a key created with a token, or None."""
        with reading(self._engine) as connection:
            return _find_token(connection, key_id, token)

    def find(self, job_id: str) -> Job | None:
        """Return a job, or None when there is none of this id."""
        with reading(self._engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).one_or_none()
        return None if row is None else _job(row)

    def list(self, key_id: str | None, loop: str, limit: int) -> Sequence[Job]:
        """Return a key's jobs with a loop, newest first; key_id None means every key's."""
        query = select(jobs).where(jobs.c.loop == loop).order_by(jobs.c.job_id.desc()).limit(limit)
        query = query if key_id is None else query.where(jobs.c.key_id == key_id)
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(query)]

    def of_key(self, key_id: str) -> Sequence[Job]:
        """Return all jobs of a key whose files may still be there."""
        query = select(jobs).where(jobs.c.key_id == key_id, jobs.c.removed_at.is_(None))
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(query)]

    def unfinished(self, place: str) -> Sequence[Job]:
        """Return the jobs that a service with these files must go on with, oldest first."""
        query = select(jobs).where(jobs.c.place == place, jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.job_id)
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(query)]

    def advance(self, job_id: str, n_done: int) -> bool:
        """Say how far a job got; False when it is over, cancelled for example, and must not go on."""
        return self._change(_unfinished(job_id).values(status="running", n_done=n_done))

    def end(self, job_id: str, status: JobStatus, now: datetime, *, n_done: int | None = None,
            reason: str | None = None) -> bool:  # fmt: skip
        """End a job; False when it was over before."""
        values: dict[str, Any] = {"status": status, "ended_at": now, "reason": reason}
        return self._change(_unfinished(job_id).values(values if n_done is None else values | {"n_done": n_done}))

    def count_answers(self, job_id: str, n_done: int) -> None:
        """Say how many rows a job that was cancelled has answers for."""
        self._change(update(jobs).where(jobs.c.job_id == job_id).values(n_done=n_done))

    def mark_removed(self, job_id: str, now: datetime) -> None:
        """Say that a job's answers were deleted."""
        self._change(update(jobs).where(jobs.c.job_id == job_id, jobs.c.removed_at.is_(None)).values(removed_at=now))

    def ended_before(self, place: str, loop: str, moment: datetime) -> Sequence[Job]:
        """Return the jobs whose answers have been kept for long enough."""
        old = (jobs.c.place == place, jobs.c.loop == loop, jobs.c.ended_at < moment, jobs.c.removed_at.is_(None))
        with reading(self._engine) as connection:
            return [_job(row) for row in connection.execute(select(jobs).where(*old))]

    def _change(self, statement: Update) -> bool:
        with writing(self._engine) as connection:
            return connection.execute(statement).rowcount == 1


def _find_token(connection: Connection, key_id: str, token: str) -> Job | None:
    query = select(jobs).where(jobs.c.key_id == key_id, jobs.c.token == token)
    row = connection.execute(query).one_or_none()
    return None if row is None else _job(row)


def _unfinished(job_id: str) -> Update:
    return update(jobs).where(jobs.c.job_id == job_id, jobs.c.status.in_(UNFINISHED))


def _job(row: Row[Any]) -> Job:
    return Job(**row._mapping)
