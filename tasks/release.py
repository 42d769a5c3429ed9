"""Makes the service answer with a version, checked and reversible; the audit log keeps every move of the champion."""

import getpass
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import httpx
from prefect import runtime, task
from prefect.cache_policies import NO_CACHE

from configs.schema import Loop
from configs.settings import Settings
from tasks import alerts
from tasks.core.champions import SERVICE, find_last_champion, find_previous_champion
from tasks.core.errors import DataError
from tasks.core.staging import next_stage
from tasks.stores.database import open_database
from tasks.stores.ledger import Action, Ledger
from tasks.stores.locks import hold_lock
from tasks.stores.model_registry import ModelRegistry, open_registry
from tasks.stores.releases import Releases, StagedRelease

logger = logging.getLogger(__name__)
LOAD_SECONDS = 300.0


@dataclass(frozen=True)
class ReleaseOutcome:
    """What became of a release; `pending`: the alias moved, and the service takes it up when it runs.

    `outdated`: nothing was moved, because the champion is not the one that the version was judged against. `staged`:
    it is on its way through shadow and canary, and the champion serves on.
    """

    status: Literal["serving", "pending", "refused", "outdated", "staged"]
    version: str
    previous: str | None
    reason: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Judged:
    """What a version was judged against, or a rollback leaves: the champion of that time, None before the first."""

    champion: str | None


@dataclass(frozen=True)
class Target:
    """Where a rollback goes; `judged` is None where a person named the version, whatever serves."""

    version: str
    judged: Judged | None


@dataclass(frozen=True)
class Answer:
    """What the service said to a version."""

    status: Literal["serving", "pending", "refused", "staged"]
    reason: str


@task(task_run_name="release version {version} of {config.name}", persist_result=False, cache_policy=NO_CACHE)
def release_version(
    config: Loop,
    version: str,
    who: str,
    why: str,
    action: Literal["promote", "release", "rollback"] = "release",
    judged: Judged | None = None,
    now: bool = False,
) -> ReleaseOutcome:
    """Have the service check a version, move the champion alias to it, and have the service switch to it.

    Where the loop asks for stages, a version goes through them first, beside the champion, unless `now` or a rollback
    says otherwise; a rollback ends a release that is on its way. A refusal by the service leaves, or puts back, the
    alias, with an audit row and an alert. With `judged` nothing is done unless that champion is still the champion.
    Raises DataError for an unknown version.
    """
    started = time.perf_counter()
    settings = Settings()
    registry = open_registry(settings)
    registry.get(config.name, version)
    with hold_lock(config.name, "release", settings):
        champion = registry.find(config.name, "champion")
        previous = champion.version if champion else None
        if judged is not None and previous not in (judged.champion, version):
            compared = "chosen to go back from" if action == "rollback" else "judged against"
            reason = f"it was {compared} {_name(judged.champion)}, and now {_name(previous)} serves"
            return ReleaseOutcome("outdated", version, previous, reason, time.perf_counter() - started)
        move = Move(config.name, version, previous, who, why)
        releases = Releases(open_database(settings.database))
        running = releases.find_running(config.name)
        at_once = now or action == "rollback" or previous in (None, version) or not config.release.stages.names
        if at_once:
            answer = _move_at_once(move, registry, action, releases, running, settings)
        else:
            answer = _start_stages(config, move, action, releases, running, settings)
    logger.info("version %s of %s: %s, %s", version, config.name, answer.status, answer.reason)
    if answer.status == "refused":
        alerts.emit("rollback", config.name, describe_refusal(move, answer.reason, settings))
    elif action == "rollback":
        alerts.emit("rollback", config.name, describe_rollback(move, settings, running))
    return ReleaseOutcome(answer.status, version, previous, answer.reason, time.perf_counter() - started)


