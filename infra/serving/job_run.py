"""One job on its way through the engine: row by row, behind the interactive traffic, each text once.

The prediction ids of a job's rows follow from the job and the row. So what was answered before a kill is found in the
log by its id and is not asked, logged or billed again; the file of answers only says where to go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any, ParamSpec, TypeVar

from sqlalchemy.exc import IntegrityError

from infra.serving.access import OPERATOR
from infra.serving.metrics import Metrics
from infra.serving.problems import ApiProblem
from infra.serving.quotas import Quotas, Reservation
from infra.serving.slots import Answered, Asked, Slot
from tasks.core.errors import DataError, TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.job_files import Answers, JobFiles, JobRow
from tasks.stores.jobs import Job, Jobs
from tasks.stores.prediction_log import LoggedPrediction, PredictionLog

logger = logging.getLogger(__name__)
PART_TEXTS = 8  # at a time: an interactive text waits for no more of a job than this
TELL_SECONDS = 1.0  # between two reports of how far the job got
RETRY_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)  # while there is no champion, or a store does not answer
UNANSWERABLE = "the engine could not answer it"
LINE_FIELDS = ("prediction_id", "version", "label", "score", "scores", "truncated")
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Ended(Exception):
    """The job was cancelled, or its key has ended."""


@dataclass(frozen=True)
class Means:
    """What jobs are done with."""

    jobs: Jobs
    files: JobFiles
    log: PredictionLog
    keys: ApiKeys
    quotas: Quotas
    metrics: Metrics


async def patiently(work: Callable[Given, Result], *arguments: Given.args, **named: Given.kwargs) -> Result:
    """Return what a store answers, as soon as it does."""
    for attempt in count():
        try:
            return await asyncio.to_thread(work, *arguments, **named)
        except TransientError as error:
            logger.warning("a job waits for a store: %s", error)
            await asyncio.sleep(retry_seconds(attempt))
    raise AssertionError("patience has no end")


def retry_seconds(attempt: int) -> float:
    """Return how long to wait after so many failures."""
    return RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)]


class JobRun:
    """Answers what of a job has no answer yet."""

    def __init__(self, job: Job, slot: Slot | None, means: Means, reserved: Reservation) -> None:
        self._job = job
        self._slot = slot
        self._means = means
        self._reserved = reserved
        self._told = 0.0
        self.n_done = job.n_done

    async def answer_rows(self) -> None:
        """Answer every row that has no answer yet; raises Ended when the job must not go on."""
        if self._slot is None:
            raise DataError("this service has no such loop any more")
        answers = await asyncio.to_thread(self._means.files.open_answers, self._job.job_id)
        try:
            self.n_done = answers.n_rows
            await self._check_in()
            await self._answer_from(answers, self._slot)
        finally:
            await asyncio.to_thread(answers.close)

    async def _answer_from(self, answers: Answers, slot: Slot) -> None:
        size = min(PART_TEXTS, slot.loop.serving.max_batch)
        rows = self._means.files.rows(self._job.job_id, answers.n_rows)
        while part := await asyncio.to_thread(lambda: list(islice(rows, size))):
            lines = await self._answer_part(slot, part)
            await asyncio.to_thread(answers.append, lines)
            self.n_done = answers.n_rows
            self._reserved.limit(self._job.n_rows - self.n_done)
            if time.monotonic() - self._told > TELL_SECONDS:
                await self._check_in()

    async def _check_in(self) -> None:
        """Say how far the job got; raises Ended when it was cancelled or its key opens nothing any more."""
        means, job = self._means, self._job
        key = None if job.key_id == OPERATOR else await patiently(means.keys.get, job.key_id)
        now = datetime.now(UTC)
        if key is not None and (state := key.state(now)) != "valid":  # after its end no statement would tell of it
            reason = "its key was revoked" if state == "revoked" else "its key has expired"
            await patiently(means.jobs.end, job.job_id, "cancelled", now, reason=reason)
            raise Ended
        if not await patiently(means.jobs.advance, job.job_id, self.n_done):
            raise Ended
        self._told = time.monotonic()

    async def _answer_part(self, slot: Slot, rows: Sequence[JobRow]) -> list[dict[str, Any]]:
        job = self._job
        request_id = id_of_row(job.job_id, job.first_row)
        asked = [
            Asked(row.text, row.group, job.key_id, request_id, id_of_row(job.job_id, row.number), time.monotonic())
            for row in rows
            if row.flaw is None
        ]
        said = await self._answer_once(slot, asked) if asked else {}
        return [_as_line(row, said.get(id_of_row(job.job_id, row.number))) for row in rows]

    async def _answer_once(self, slot: Slot, asked: Sequence[Asked]) -> dict[str, Answered]:
        """Return the answers by prediction id, each logged once; a text that breaks the engine has none."""
        failures = 0
        while True:
            kept = await patiently(self._means.log.read_predictions, [one.prediction_id for one in asked])
            said = {prediction_id: _as_answered(row) for prediction_id, row in kept.items()}
            missing = [one for one in asked if one.prediction_id not in said]
            if not missing:
                return said
            try:
                fresh = await slot.batcher.answer(missing, background=True)
            except (ApiProblem, TransientError) as problem:  # no champion yet, or the log did not answer
                logger.debug("job %s waits: %s", self._job.job_id, problem)
                await asyncio.sleep(retry_seconds(failures))
                await self._check_in()
            except IntegrityError:  # some of them were logged after all: the log will say
                await asyncio.sleep(retry_seconds(0))
            except Exception as error:  # noqa: BLE001 - one text must not end a job of thousands
                logger.error("job %s: %d texts failed: %s", self._job.job_id, len(missing), type(error).__name__)
                if len(asked) == 1:
                    return said
                parts = [await self._answer_once(slot, [one]) for one in missing]
                return said | {name: one for part in parts for name, one in part.items()}
            else:
                self._reserved.settle(len(fresh))
                self._means.metrics.count_texts(self._job.loop, fresh)
                return said | {one.prediction_id: one for one in fresh}
            failures += 1


def id_of_row(job_id: str, number: int) -> str:
    """Return the prediction id of a job's row: the same after a restart, in the order of the rows."""
    return f"{job_id[:24]}{number:08x}"


def _as_answered(row: LoggedPrediction) -> Answered:
    return Answered(row.prediction_id, row.version, row.label, row.score, row.scores, row.truncated)


def _as_line(row: JobRow, said: Answered | None) -> dict[str, Any]:
    line: dict[str, Any] = {"row": row.number} | ({} if row.id is None else {"id": row.id})
    if said is None:
        return line | {"error": row.flaw or UNANSWERABLE}
    return line | {name: getattr(said, name) for name in LINE_FIELDS}
