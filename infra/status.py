"""What `evertune status` says: the servers of a stack, and where each loop stands."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from configs.load import load_all_loops
from configs.settings import Settings
from infra.background import running_stack
from infra.servers import list_servers
from infra.service_client import ServiceClient, answers
from tasks.core.approval import find_question
from tasks.core.champions import NO_MOVE
from tasks.core.errors import TransientError
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.releases import Releases

REMEMBERED = 50  # retrains among which the one that asked is looked for


@dataclass(frozen=True)
class ServerStatus:
    """One server; a server that runs elsewhere has no pid."""

    name: str
    pid: int | None
    url: str
    healthy: bool


@dataclass(frozen=True)
class LoopStatus:
    """One loop: the version that answers, those that wait for approval or are in a stage, last retrain and verdict."""

    name: str
    champion: str | None
    waiting: dict[str, Any] | None
    staged: dict[str, Any] | None
    last_retrain: dict[str, Any] | None
    last_verdict: dict[str, Any] | None


def read_status(settings: Settings) -> dict[str, Any]:
    """Return the status as one JSON object."""
    state = running_stack(settings)
    loops = load_all_loops(settings.loops_dir)
    return {
        "home": str(settings.root),
        "running": state is not None,
        "phase": state.phase if state else "stopped",
        "supervisor": state.supervisor.pid if state else None,
        "servers": [asdict(server) for server in read_servers(settings)],
        "loops": [asdict(read_loop_status(settings, loop.name, loop.release.approval_days)) for loop in loops],
    }


def read_servers(settings: Settings) -> list[ServerStatus]:
    """Return every server that the loops need, those that run elsewhere too."""
    state = running_stack(settings)
    children = state.children if state else {}
    found = []
    for server in list_servers(settings):
        child = children.get(server.name)
        alive = child is not None and child.is_alive()
        healthy = answers(server.health) if server.health else alive
        found.append(ServerStatus(server.name, child.pid if child and alive else None, server.url, healthy))
    elsewhere = {
        "mlflow": (settings.mlflow_url, "/health"),
        "prefect": (settings.prefect_url, "/health"),
        "service": (settings.api_url, "/healthz"),
    }
    for name, (url, health) in elsewhere.items():
        if url is not None:
            found.append(ServerStatus(name, None, url, answers(f"{url}{health}")))
    return found


def read_loop_status(settings: Settings, loop: str, approval_days: float = 7) -> LoopStatus:
    """Return where a loop stands, from the ledger and, while it runs, the service."""
    engine = open_database(settings.database)
    ledger, running = Ledger(engine), Releases(engine).find_running(loop)
    retrains, reports = ledger.recent_retrains(loop, 1), ledger.recent_reports(loop, 1)
    last_retrain = None
    if retrains:
        newest = retrains[0]
        last_retrain = {"at": newest.at.isoformat(), "status": newest.status, "version": newest.version}
        last_retrain |= {"started_by": newest.started_by, "flow_run_id": newest.flow_run_id}
    last_verdict = None
    if reports:
        last_verdict = {"at": reports[0].at.isoformat(), "verdict": reports[0].verdict, "version": reports[0].version}
    waiting = _waiting(ledger, loop, approval_days)
    staged = None
    if running is not None:
        staged = {"version": running.version, "stage": running.stage, "reason": running.reason}
        staged |= {"since": running.entered_at.isoformat(timespec="seconds")}
    return LoopStatus(loop, _champion(settings, loop, ledger), waiting, staged, last_retrain, last_verdict)


def describe_status(status: dict[str, Any]) -> list[str]:
    """Return the status as lines for people."""
    lines = [f"stack in {status['home']}: {status['phase']}"]
    for server in status["servers"]:
        health = "healthy" if server["healthy"] else "not answering"
        pid = f"pid {server['pid']}" if server["pid"] else "no process"
        lines.append(f"  {server['name']:<8} {health:<14} {pid:<14} {server['url']}".rstrip())
    for loop in status["loops"]:
        retrain, verdict = loop["last_retrain"], loop["last_verdict"]
        lines.append(f"loop {loop['name']}: champion {loop['champion'] or 'none'}")
        if waiting := loop["waiting"]:
            lines.append(f"  version {waiting['version']} waits for approval since {waiting['since']}, until "
                         f"{waiting['until']}: {waiting['command']}")  # fmt: skip
            lines += [f"  {waiting['url']}"] if waiting["url"] else []
        if staged := loop["staged"]:
            lines.append(f"  version {staged['version']} is in {staged['stage']} since {staged['since']}: "
                         f"{staged['reason']}")  # fmt: skip
        if retrain:
            lines.append(f"  last retrain {retrain['at']}: {retrain['status']}, version {retrain['version']}")
        if verdict:
            lines.append(f"  last verdict {verdict['at']}: {verdict['verdict']}")
    return lines


def _waiting(ledger: Ledger, loop: str, approval_days: float) -> dict[str, Any] | None:
    question = find_question(ledger.audit(loop), approval_days)
    if question is None:
        return None
    asked = [row.record.get("approval") for row in ledger.recent_retrains(loop, REMEMBERED)]
    url = next((one["url"] for one in asked if one and one["version"] == question.version), None)
    since, until = question.asked_at.isoformat(timespec="seconds"), question.closes_at.isoformat(timespec="seconds")
    found = {"version": question.version, "since": since, "until": until, "url": url}
    return found | {"command": f"evertune approve {loop}"}


def _champion(settings: Settings, loop: str, ledger: Ledger) -> str | None:
    """Return the version that answers, or while no service runs, the one that the audit log ends with."""
    service = ServiceClient(settings)
    if service.is_up():
        with suppress(TransientError):  # it went down, or its own stores do not answer
            return service.champion_version(loop)
    moves = [row for row in ledger.audit(loop) if row.action not in NO_MOVE]
    return moves[-1].to_version if moves else None
