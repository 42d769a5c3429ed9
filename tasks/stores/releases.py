"""Versions on their way through shadow and canary: where each stands, what was compared, and whom to tell.

The table is the truth: a restarted service, or a second one, goes on from it. Every change of a stage is one
transaction with its audit row, and happens only from the stage that was read.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Engine, func, insert, select, update

from tasks.core.sequential import Pairs
from tasks.core.staging import Compared, count_pairs
from tasks.stores.database import reading, writing
from tasks.stores.ledger import Action, AuditRow
from tasks.stores.schema import audit, feedback, predictions, release_steps, releases, shadow_predictions

Stage = Literal["shadow", "canary", "stable", "refused", "withdrawn", "lapsed"]
ENDED: dict[str, Action] = {"refused": "refuse", "withdrawn": "withdraw", "lapsed": "lapse"}  # as the audit log says


@dataclass(frozen=True)
class StagedRelease:
    """A version on its way, or how that ended; `record` is what was measured when it was last looked at."""

    release_id: str
    loop: str
    version: str
    champion: str
    stage: str
    who: str
    why: str
    action: str
    started_at: datetime
    entered_at: datetime
    ended_at: datetime | None
    reason: str
    record: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One change of a release's stage."""

    at: datetime
    stage: str
    who: str
    why: str
    record: dict[str, Any]


@dataclass(frozen=True)
class DueAlert:
    """An alert that Prefect has not heard of yet."""

    step_id: int
    loop: str
    at: datetime
    alert: dict[str, Any]


@dataclass(frozen=True)
class ShadowRow:
    """What a version said of a text that the other one answered; no label: it could not."""

    prediction_id: str
    release_id: str
    loop: str
    at: datetime
    version: str
    stage: str
    label: str | None = None
    score: float | None = None
    scores: dict[str, float] | None = None
    candidate_ms: float | None = None
    champion_ms: float | None = None


