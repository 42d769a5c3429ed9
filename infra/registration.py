"""Tells Prefect what there is to run, in a thread of its own: importing Prefect takes as long as starting a server."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from configs.load import ConfigError
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.errors import TransientError

CANCEL_SECONDS = 20.0


class Registration:
    """Work pool, zombies, deployments and alerts, in this order, once the Prefect server is up."""

    def __init__(self, settings: Settings, loops: list[Loop], say: Callable[[str], None]) -> None:
        self.reached: set[str] = set()  # what servers may wait for
        self.done = False
        self._settings = settings
        self._loops = loops
        self._say = say
        self._error: Exception | None = None
        self._prefect_is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)

    def start(self) -> None:
        """Begin with the imports, while the servers start."""
        self._thread.start()

    def check(self, prefect_is_up: bool) -> None:
        """Go on once Prefect is up; raises what went wrong in the thread."""
        if prefect_is_up:
            self._prefect_is_up.set()
        if self._error is not None:
            raise self._error

    def worker_is_online(self) -> bool:
        """Say whether a worker serves the pool."""
        from infra.flow_runs import PREFECT_ERRORS, has_online_worker

        try:
            return "work pool" in self.reached and has_online_worker()
        except PREFECT_ERRORS:
            return False

    def cancel_flow_runs(self, can_cancel: bool) -> None:
        """Cancel what the worker is running, so that no run stays `Running` for ever."""
        if not can_cancel or "work pool" not in self.reached:
            return
        from infra.flow_runs import PREFECT_ERRORS, cancel_active_runs

        try:
            n_cancelled = cancel_active_runs(CANCEL_SECONDS)
        except PREFECT_ERRORS as error:
            self._say(f"active flow runs could not be cancelled ({error}); the next start marks them as crashed")
            return
        if n_cancelled:
            self._say(f"cancelled {n_cancelled} active flow runs")

    def _run(self) -> None:
        try:
            self._register()
        except (ConfigError, TransientError) as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - re-raised by check() in the main thread
            self._error = TransientError(f"registering with Prefect failed: {type(error).__name__}: {error}")

    def _register(self) -> None:
        from flows.automations import register_alerts
        from flows.deployments import plan_deployments, register, register_work_pool
        from infra.flow_runs import sweep_zombies

        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._prefect_is_up.wait()
        own_server = self._settings.prefect_url is None  # else other stacks may share it
        register_work_pool(Path.cwd())
        if own_server and (n_swept := sweep_zombies()):
            self._say(f"  {n_swept} flow runs of an earlier stack were still active and are now marked as crashed")
        self.reached.add("work pool")
        register(self._loops, prune=own_server, report=self._say)
        n_alerts = register_alerts(self._loops, os.environ, self._say)
        self._say(f"  {len(plan_deployments(self._loops))} deployments and {n_alerts} alert automations registered")
        self.done = True
