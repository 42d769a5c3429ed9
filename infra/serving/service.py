"""What the routes share: stores, slots, access and metrics of one running service."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from fastapi import Request

from configs.load import ConfigError, load_all_loops
from configs.plans import PlanFile
from configs.schema import Loop
from configs.settings import Settings
from infra.serving.access import Access, Caller
from infra.serving.alerts import deliver_alerts
from infra.serving.job_run import Means
from infra.serving.job_runner import JobRunner
from infra.serving.limits import open_limits
from infra.serving.metrics import Metrics
from infra.serving.problems import ApiProblem
from infra.serving.sessions import Sessions
from infra.serving.slots import Registry, Slot, follow_alias
from infra.serving.staging import Staging
from tasks.core.champions import find_last_champion
from tasks.core.errors import TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.drift_decisions import DriftDecisions
from tasks.stores.erasures import Erasures
from tasks.stores.job_files import JobFiles
from tasks.stores.jobs import Jobs
from tasks.stores.labellers import Labellers
from tasks.stores.labels import Labels
from tasks.stores.ledger import Ledger
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.releases import Releases
from tasks.stores.statements import Statements
from tasks.stores.traffic import Traffic

logger = logging.getLogger(__name__)
ALERT_SECONDS = 60.0  # until Prefect is tried again after it took no alert


class Service:
    """One process that answers for all loops."""

    def __init__(self, settings: Settings, open_registry: Callable[[], Registry]) -> None:
        engine = open_database(settings.database)
        self.settings = settings
        self.open_registry = open_registry
        self.log = PredictionLog(engine)
        self.limits = open_limits(settings.limits_url, self.log)
        self.ledger = Ledger(engine)
        self.erasures = Erasures(engine)
        self.releases = Releases(engine)
        self.keys = ApiKeys(engine)
        self.plans = PlanFile(settings.plans_file)
        self.access = Access(self.keys, self.plans, _read_token(settings), f"evertune_session_{settings.api_port}")
        self.sessions = Sessions(self.access, Labellers(engine), _read_token(settings), settings.api_port)
        self.labels = Labels(engine)
        self.drift_decisions = DriftDecisions(engine)
        self.traffic = Traffic(engine)
        self.statements = Statements(engine)
        self.metrics = Metrics()
        self._loops = load_all_loops(settings.loops_dir)
        self._followed: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.slots: dict[str, Slot] = {}
        files = JobFiles(settings.root / "jobs")
        means = Means(Jobs(engine), files, self.log, self.keys, self.limits.quotas, self.metrics)
        self.runner = JobRunner(means, self.slots)
        self.stagings: list[Staging] = []

    async def start(self) -> None:
        """Start the engines and follow every loop's champion alias."""
        for loop in self._loops:
            self.slots[loop.name] = self._make_slot(loop)
            self.slots[loop.name].batcher.start()
            self.stagings.append(self._make_staging(self.slots[loop.name]))
        await self.runner.start()
        self._tasks = [asyncio.create_task(self._follow(slot)) for slot in self.slots.values()]
        self._tasks += [asyncio.create_task(self._take_through_stages(staging)) for staging in self.stagings]
        self._tasks.append(asyncio.create_task(self._deliver_alerts()))

    async def stop(self) -> None:
        """Answer what waits, then stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.runner.stop()
        await asyncio.gather(*(slot.batcher.stop() for slot in self.slots.values()))
        await self.limits.close()
        await asyncio.gather(*(asyncio.to_thread(staging.stop) for staging in self.stagings))

    def slot_for(self, loop: str, caller: Caller) -> Slot:
        """Return a loop's slot; raises 404 for an unknown loop and 403 for one that the key may not use."""
        slot = self.slots.get(loop)
        if slot is None:
            usable = ", ".join(name for name in sorted(self.slots) if caller.may_use(name)) or "none"
            raise ApiProblem(404, "unknown_loop", f"there is no such loop; this key may use: {usable}")
        if not caller.may_use(loop):
            raise ApiProblem(403, "forbidden", f"this key may not use '{loop}'")
        return slot

    def missing(self) -> list[str]:
        """Return the loops that cannot answer although they have, or may have, a champion."""
        silent = {name for name, slot in self.slots.items() if slot.served is None and slot.problem is not None}
        return sorted(set(self.slots) - self._followed | silent)

    def _make_slot(self, loop: Loop) -> Slot:
        cache, threads = self.settings.root / "models", self.settings.serving_threads
        observer = self.metrics.observe_loop(loop.name)
        return Slot(loop, self.log, cache, threads, self.metrics.show_version, observer)

    async def _follow(self, slot: Slot) -> None:
        unexplained: str | None = None
        while True:
            (champion,) = await asyncio.gather(follow_alias(slot, self.open_registry), return_exceptions=True)
            if isinstance(champion, Exception):  # a full disk, a library's own error: told, and tried again
                slot.problem = type(champion).__name__
                logger.error("%s: the champion cannot be followed", slot.loop.name, exc_info=champion)
            elif isinstance(champion, str):
                unexplained = await self._explain(slot.loop.name, champion, unexplained)
            self._followed.add(slot.loop.name)
            await asyncio.sleep(self.settings.alias_poll_seconds)

    def _make_staging(self, slot: Slot) -> Staging:
        return Staging(slot, self.releases, self.ledger, self.settings, self.open_registry)

    async def _take_through_stages(self, staging: Staging) -> None:
        """Look at the release of a loop for ever; a look that fails is told once, and the next one tries again."""
        told: str | None = None
        while True:
            (failed,) = await asyncio.gather(staging.look(), return_exceptions=True)
            if isinstance(failed, Exception) and str(failed) != told:
                trace = None if isinstance(failed, TransientError) else failed
                logger.error("a staged release could not be looked at: %s", failed, exc_info=trace)
            told = str(failed) if isinstance(failed, Exception) else None
            await asyncio.sleep(self.settings.alias_poll_seconds)

    async def _deliver_alerts(self) -> None:
        while True:
            (told,) = await asyncio.gather(
                asyncio.to_thread(deliver_alerts, self.releases, self.settings), return_exceptions=True
            )
            if isinstance(told, Exception):
                logger.error("alerts could not be delivered: %s", told)
            poll = self.settings.alias_poll_seconds
            await asyncio.sleep(poll if told is True else max(poll, ALERT_SECONDS))

    async def _explain(self, loop: str, champion: str, unexplained: str | None) -> str | None:
        """Audit an alias that somebody moved in MLflow itself; return a champion that no audit row names yet.

        Our own moves set the alias first and write their row right after: only the second look writes one.
        """
        try:
            last = find_last_champion(await asyncio.to_thread(self.ledger.audit, loop))
            if last == champion:
                return None
            if unexplained == champion:
                why, now = "the champion alias was moved in MLflow", datetime.now(UTC)
                await asyncio.to_thread(self.ledger.append_audit, loop, "release", "MLflow", why, last, champion, now)
        except TransientError as error:
            logger.error("%s: the audit log could not be kept: %s", loop, error)
        return champion


def _read_token(settings: Settings) -> str:
    try:
        token = settings.read_operator_token()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{settings.token_file}: no such file; set EVERTUNE_OPERATOR_TOKEN or run evertune up"
        ) from error
    if not token:  # an empty secret would let everyone in
        raise ConfigError("the operator token is empty; set EVERTUNE_OPERATOR_TOKEN")
    return token


def service_of(request: Request) -> Service:
    """Return the service that a request came to."""
    return cast(Service, request.app.state.service)


async def require_operator(request: Request) -> None:
    """Raise the 401 or 403 problem unless the operator asks."""
    await service_of(request).access.require_operator(request)


async def caller_of(request: Request) -> Caller:
    """Return who calls; raises the 401 problem without a valid key."""
    return await service_of(request).access.identify(request)
