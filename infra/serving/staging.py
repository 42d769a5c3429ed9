"""Takes a version through shadow and canary: looks at what was compared, and has it wait, advance, or go.

The database says where a release stands, so a restart goes on from there. The service moves the champion alias itself
when a release becomes stable: under the lock of the flows that move it, and only if nobody moved it meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, cast

from configs.serving_schema import StageName
from configs.settings import Settings
from infra.serving.beside import BesideWorker
from infra.serving.slots import Registry, Slot, VersionRefused
from tasks.core.champions import SERVICE, find_last_champion
from tasks.core.errors import DataError, TransientError
from tasks.core.sequential import Pairs
from tasks.core.staging import Standing, Tally, Verdict, judge, judge_standing, next_stage
from tasks.stores.ledger import Ledger
from tasks.stores.locks import hold_lock
from tasks.stores.releases import Releases, Stage, StagedRelease

logger = logging.getLogger(__name__)
PAGE = 5000  # texts read at a time


class Staging:
    """The staged releases of one loop in the service."""

    def __init__(
        self, slot: Slot, releases: Releases, ledger: Ledger, settings: Settings, open_registry: Callable[[], Registry]
    ) -> None:
        self._slot = slot
        self._releases = releases
        self._ledger = ledger
        self._settings = settings
        self._open_registry = open_registry
        self._worker = BesideWorker(slot.loop.name, releases, lambda: slot.batcher.num_waiting > 0)
        self._stages = slot.loop.release.stages
        self._tally = Tally(self._stages.max_latency_ratio)
        self._counted = ""  # the release that the tally is of
        self._mark = 0  # up to which row
        slot.ask_beside = self._worker.ask

    def stop(self) -> None:
        """Stop asking; the release goes on when the service does."""
        self._worker.stop()

    async def look(self) -> None:
        """Look at the loop's release, if there is one, and do what its limits say.

        Raises TransientError when a store does not answer: the next look tries again.
        """
        release = await asyncio.to_thread(self._releases.find_running, self._slot.loop.name)
        if release is None:
            self._slot.candidate = None
            return
        if self._slot.served is None:  # there is nothing to compare with yet
            return
        standing = await asyncio.to_thread(self._judge_standing, release, self._slot.served.version)
        if standing.action != "go on":
            await asyncio.to_thread(self._conclude, release, standing)
            self._slot.candidate = None
            return
        if not await self._load(release):
            return
        verdict, record = await asyncio.to_thread(self._judge, release)
        if verdict.action == "take back":
            self._slot.candidate = None
            await asyncio.to_thread(self._take_back, release, verdict.reason, record)
        elif verdict.action == "wait":
            if (verdict.reason, record) != (release.reason, release.record):
                await asyncio.to_thread(self._releases.note, release, verdict.reason, record)
        else:
            await self._advance(release, verdict.reason, record)

    async def _load(self, release: StagedRelease) -> bool:
        """Have the candidate loaded and in its stage; False when there is none, or it was refused."""
        candidate = self._slot.candidate
        if candidate is not None and candidate.release.release_id == release.release_id:
            if candidate.stage != release.stage:  # another service of the same database advanced it
                registry = await asyncio.to_thread(self._open_registry)
                await self._slot.stage(candidate.version, registry, release)
            return True
        try:
            registry = await asyncio.to_thread(self._open_registry)
            version = await asyncio.to_thread(registry.get, release.loop, release.version)
            await self._slot.stage(version, registry, release)
        except VersionRefused as error:
            alert = self._describe(release, "refused", f"was refused by the service: {error}")
            await asyncio.to_thread(self._end, release, "refused", str(error), alert)
            return False
        except DataError as error:  # it was deleted from the registry
            await asyncio.to_thread(self._end, release, "withdrawn", str(error), None)
            return False
        logger.info("%s: version %s is in %s beside version %s", release.loop, release.version, release.stage,
                    release.champion)  # fmt: skip
        return True

    def _judge_standing(self, release: StagedRelease, serves: str) -> Standing:
        """Say whether the release may go on; the registry is asked only where the service serves something else."""
        champion: str | None = serves
        if serves != release.champion:
            found = self._open_registry().find(release.loop, "champion")
            champion = found.version if found else None
        return judge_standing(
            release.stage, release.version, release.champion, release.started_at,
            champion=champion, stages=self._stages, now=datetime.now(UTC),
        )  # fmt: skip

    def _conclude(self, release: StagedRelease, standing: Standing) -> None:
        """End a release that may not go on; a flow that moves the champion right now ends it itself."""
        try:
            with hold_lock(release.loop, "release", self._settings, wait_seconds=0):
                self._end_standing(release, standing)
        except TransientError as error:
            logger.info("%s: the release of version %s is looked at again: %s", release.loop, release.version, error)

    def _end_standing(self, release: StagedRelease, standing: Standing) -> None:
        if standing.action == "complete":
            is_audited = find_last_champion(self._ledger.audit(release.loop)) == release.version
            alert = self._describe(release, "release", f"is stable: {standing.reason}")
            now = datetime.now(UTC)
            self._releases.complete(release, SERVICE, standing.reason, now, release.record, alert, is_audited)
            return
        stage: Stage = "lapsed" if standing.action == "lapse" else "withdrawn"
        alert = self._describe(release, "rollback", f"was {stage}: {standing.reason}")
        self._end(release, stage, standing.reason, alert)

    def _judge(self, release: StagedRelease) -> tuple[Verdict, dict[str, Any]]:
        """Count what was compared since the last look, and judge it."""
        if self._counted != release.release_id:
            self._tally, self._mark, self._counted = Tally(self._stages.max_latency_ratio), 0, release.release_id
        while True:
            compared, mark = self._releases.read_compared(release, self._mark, PAGE)
            for row in compared:
                self._tally.add(row)
            if mark == self._mark:
                break
            self._mark = mark
        pairs = self._releases.count_pairs(release)
        stage = cast(StageName, release.stage)  # judge_standing saw to it
        verdict = judge(stage, release.entered_at, self._tally, pairs, self._stages, datetime.now(UTC))
        return verdict, self._describe_counts(verdict, pairs)

    def _describe_counts(self, verdict: Verdict, pairs: Pairs) -> dict[str, Any]:
        candidate = self._slot.candidate
        return {
            "texts": dict(self._tally.texts),
            "limits": [asdict(limit) for limit in verdict.limits],
            "labels": asdict(pairs),
            "checks": candidate.checks if candidate else {},
            "left_out": self._worker.num_dropped,
        }

    async def _advance(self, release: StagedRelease, reason: str, record: dict[str, Any]) -> None:
        stage = next_stage(cast(StageName, release.stage), self._stages)
        candidate = self._slot.candidate
        if candidate is None:
            return
        if stage == "stable":
            if await asyncio.to_thread(self._promote, release, reason, record):
                registry = await asyncio.to_thread(self._open_registry)
                await self._slot.switch_to(candidate.version, registry)
            return
        alert = self._describe(release, "release", f"goes from {release.stage} to {stage}: {reason}")
        now = datetime.now(UTC)
        entered = await asyncio.to_thread(self._releases.enter, release, stage, SERVICE, reason, now, record, alert)
        if entered:
            asked = self._stages.canary
            assert asked is not None
            self._slot.candidate = replace(
                candidate, release=replace(release, stage=stage, entered_at=now), stage=stage, share=asked.share
            )
            logger.info("%s", alert["summary"])

    def _promote(self, release: StagedRelease, reason: str, record: dict[str, Any]) -> bool:
        """Point the alias to the candidate and close the release; False when somebody else is moving it."""
        try:
            with hold_lock(release.loop, "release", self._settings, wait_seconds=0):
                registry = self._open_registry()
                champion = registry.find(release.loop, "champion")
                running = self._releases.find_running(release.loop)
                is_same = running is not None and running.release_id == release.release_id
                if not is_same or champion is None or champion.version != release.champion:
                    return False  # the next look says what became of it
                registry.set_alias(release.loop, "champion", release.version)
                alert = self._describe(release, "release", f"serves everyone: {reason}")
                why = f"{release.why}; {release.stage}: {reason}" if release.why else f"{release.stage}: {reason}"
                self._releases.complete(release, release.who, why, datetime.now(UTC), record, alert)
        except TransientError as error:
            logger.info("%s: version %s becomes stable at the next look: %s", release.loop, release.version, error)
            return False
        logger.info("%s", alert["summary"])
        with suppress(DataError, TransientError):  # it is still named challenger: no harm
            challenger = registry.find(release.loop, "challenger")
            if challenger is not None and challenger.version == release.version:
                registry.delete_alias(release.loop, "challenger")
        return True

    def _take_back(self, release: StagedRelease, reason: str, record: dict[str, Any]) -> None:
        alert = self._describe(release, "rollback", f"was taken back from {release.stage}: {reason}")
        self._end(release, "refused", reason, alert, record)

    def _end(
        self, release: StagedRelease, stage: Stage, why: str, alert: dict[str, Any] | None,
        record: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if self._releases.end(release, stage, SERVICE, why, datetime.now(UTC), record, alert):
            logger.warning("%s: the release of version %s is %s: %s", release.loop, release.version, stage, why)

    def _describe(self, release: StagedRelease, kind: str, what: str) -> dict[str, Any]:
        """Return the alert about a change of stage."""
        return {
            "kind": kind,
            "summary": f"{release.loop}: version {release.version} {what}"[:300],
            "body": f"**Stage:** {release.stage}\n\n**What:** version {release.version} {what}\n\n"
            f"**Champion of its release:** version {release.champion}\n\n"
            f"**Wanted by:** {release.who} ({release.why})\n\n`evertune releases {release.loop}` shows it all.",
            "link": f"{self._settings.mlflow}/#/models/{release.loop}/versions/{release.version}",
            "version": release.version,
        }