def _move_at_once(
    move: "Move", registry: ModelRegistry, action: Action, releases: Releases, running: StagedRelease | None,
    settings: Settings,
) -> Answer:  # fmt: skip
    """Move the champion, and close the release on its way: a rollback before the move, all else after it."""
    if running is not None and action == "rollback":
        releases.end(running, "refused", move.who, move.why or "taken back by a rollback", datetime.now(UTC))
    answer = move.carry_out(registry, action, settings)
    if running is None or answer.status == "refused":
        return answer
    if action == "rollback":
        return Answer(answer.status, f"the release of version {running.version} ended in {running.stage}; "
                                     f"{answer.reason}")  # fmt: skip
    now = datetime.now(UTC)
    if running.version == move.version:
        releases.complete(running, move.who, f"released at once by {move.who}", now, running.record, None, True)
    elif move.previous != move.version:  # a confirmation of the champion is no reason to end another's release
        releases.end(running, "withdrawn", move.who, f"version {move.version} was released at once", now)
    return answer


def _start_stages(
    config: Loop, move: "Move", action: Action, releases: Releases, running: StagedRelease | None, settings: Settings
) -> Answer:
    """Begin a release in its first stage, after the service's checks; one that is on its way already goes on."""
    if running is not None and running.version == move.version:
        return Answer("staged", f"in {running.stage} since {running.entered_at:%Y-%m-%d %H:%M} UTC: {running.reason}")
    answer = ask_service(config.name, move.version, settings, check_only=True)
    if answer.status == "refused":
        move.refuse(answer.reason)
        return answer
    stages, now = config.release.stages, datetime.now(UTC)
    assert move.previous is not None  # before the first champion there is nothing to compare with
    first, champion = next_stage(None, stages), move.previous
    releases.start(config.name, move.version, champion, first, move.who, move.why, action, now)
    waits = "" if answer.status == "serving" else f", once the service runs ({answer.reason})"
    way = " -> ".join([*stages.names, "stable"])
    return Answer("staged", f"in {first}, beside version {champion}{waits}; its way is {way}: "
                            f"evertune releases {config.name}")  # fmt: skip


@dataclass(frozen=True)
class Move:
    """The champion alias going from one version to another."""

    loop: str
    version: str
    previous: str | None
    who: str
    why: str

    def carry_out(self, registry: ModelRegistry, action: Action, settings: Settings) -> Answer:
        """Ask the service, then move, then have it switch; return its last word.

        The question comes first: a service that serves nothing takes up whatever the alias names, so the alias must
        never name a version that the service is about to refuse.
        """
        if self.previous == self.version:
            self._make_up_for_the_audit(action)
            return ask_service(self.loop, self.version, settings)
        answer = ask_service(self.loop, self.version, settings, check_only=True)
        if answer.status == "refused":
            self.refuse(answer.reason)
            return answer
        self.make(registry, action)
        if answer.status == "serving":  # it passed; a service that could not be asked takes it up when it can
            answer = ask_service(self.loop, self.version, settings)
        if answer.status == "refused":
            self.take_back(registry, answer.reason)
        return answer

    def make(self, registry: ModelRegistry, action: Action) -> None:
        """Point the alias to the new version and keep an audit row."""
        registry.set_alias(self.loop, "champion", self.version)
        self._audit(action, self.why, self.previous, self.version)

    def _make_up_for_the_audit(self, action: Action) -> None:
        """Write the row of a move whose alias was set and whose row was not: this is the retry, or a confirmation."""
        last = find_last_champion(Ledger(open_database(Settings().database)).audit(self.loop))
        if last != self.version:
            self._audit(action, self.why, last, self.version)

    def refuse(self, reason: str) -> None:
        """Keep an audit row of the service's no."""
        self._audit("refuse", f"{reason} (wanted by {self.who})", self.previous, self.version, SERVICE)

    def take_back(self, registry: ModelRegistry, reason: str) -> None:
        """Point the alias to the old version again, or to none, and keep an audit row."""
        if self.previous is None:
            registry.delete_alias(self.loop, "champion")
        else:
            registry.set_alias(self.loop, "champion", self.previous)
        self._audit("rollback", f"the service refused version {self.version}: {reason}", self.version, self.previous)

    def _audit(
        self, action: Action, why: str, from_version: str | None, to_version: str | None, who: str | None = None
    ) -> None:
        ledger = Ledger(open_database(Settings().database))
        ledger.append_audit(self.loop, action, who or self.who, why, from_version, to_version, datetime.now(UTC))


