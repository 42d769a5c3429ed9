"""The servers of a stack on one machine: how each is started, where it answers, and what it waits for."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from configs.settings import WORK_POOL, Settings
from infra.ports import Port


@dataclass(frozen=True)
class Server:
    """One process that the stack keeps running; without a health URL it is healthy as soon as it runs."""

    name: str
    command: tuple[str, ...]
    url: str = ""  # for people
    health: str = ""
    port: Port | None = None
    after: tuple[str, ...] = ()  # starts when these are healthy
    environment: Mapping[str, str] = field(default_factory=dict)


def list_servers(settings: Settings) -> list[Server]:
    """Return the servers that this stack runs itself: those without a URL of their own in the settings."""
    servers = []
    if settings.mlflow_url is None:
        servers.append(_mlflow(settings))
    if settings.prefect_url is None:
        servers.append(_prefect(settings))
    if settings.api_url is None:
        after = ("mlflow",) if settings.mlflow_url is None else ()  # else it would open the store on disk
        servers.append(_service(settings, after))
    return [*servers, _worker()]


def list_ports(servers: list[Server]) -> list[Port]:
    """Return the ports that must be free."""
    return [server.port for server in servers if server.port is not None]


def _mlflow(settings: Settings) -> Server:
    folder = settings.mlflow_artifacts
    address = ("--host", settings.host, "--port", str(settings.mlflow_port))
    # Clients write artefacts themselves, so the same folder can be used while no server runs.
    store = ("--backend-store-uri", settings.mlflow_store, "--no-serve-artifacts")
    artifacts = ("--default-artifact-root", folder.as_uri(), "--workers", "1")
    return Server(
        "mlflow",
        (sys.executable, "-m", "mlflow", "server", *address, *store, *artifacts),
        settings.mlflow,
        f"{settings.mlflow}/health",
        Port(settings.mlflow_port, "MLflow", "EVERTUNE_MLFLOW_PORT"),
        environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # seven helper processes and 1.1 GB less
    )


def _prefect(settings: Settings) -> Server:
    place = {"PREFECT_SERVER_API_HOST": settings.host, "PREFECT_SERVER_API_PORT": str(settings.prefect_port)}
    command = (sys.executable, "-m", "prefect", "server", "start")
    return Server(
        "prefect",
        (*command, "--host", settings.host, "--port", str(settings.prefect_port)),
        settings.prefect_api.removesuffix("/api"),
        f"{settings.prefect_api}/health",
        Port(settings.prefect_port, "Prefect", "EVERTUNE_PREFECT_PORT"),
        environment=place,
    )


def _service(settings: Settings, after: tuple[str, ...]) -> Server:
    return Server(
        "service",
        (sys.executable, "-m", "infra.serving"),
        settings.api,
        f"{settings.api}/healthz",
        Port(settings.api_port, "the prediction service", "EVERTUNE_API_PORT"),
        after=after,
    )


def _worker() -> Server:
    command = (sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process")
    return Server("worker", command, after=("work pool",))
