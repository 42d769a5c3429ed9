"""Runs the jobs whose files are in one folder, oldest first, and deletes what was kept for long enough."""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from filelock import FileLock, Timeout

from infra.serving.access import OPERATOR
from infra.serving.job_run import Ended, JobRun, Means, patiently
from infra.serving.quotas import Reservation
from infra.serving.slots import Slot
from tasks.core.errors import DataError, TransientError
from tasks.stores.jobs import Job, JobStatus

logger = logging.getLogger(__name__)
JOBS_AT_A_TIME = 4  # per loop, so that a short job need not wait for a long one
JOBS_OF_A_KEY = 2  # of these
LOOK_SECONDS = 2.0  # until jobs that another process created or cancelled are seen
SWEEP_SECONDS = 600.0


class JobRunner:
    """Answers jobs in the background; of the processes that share a folder, one does."""

    def __init__(self, means: Means, slots: Mapping[str, Slot]) -> None:
        self.jobs = means.jobs
        self.files = means.files
        self.place = ""  # whose files these are
        self._means = means
        self._slots = slots
        self._changed = asyncio.Event()
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._held: dict[str, Reservation] = {}  # what unfinished jobs have to answer, also those that wait
        self._has_lock = False
        self._main: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer jobs, those that a kill interrupted first."""
        self.place = await asyncio.to_thread(self.files.open_place)
        self._main = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Leave the jobs as they are; the next start goes on with them."""
        tasks = [task for _, task in self._running.values()] + ([self._main] if self._main else [])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        """Look for new jobs now."""
        self._changed.set()

    async def hold(self, job: Job) -> None:
        """Keep the texts that a job has to answer reserved in its key's month, from its acceptance to its end.

        Raises TransientError when the month cannot be read; each look for jobs tries again.
        """
        if not self._has_lock or job.key_id == OPERATOR or job.job_id in self._held:
            return
        month = await self._means.quotas.month_of(job.key_id)
        if job.job_id not in self._held:  # another may have been here meanwhile
            self._held[job.job_id] = Reservation(month, min(job.n_rows - job.n_done, job.n_valid))

    def is_working_on(self, job_id: str) -> bool:
        """Say whether a job's answers may still grow."""
        return job_id in self._running

    async def _run(self) -> None:
        lock = FileLock(self.files.folder / "runner.lock", thread_local=False)
        while True:
            try:
                lock.acquire(blocking=False)  # the system frees it when a process dies
                break
            except Timeout:
                await asyncio.sleep(LOOK_SECONDS)
            except OSError as error:
                logger.error("jobs wait, their lock cannot be taken: %s", error)
                await asyncio.sleep(SWEEP_SECONDS)
        self._has_lock = True
        try:
            await self._keep_running()
        finally:
            lock.release()

    async def _keep_running(self) -> None:
        swept = float("-inf")
        while True:
            self._changed.clear()
            try:
                await self._look()
                if time.monotonic() - swept > SWEEP_SECONDS:
                    swept = time.monotonic()
                    await asyncio.to_thread(self._sweep, datetime.now(UTC))
            except TransientError as error:
                logger.warning("jobs cannot be looked up, they are looked up again: %s", error)
            except Exception:
                logger.exception("jobs cannot be looked after, they are looked after again")
            try:
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue

    async def _look(self) -> None:
        held = set(self._held)  # before the jobs are read: what is held from here on may be of a job that is not seen
        unfinished = await asyncio.to_thread(self.jobs.unfinished, self.place)
        for job in unfinished:
            await self.hold(job)
            self._begin(job)
        for job_id in held - {job.job_id for job in unfinished} - set(self._running):
            self._free(job_id)

    def _free(self, job_id: str) -> None:
        self._held.pop(job_id, Reservation()).close()

    def _begin(self, job: Job) -> None:
        beside = [other for other, _ in self._running.values() if other.loop == job.loop]
        of_this_key = sum(1 for other in beside if other.key_id == job.key_id)
        if job.job_id in self._running or len(beside) >= JOBS_AT_A_TIME or of_this_key >= JOBS_OF_A_KEY:
            return
        task = asyncio.create_task(self._work(job))
        self._running[job.job_id] = (job, task)
        task.add_done_callback(lambda _: self._forget(job.job_id))

    def _forget(self, job_id: str) -> None:
        del self._running[job_id]
        self._free(job_id)
        self.wake()

    async def _work(self, job: Job) -> None:
        """Take a job to its end, whatever it is."""
        run = JobRun(job, self._slots.get(job.loop), self._means, self._held.get(job.job_id, Reservation()))
        status: JobStatus = "done"
        reason: str | None = None
        try:
            await run.answer_rows()
        except Ended:
            status = "cancelled"
        except DataError as error:
            status, reason = "failed", str(error)
        except Exception:
            logger.exception("job %s failed", job.job_id)
            status, reason = "failed", "the service failed on this job"
        now = datetime.now(UTC)
        if not await patiently(self.jobs.end, job.job_id, status, now, n_done=run.n_done, reason=reason):
            await patiently(self.jobs.count_answers, job.job_id, run.n_done)  # it was cancelled meanwhile
        await asyncio.to_thread(self.files.finish, job.job_id)  # only now: a kill before it would have nothing to go on
        logger.info("job %s of %s with %s: %s, %d of %d rows", job.job_id, job.key_id, job.loop, status, run.n_done,
                    job.n_rows)  # fmt: skip

    def _sweep(self, now: datetime) -> None:
        """Delete answers that were kept for long enough, and files of uploads that never became a job."""
        for name, slot in self._slots.items():
            before = now - timedelta(days=slot.loop.serving.jobs.keep_days)
            for job in self.jobs.ended_before(self.place, name, before):
                self.files.remove(job.job_id)
                self.jobs.mark_removed(job.job_id, now)
        for job_id in self.files.list_ids():
            known = self.jobs.find(job_id)
            if known is None and created_at(job_id) < now - timedelta(days=1):
                self.files.remove(job_id)
            elif known is not None and known.is_over and not self.is_working_on(job_id):
                self.files.finish(job_id)


def created_at(job_id: str) -> datetime:
    """Return when a job's id was made; now for what is no id, so that nothing unknown looks old."""
    try:
        return datetime.fromtimestamp(int(job_id[:12], 16) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.now(UTC)