@task(task_run_name="choose the rollback of {config.name}", persist_result=False, cache_policy=NO_CACHE)
def choose_rollback(config: Loop, to: str | None) -> Target:
    """Return the version to go back to: the one asked for, or the champion before the current one.

    While a release is on its way that is the champion itself: what is taken back is the version that has not got there.
    Raises DataError when there is no such version or no earlier champion.
    """
    settings = Settings()
    registry = open_registry(settings)
    if to is not None:
        return Target(registry.get(config.name, to).version, None)
    champion = registry.find(config.name, "champion")
    if champion is None:
        raise DataError(f"{config.name} has no champion to go back from; train one: evertune retrain {config.name}")
    engine = open_database(settings.database)
    if Releases(engine).find_running(config.name) is not None:
        return Target(champion.version, Judged(champion.version))
    moves = Ledger(engine).audit(config.name)
    previous = find_previous_champion(moves, champion.version)
    if previous is None:
        versions = ", ".join(version.version for version in registry.list_versions(config.name))
        raise DataError(
            f"{config.name}: version {champion.version} is the first champion, so there is none to go back to; "
            f"name one with --to (there are: {versions})"
        )
    return Target(previous, Judged(champion.version))


def ask_service(loop: str, version: str, settings: Settings, check_only: bool = False) -> Answer:
    """Ask the prediction service to check and serve a version, or only whether it would."""
    url = f"{settings.api}/v1/admin/loops/{loop}/release"
    try:
        headers = {"Authorization": f"Bearer {settings.read_operator_token()}"}
        timeout = httpx.Timeout(LOAD_SECONDS, connect=5.0)
        body = {"version": version} | ({"check_only": True} if check_only else {})
        response = httpx.post(url, json=body, headers=headers, timeout=timeout)
    except FileNotFoundError:
        return Answer("pending", "no stack was started here yet; the service serves it when it starts")
    except httpx.ConnectError:
        return Answer("pending", f"the service at {settings.api} does not run; it serves the version when it starts")
    except httpx.TransportError as error:
        return Answer("pending", f"the service at {settings.api} did not answer ({type(error).__name__})")
    return read_answer(response.status_code, response.text, _json(response))


def read_answer(code: int, text: str, body: object) -> Answer:
    """Return what an HTTP answer of the service means for the release."""
    reason = str(body.get("reason", "")) if isinstance(body, dict) else ""
    if code == httpx.codes.OK:
        return Answer("serving", reason or "checks passed")
    if code == httpx.codes.CONFLICT:
        return Answer("refused", reason or text[:200])
    return Answer("pending", f"the service answered {code}: {text[:200]}")


def describe_refusal(move: Move, reason: str, settings: Settings) -> dict[str, str]:
    """Return the alert about a version that the service would not serve."""
    kept = f"version {move.previous} serves on" if move.previous else "no version serves"
    return {
        "summary": f"{move.loop}: version {move.version} was refused by the service, {kept}",
        "body": f"**Reason:** {reason}\n\n**Wanted by:** {move.who} ({move.why})",
        "link": f"{settings.mlflow}/#/models/{move.loop}",
    }


def describe_rollback(move: Move, settings: Settings, running: StagedRelease | None = None) -> dict[str, str]:
    """Return the alert about a rollback that a person asked for; `running`: a release that it ended on its way."""
    summary = f"{move.loop}: rolled back from version {move.previous} to version {move.version}"
    if running is not None and move.previous == move.version:
        summary = f"{move.loop}: version {running.version} was taken back from {running.stage}, " \
                  f"version {move.version} serves on"  # fmt: skip
    return {
        "summary": summary,
        "body": f"**By:** {move.who}\n\n**Why:** {move.why or 'no reason given'}",
        "link": f"{settings.mlflow}/#/models/{move.loop}",
    }


def name_of_asker() -> str:
    """Return who asked, for the audit log: the flow run, which Prefect keeps with its parameters, or the user."""
    return f"flow run {runtime.flow_run.name}" if runtime.flow_run.name else getpass.getuser()


def _name(champion: str | None) -> str:
    return f"version {champion}" if champion else "no champion"


def _json(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None
