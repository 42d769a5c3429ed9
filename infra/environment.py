"""The environment that every server, worker and flow run of a stack inherits."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from configs.load import ConfigError
from configs.settings import Settings

ROOT = Path(__file__).resolve().parent.parent  # the folder that holds configs, tasks, flows and infra
QUIET = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # a forked tokenizer would print a warning per flow run
    "OMP_WAIT_POLICY": "PASSIVE",  # training and service share the cores: spinning threads starve each other
    "MPLBACKEND": "Agg",
    "PYTHONUNBUFFERED": "1",
}
PREFECT = {
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the second UI asks an analytics host even with analytics off
    "PREFECT_CLIENT_MAX_RETRIES": "8",  # outlasts a server outage of about two minutes
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    # A queued run is tried again every 15 s; with the default prefetch of 10 s the worker would try it every second,
    # and each try leaves two lines in the run's log.
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "15",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks",
}


def build_environment(settings: Settings, base: Mapping[str, str], launch_dir: Path) -> dict[str, str]:
    """Return the environment of a child process: absolute places, telemetry off, Prefect and MLflow addresses.

    Flow runs start in another working directory, so every path is made absolute here. What `base` says about Prefect
    (an API key, a time-out) is kept; addresses and telemetry are ours.
    """
    environment = {**PREFECT, **base, **QUIET}
    environment |= {
        "EVERTUNE_HOME": str(settings.root),
        "EVERTUNE_LOOPS_DIR": str((launch_dir / settings.loops_dir.expanduser()).absolute()),
        "EVERTUNE_PLANS_FILE": str((launch_dir / settings.plans_file.expanduser()).absolute()),
        "PREFECT_HOME": str(settings.root / "prefect"),
        "PREFECT_API_URL": settings.prefect_api,
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "MLFLOW_TRACKING_URI": settings.mlflow,
    }
    if not settings.online:
        environment["HF_HUB_OFFLINE"] = "1"
    if (ROOT / "pyproject.toml").is_file():  # a source checkout that may not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), base.get("PYTHONPATH", "")]))
    return environment


def write_logging_config(prefect_home: Path) -> None:
    """Write Prefect's own logging settings with logger `tasks` at INFO, where Prefect looks for them.

    PREFECT_LOGGING_EXTRA_LOGGERS alone leaves the level at WARNING, and no variable can raise it.
    """
    shipped = package_folder("prefect").joinpath("logging", "logging.yml").read_text(encoding="utf-8")
    ours = shipped.replace("\nloggers:\n", "\nloggers:\n  tasks:\n    level: INFO\n\n", 1)
    prefect_home.mkdir(parents=True, exist_ok=True)
    (prefect_home / "logging.yml").write_text(ours, encoding="utf-8")


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    package = importlib.util.find_spec(name)
    if package is None or package.origin is None:
        raise ConfigError(f"package {name} is not installed; run: make setup")
    return Path(package.origin).parent


def without_server(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return the environment for a flow in this process, under Prefect's own short-lived server, without MLflow's."""
    alone = {**environment, "PREFECT_SERVER_EPHEMERAL_ENABLED": "true", "MLFLOW_TRACKING_URI": settings.mlflow_store}
    alone.pop("PREFECT_API_URL", None)
    return alone
