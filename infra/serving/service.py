"""What the routes share: stores, slots, access and metrics of one running service."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from fastapi import Request

from configs.load import ConfigError, load_all_loops
from configs.schema import Loop
from configs.settings import Settings
from infra.serving.access import Access, Caller
from infra.serving.metrics import Metrics
from infra.serving.problems import ApiProblem
from infra.serving.slots import Registry, Slot, follow_alias
from tasks.core.champions import find_last_champion
from tasks.core.errors import TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.prediction_log import PredictionLog

logger = logging.getLogger(__name__)


class Service:
    """One process that answers for all loops."""

    def __init__(self, settings: Settings, open_registry: Callable[[], Registry]) -> None:
        engine = open_database(settings.database)
        self.settings = settings
        self.open_registry = open_registry
        self.log = PredictionLog(engine)
        self.ledger = Ledger(engine)
        self.keys = ApiKeys(engine)
        self.access = Access(self.keys, _read_token(settings), f"evertune_session_{settings.api_port}")
        self.metrics = Metrics()
        self._loops = load_all_loops(settings.loops_dir)
        self._followed: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.slots: dict[str, Slot] = {}

    async def start(self) -> None:
        """Start the engines and follow every loop's champion alias."""
        for loop in self._loops:
            self.slots[loop.name] = self._make_slot(loop)
            self.slots[loop.name].batcher.start()
        self._tasks = [asyncio.create_task(self._follow(slot)) for slot in self.slots.values()]

    async def stop(self) -> None:
        """Answer what waits, then stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(slot.batcher.stop() for slot in self.slots.values()))

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
        return Slot(loop, self.log, cache, threads, self.metrics.show_version)

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


async def caller_of(request: Request) -> Caller:
    """Return who calls; raises the 401 problem without a valid key."""
    return await service_of(request).access.identify(request)
