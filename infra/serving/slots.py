"""The version that serves each loop: loaded beside the old one, checked, and switched between two micro-batches."""

import asyncio
import json
import logging
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from configs.schema import Loop
from configs.serving_schema import StageName
from infra.serving.answering import Answered as Answered
from infra.serving.answering import Asked as Asked
from infra.serving.answering import Beside, Candidate, Kept, Served, answer_batch
from infra.serving.batching import Laps, MicroBatcher, Observer
from infra.serving.problems import not_ready
from tasks.core.errors import DataError, TransientError
from tasks.core.predictor import UNKNOWN, Predictor
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.releases import StagedRelease

if TYPE_CHECKING:  # MLflow takes a second to import, and answering does not need it
    from tasks.stores.model_registry import ModelVersion

logger = logging.getLogger(__name__)
LATENCY_TRIALS = 5
LATENCY_TEXT = "It does what it should, and it does it well."


class Registry(Protocol):
    """What the service needs of the model registry."""

    def find(self, loop: str, alias: str) -> "ModelVersion | None":
        """Return the version behind an alias."""

    def get(self, loop: str, version: str) -> "ModelVersion":
        """Return one version."""

    def fetch_bundle(self, version: "ModelVersion", cache: Path) -> Path:
        """Return a local folder with the version's bundle."""

    def set_alias(self, loop: str, alias: str, version: str) -> None:
        """Move an alias."""

    def delete_alias(self, loop: str, alias: str) -> None:
        """Take an alias away."""


class VersionRefused(DataError):
    """A version did not pass the checks that stand before serving."""