class Releases:
    """Staged releases in a database of `open_database`. Thread-safe; changes commit before they return."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(
        self, loop: str, version: str, champion: str, stage: str, who: str, why: str, action: str, at: datetime
    ) -> StagedRelease:
        """Begin a release in its first stage; one of another version that is still on its way is withdrawn."""
        started = StagedRelease(
            f"{at:%Y%m%dt%H%M%S}-{secrets.token_hex(3)}", loop, version, champion, stage, who, why, action, at, at,
            None, "it has just begun", {},
        )  # fmt: skip
        with writing(self._engine) as connection:
            older = _find_running(connection, loop)
            if older is not None:
                _end(connection, older, "withdrawn", who, f"version {version} came after it", at, older.record)
            connection.execute(insert(releases), [asdict(started)])
            _keep_step(connection, started, stage, who, why, at, {}, None)
            row = AuditRow(at, loop, stage, who, why, champion, version)
            connection.execute(insert(audit), [asdict(row)])
        return started

    def find_running(self, loop: str) -> StagedRelease | None:
        """Return the release that is on its way, or None."""
        with reading(self._engine) as connection:
            return _find_running(connection, loop)

    def list_recent(self, loop: str, limit: int) -> list[StagedRelease]:
        """Return the newest releases that went through stages, newest first."""
        query = select(releases).where(releases.c.loop == loop).order_by(releases.c.started_at.desc()).limit(limit)
        with reading(self._engine) as connection:
            return [StagedRelease(**row) for row in connection.execute(query).mappings()]

    def list_steps(self, release_id: str) -> list[Step]:
        """Return the stages of a release, in order."""
        columns = [release_steps.c[name] for name in ("at", "stage", "who", "why", "record")]
        query = select(*columns).where(release_steps.c.release_id == release_id).order_by(release_steps.c.id)
        with reading(self._engine) as connection:
            return [Step(**row) for row in connection.execute(query).mappings()]

    def note(self, release: StagedRelease, reason: str, record: Mapping[str, Any]) -> None:
        """Keep what was found when a release was last looked at."""
        values = {"reason": reason, "record": dict(record)}
        with writing(self._engine) as connection:
            connection.execute(_change(release, values))

    def enter(
        self, release: StagedRelease, stage: str, who: str, why: str, at: datetime, record: Mapping[str, Any],
        alert: Mapping[str, Any] | None,
    ) -> bool:  # fmt: skip
        """Take a release into its next stage, with its audit row; False when it is no longer where it was read."""
        values = {"stage": stage, "entered_at": at, "reason": "it has just entered this stage", "record": dict(record)}
        with writing(self._engine) as connection:
            if not connection.execute(_change(release, values)).rowcount:
                return False
            _keep_step(connection, release, stage, who, why, at, record, alert)
            row = AuditRow(at, release.loop, stage, who, why, release.champion, release.version)
            connection.execute(insert(audit), [asdict(row)])
        return True

    def complete(
        self, release: StagedRelease, who: str, why: str, at: datetime, record: Mapping[str, Any],
        alert: Mapping[str, Any] | None, is_audited: bool = False,
    ) -> bool:  # fmt: skip
        """Say that a release became stable; `is_audited`: whoever moved the alias wrote the audit row."""
        values = {"stage": "stable", "entered_at": at, "ended_at": at, "reason": why, "record": dict(record)}
        with writing(self._engine) as connection:
            if not connection.execute(_change(release, values)).rowcount:
                return False
            _keep_step(connection, release, "stable", who, why, at, record, alert)
            if not is_audited:
                row = AuditRow(at, release.loop, release.action, who, why, release.champion, release.version)
                connection.execute(insert(audit), [asdict(row)])
        return True

    def end(
        self, release: StagedRelease, stage: Stage, who: str, why: str, at: datetime,
        record: Mapping[str, Any] | None = None, alert: Mapping[str, Any] | None = None,
    ) -> bool:  # fmt: skip
        """End a release that did not become stable, with its audit row; False when it is no longer where it was."""
        with writing(self._engine) as connection:
            return _end(connection, release, stage, who, why, at, release.record if record is None else record, alert)

    def append_shadows(self, rows: Sequence[ShadowRow]) -> None:
        """Keep what the other version said."""
        if rows:
            with writing(self._engine) as connection:
                connection.execute(insert(shadow_predictions), [vars(row) for row in rows])

    def read_compared(self, release: StagedRelease, after: int, limit: int) -> tuple[list[Compared], int]:
        """Return texts of a release that both versions were asked, beyond a mark, and the next mark.

        A text whose prediction was erased meanwhile is left out.
        """
        other, answered = shadow_predictions.c, predictions.c
        columns = [
            other.id, other.stage, other.version, other.label, other.score, other.candidate_ms, other.champion_ms,
            answered.label.label("said"), answered.score.label("said_score"),
            func.coalesce(answered.group, answered.prediction_id).label("who"),
        ]  # fmt: skip
        query = (
            select(*columns)
            .join(predictions, answered.prediction_id == other.prediction_id, isouter=True)
            .where(other.release_id == release.release_id, other.id > after)
            .order_by(other.id)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
        found = [_as_compared(row, release) for row in rows if row["said"] is not None]
        return found, rows[-1]["id"] if rows else after

    def count_pairs(self, release: StagedRelease) -> Pairs:
        """Return how both versions did where feedback says what was right."""
        other, answered = shadow_predictions.c, predictions.c
        query = (
            select(
                func.coalesce(answered.group, answered.prediction_id), other.version, other.label, answered.label,
                feedback.c.label,
            )
            .select_from(shadow_predictions)
            .join(feedback, feedback.c.prediction_id == other.prediction_id)
            .join(predictions, answered.prediction_id == other.prediction_id)
            .where(other.release_id == release.release_id, other.label.is_not(None))
            .order_by(feedback.c.at, feedback.c.prediction_id)
        )  # fmt: skip
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return count_pairs(
            (who, label, said, truth) if version == release.version else (who, said, label, truth)
            for who, version, label, said, truth in rows
        )

    def list_due_alerts(self, since: datetime) -> list[DueAlert]:
        """Return the alerts since a time that Prefect has not heard of, oldest first."""
        steps = release_steps.c
        query = (
            select(steps.id, steps.loop, steps.at, steps.alert)
            .where(steps.told_at.is_(None), steps.at >= since)
            .order_by(steps.id)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        return [DueAlert(*row) for row in rows if row.alert is not None]

    def mark_told(self, alerts: Sequence[DueAlert], at: datetime) -> None:
        """Say that Prefect has heard of some alerts."""
        told = release_steps.c.id.in_([alert.step_id for alert in alerts])
        with writing(self._engine) as connection:
            connection.execute(update(release_steps).where(told).values(told_at=at))


def _find_running(connection: Connection, loop: str) -> StagedRelease | None:
    query = select(releases).where(releases.c.loop == loop, releases.c.ended_at.is_(None))
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else StagedRelease(**row)


def _change(release: StagedRelease, values: Mapping[str, Any]) -> Any:
    """Return the update of a release that still is in the stage in which it was read."""
    same = (releases.c.release_id == release.release_id, releases.c.stage == release.stage)
    return update(releases).where(*same, releases.c.ended_at.is_(None)).values(**values)


def _end(
    connection: Connection, release: StagedRelease, stage: Stage, who: str, why: str, at: datetime,
    record: Mapping[str, Any], alert: Mapping[str, Any] | None = None,
) -> bool:  # fmt: skip
    values = {"stage": stage, "entered_at": at, "ended_at": at, "reason": why, "record": dict(record)}
    if not connection.execute(_change(release, values)).rowcount:
        return False
    _keep_step(connection, release, stage, who, why, at, record, alert)
    row = AuditRow(at, release.loop, ENDED[stage], who, f"in {release.stage}: {why}", release.champion, release.version)
    connection.execute(insert(audit), [asdict(row)])
    return True


def _keep_step(
    connection: Connection, release: StagedRelease, stage: str, who: str, why: str, at: datetime,
    record: Mapping[str, Any], alert: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    values = {"release_id": release.release_id, "loop": release.loop, "at": at, "stage": stage, "who": who, "why": why}
    values |= {"record": dict(record), "alert": None if alert is None else dict(alert)}
    values |= {"told_at": at if alert is None else None}  # without an alert there is nothing to tell
    connection.execute(insert(release_steps), [values])


def _as_compared(row: Any, release: StagedRelease) -> Compared:
    """Return who is the candidate and who the champion: the row in question is of the one that did not answer."""
    times = (row["candidate_ms"], row["champion_ms"])
    if row["version"] == release.version:
        return Compared(
            row["who"], row["stage"], row["label"], row["score"], row["said"], row["said_score"], *times,
            counts=row["stage"] == "shadow",
        )  # fmt: skip
    return Compared(row["who"], row["stage"], row["said"], row["said_score"], row["label"], row["score"], *times)