class Slot:
    """One loop in the service."""

    def __init__(
        self,
        loop: Loop,
        log: PredictionLog,
        cache: Path,
        threads: int,
        on_swap: Callable[[str, str], None],
        observer: Observer | None = None,
    ) -> None:
        self.loop = loop
        self.served: Served | None = None
        self.candidate: Candidate | None = None  # a version on its way through shadow and canary
        self.ask_beside: Callable[[Sequence[Beside]], None] | None = None  # who asks the other version as well
        self.refused: str | None = None  # the version that last failed its checks
        self.problem: str | None = None  # why the champion could not be followed when it was last looked up
        self._log = log
        self._cache = cache
        self._threads = threads
        self._on_swap = on_swap
        self._observer = observer
        self._lock = asyncio.Lock()
        self._ready: tuple[ModelVersion, Predictor, dict[str, float]] | None = None  # checked, and not serving yet
        limits = loop.serving
        self.batcher: MicroBatcher[Asked, Answered, Kept] = MicroBatcher(
            self._answer_batch,
            self._keep,
            limits.max_batch,
            limits.max_queue,
            limits.timeout_seconds,
            loop.name,
            observer,
        )

    @property
    def answers(self) -> list[str]:
        """Return what may be answered, and so be the right label: the labels, and UNKNOWN where the loop says so."""
        labels = self.loop.labels
        served = self.served.predictor.all_answers if self.served is not None else ()
        may_be_unknown = self.loop.unknown is not None or UNKNOWN in served
        return [*labels, UNKNOWN] if may_be_unknown and UNKNOWN not in labels else list(labels)

    async def switch_to(
        self, version: "ModelVersion", registry: Registry, if_champion: bool = False
    ) -> dict[str, float]:
        """Load, check and serve a version, or only if it is the champion still; returns what the checks measured.

        Raises VersionRefused when a check fails: the old version then serves on. Nobody waits for the load. The version
        that served before a restart has shown its latency: a start loads the machine, and a trial would mean nothing.
        """
        async with self._lock:
            if self.served is not None and self.served.version == version.version:
                return {}
            predictor, checks = await self._prepare(version, registry)
            if if_champion and await asyncio.to_thread(registry.find, self.loop.name, "champion") != version:
                return {}  # released past it meanwhile: to serve it now would undo that until the next look
            self._ready = None
            if self.candidate is not None and self.candidate.version == version:
                self.candidate = None  # it answers everyone now
            previous = self.served
            self.served = Served(version.version, predictor, self._since(version.version))
            self.refused = None
            await asyncio.to_thread(self._remember, self.served)
        self._on_swap(self.loop.name, version.version)
        logger.info(
            "%s: version %s serves, before it %s", self.loop.name, version.version, previous and previous.version
        )
        return checks

    async def check(self, version: "ModelVersion", registry: Registry) -> dict[str, float]:
        """Load and check a version and keep it ready for `switch_to`, while the old one serves; raises as that does."""
        async with self._lock:
            if self.served is not None and self.served.version == version.version:
                return {}
            predictor, checks = await self._prepare(version, registry)
            self._ready = (version, predictor, checks)
        return checks

    async def stage(self, version: "ModelVersion", registry: Registry, release: StagedRelease) -> None:
        """Load and check a version, and let it answer its stage's part; raises as `switch_to` does.

        One that was loaded before in this release has shown its latency, as what served before a restart has.
        """
        async with self._lock:
            was_loaded = bool(release.record.get("checks"))
            predictor, checks = await self._prepare(version, registry, time_it=not was_loaded)
            if self._ready is not None and self._ready[0] == version:
                self._ready = None
            stages = self.loop.release.stages
            asked = stages.shadow if release.stage == "shadow" else stages.canary
            assert asked is not None
            served = Served(version.version, predictor, release.entered_at)
            stage: StageName = "shadow" if release.stage == "shadow" else "canary"
            self.candidate = Candidate(release, version, served, checks, stage, asked.share)

    async def _prepare(
        self, version: "ModelVersion", registry: Registry, time_it: bool = True
    ) -> tuple[Predictor, dict[str, float]]:
        """Return a version that passed its checks, now or when it was asked about before."""
        if self._ready is not None and self._ready[0] == version:
            return self._ready[1:]
        if self.candidate is not None and self.candidate.version == version:
            return self.candidate.served.predictor, self.candidate.checks
        try:
            return await asyncio.to_thread(self._load, version, registry, time_it)
        except DataError as error:
            level = logging.DEBUG if self.refused == version.version else logging.ERROR  # a retry is told once
            self.refused = version.version
            logger.log(level, "%s: version %s is refused: %s", self.loop.name, version.version, error)
            raise VersionRefused(str(error)) from error

    async def recall(self, reason: str) -> None:
        """Serve what served last, from this machine's cache, while the champion cannot be served for a reason.

        Never a version that was refused: its checks said that it must not answer.
        """
        async with self._lock:
            if self.served is not None:
                return
            version = self._recollect().get("version")
            if version is None or version == self.refused:
                return
            try:
                folder = self._cache / self.loop.name / version / "bundle"
                predictor = await asyncio.to_thread(Predictor.load, folder, self._threads)
            except DataError:  # the cache was cleared
                return
            self.served = Served(version, predictor, self._since(version))
        self._on_swap(self.loop.name, version)
        logger.warning("%s: version %s serves as before the restart: %s", self.loop.name, version, reason)

    @property
    def _memory(self) -> Path:
        return self._cache / self.loop.name / "served.json"

    def _remember(self, served: Served) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        partial = self._memory.with_suffix(".partial")
        record = {"version": served.version, "since": served.since.isoformat()}
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(self._memory)

    def _recollect(self) -> dict[str, str]:
        try:
            record: dict[str, str] = json.loads(self._memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record

    def _since(self, version: str) -> datetime:
        """Return when a version began to serve: a restart of the service does not begin it anew."""
        record = self._recollect()
        return datetime.fromisoformat(record["since"]) if record.get("version") == version else datetime.now(UTC)

    def _load(self, version: "ModelVersion", registry: Registry, time_it: bool) -> tuple[Predictor, dict[str, float]]:
        folder = registry.fetch_bundle(version, self._cache)
        predictor = Predictor.load(folder, self._threads)
        served_before = self.served is None and self._recollect().get("version") == version.version
        try:
            return predictor, check_version(predictor, self.loop, time_it=time_it and not served_before)
        except DataError:
            raise
        except Exception as error:  # the engine raises what it likes; whatever it is, such a version never serves
            raise VersionRefused(f"it cannot answer: {type(error).__name__}: {error}") from error

    def _answer_batch(self, asked: list[Asked]) -> tuple[list[Answered], Kept]:
        """Answer a batch and return what the log must keep of it; a swap takes effect from the next batch on."""
        served = self.served
        if served is None:
            raise not_ready(f"'{self.loop.name}' has no champion yet", 10)
        mark = None if self._observer is None else Laps(self._observer).mark
        return answer_batch(self.loop, served, self.candidate, asked, mark)

    def _keep(self, kept: Kept) -> None:
        """Commit the rows of a batch; what the other version shall be asked too is only handed on."""
        self._log.append([row for part in kept.parts for row in part.rows(self.loop.name)])
        if kept.beside and self.ask_beside is not None:
            self.ask_beside(kept.beside)


def check_version(predictor: Predictor, loop: Loop, time_it: bool = True) -> dict[str, float]:
    """Return what was measured; raises VersionRefused when labels, stored cases or latency are not as they must be."""
    if predictor.manifest.loop != loop.name:
        raise VersionRefused(f"it was made for loop '{predictor.manifest.loop}', not for '{loop.name}'")
    if set(predictor.labels) != set(loop.labels):
        raise VersionRefused(f"it answers {list(predictor.labels)}, the loop says {loop.labels}")
    difference = predictor.largest_case_difference()
    if difference > loop.release.max_case_difference:
        raise VersionRefused(
            f"a stored case differs by {difference:.4f}, {loop.release.max_case_difference:.4f} is allowed"
        )
    if not time_it:
        return {"largest_case_difference": round(difference, 6)}
    seconds = []
    for _ in range(LATENCY_TRIALS):
        started = time.perf_counter()
        predictor.predict([LATENCY_TEXT])
        seconds.append(time.perf_counter() - started)
    latency_ms = 1000 * statistics.median(seconds)
    if latency_ms > loop.release.max_latency_ms:
        raise VersionRefused(f"one text takes {latency_ms:.1f} ms, {loop.release.max_latency_ms:.1f} ms is allowed")
    return {"largest_case_difference": round(difference, 6), "latency_ms": round(latency_ms, 3)}


def new_prediction_id() -> str:
    """Return an id that sorts by time, so that the log's index grows at its end: 48 bits of time, 80 of chance."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid.uuid4().hex[:20]}"


async def follow_alias(slot: Slot, open_registry: Callable[[], Registry]) -> str | None:
    """Serve what the champion alias names; at a start where that cannot be, what served last.

    A refused champion is tried again for as long as nothing serves: what was slow while everything started may pass.
    Returns the champion when it serves, else None.
    """
    try:
        registry = await asyncio.to_thread(open_registry)
        champion = await asyncio.to_thread(registry.find, slot.loop.name, "champion")
        if champion is not None and champion.version == slot.refused and slot.served is not None:
            return None  # told when it was refused
        if champion is not None:
            await slot.switch_to(champion, registry, if_champion=True)
            if slot.served is None or slot.served.version != champion.version:
                return None
    except (DataError, TransientError) as error:
        await slot.recall(str(error))
        if slot.problem != str(error):
            state = f"version {slot.served.version} serves on" if slot.served else "nothing serves, it is tried again"
            logger.warning("%s: the champion cannot be followed, %s: %s", slot.loop.name, state, error)
        slot.problem = str(error)
        return None
    slot.problem = None
    return champion.version if champion is not None else None
