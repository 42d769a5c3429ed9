"""The servers of one machine as one thing: started together, watched, registered with Prefect, stopped together."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from configs.load import ConfigError
from configs.schema import Loop
from configs.settings import Settings
from infra.credentials import ensure_operator_token, make_home
from infra.environment import build_environment, write_logging_config
from infra.preflight import check
from infra.processes import STACK_ID, Child, ProcessId, end_members
from infra.registration import Registration
from infra.servers import Server, list_servers
from infra.service_client import answers
from infra.stack_state import StackState, read_state, remove_state, write_state
from tasks.core.errors import TransientError

Say = Callable[[str], None]
START_SECONDS = 240.0
POLL_SECONDS = 0.25
REMINDER_SECONDS = 10.0
GRACE_SECONDS = {"worker": 15.0, "service": 20.0, "mlflow": 8.0, "prefect": 8.0}
STOP_ORDER = (("worker",), ("service",), ("mlflow", "prefect"))
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that ran this long starts its backoff anew


def run_stack(settings: Settings, say: Say, when_ready: Callable[["Stack"], int]) -> int:
    """Run a stack until a signal stops it; `when_ready` is called once all servers are healthy.

    Raises ConfigError before anything was started when a port is taken, a package is missing or a YAML is wrong, and
    TransientError when a server does not get healthy. Whatever was started is stopped in every case.
    """
    home = settings.root
    make_home(home)
    environment = build_environment(settings, os.environ, Path.cwd())
    with _only_stack(home):
        stop_leftovers(home, say)
        servers = list_servers(settings)
        loops = check(settings, servers)
        write_logging_config(home / "prefect")
        os.environ.update(environment)  # Prefect reads its settings from here when it is imported
        stack = Stack(settings, environment, servers, loops, say)
        with stack.stopped_by_signals():
            try:
                stack.start()
                if not stack.stop_requested.is_set():
                    stack.announce_ready(when_ready(stack))
                stack.stop_requested.wait()
            finally:
                stack.stop()
    return 0


def stop_leftovers(home: Path, say: Say) -> int:
    """Stop the processes of a stack whose supervisor was killed; return how many there were."""
    state = read_state(home)
    if state is None or state.is_alive():
        return 0
    n_stopped = end_members(state.stack_id, grace_seconds=10)
    remove_state(home)
    if n_stopped:
        say(f"stopped {n_stopped} processes that a killed stack had left behind")
    return n_stopped


class Stack:
    """Servers, their supervision, and what they are told once they run."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], servers: list[Server], loops: list[Loop], say: Say
    ) -> None:
        self.settings = settings
        self.loops = loops
        self.say = say
        self.stop_requested = threading.Event()
        self._in_a_hurry = False
        self._servers = servers
        self._state = StackState(uuid.uuid4().hex, ProcessId.of(os.getpid()))
        logs = settings.root / "logs"
        environment = {**environment, STACK_ID: self._state.stack_id}
        self._children = {
            server.name: Child(
                server.name, server.command, {**environment, **server.environment}, logs / f"{server.name}.log"
            )
            for server in servers
        }
        self._registration = Registration(settings, loops, say)
        self._watch = threading.Thread(target=self._keep_running, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start every server, each as soon as what it waits for is healthy, and register with Prefect meanwhile."""
        ensure_operator_token(self.settings)
        self._write_state()
        self._registration.start()
        began = reminded = time.monotonic()
        healthy: set[str] = set()
        while not self.stop_requested.is_set() and not (len(healthy) == len(self._servers) and self._registration.done):
            self._start_due(healthy)
            self._find_healthy(healthy, began)
            self._registration.check(prefect_is_up="prefect" in healthy or self.settings.prefect_url is not None)
            now = time.monotonic()
            if now - reminded >= REMINDER_SECONDS:
                reminded = now
                self.say(f"  waiting for {', '.join(self._missing(healthy))} ({now - began:.0f} s)")
            if now - began > START_SECONDS:
                raise TransientError(f"{', '.join(self._missing(healthy))} not healthy after {START_SECONDS:.0f} s")
            self.stop_requested.wait(POLL_SECONDS)
        self._watch.start()

    def announce_ready(self, exit_code: int) -> None:
        """Tell `up --detach` and `status` that the start is over."""
        self._state.phase = "ready"
        self._state.exit_code = exit_code
        self._write_state()

    def stop(self) -> None:
        """Stop everything that this stack started: flow runs first, then worker, service and servers."""
        self.stop_requested.set()
        self._state.phase = "stopping"
        self._write_state()
        if self._watch.is_alive():
            self._watch.join()
        self.say("stopping …")
        if not self._in_a_hurry:
            self._registration.cancel_flow_runs(self._is_running("worker") and self._is_running("prefect"))
        for names in STOP_ORDER:
            self._stop_children([self._children[name] for name in names if name in self._children])
        end_members(self._state.stack_id, grace_seconds=0.5 if self._in_a_hurry else 5)
        remove_state(self.settings.root)
        self.say("stopped")

    @contextmanager
    def stopped_by_signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP stop the stack; a second one cuts the grace times short."""

        def request(_number: int, _frame: object) -> None:
            self._in_a_hurry = self.stop_requested.is_set()
            self.stop_requested.set()

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # under nohup a closed terminal means nothing
            numbers.append(signal.SIGHUP)
        former = {number: signal.signal(number, request) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _start_due(self, healthy: set[str]) -> None:
        reached = healthy | self._registration.reached
        for server in self._servers:
            child = self._children[server.name]
            if child.identity is None and set(server.after) <= reached:
                child.start()
                self._write_state()

    def _find_healthy(self, healthy: set[str], began: float) -> None:
        for server in self._servers:
            child = self._children[server.name]
            if server.name in healthy or child.identity is None:
                continue
            if child.exit_code is not None:
                raise TransientError(
                    f"{server.name} ended with exit code {child.exit_code} while it started: {child.last_words()} "
                    f"(log: {child.log})"
                )
            if answers(server.health) if server.health else self._registration.worker_is_online():
                healthy.add(server.name)
                self.say(f"  {server.name:<8} ready after {time.monotonic() - began:5.1f} s  {server.url}".rstrip())

    def _missing(self, healthy: set[str]) -> list[str]:
        missing = [server.name for server in self._servers if server.name not in healthy]
        return missing or ["deployments to be registered"]

    def _is_running(self, name: str) -> bool:
        return name not in self._children or self._children[name].is_running()

    def _keep_running(self) -> None:
        """Restart what dies, waiting longer each time."""
        failures = dict.fromkeys(self._children, 0)
        due: dict[str, float] = {}
        while not self.stop_requested.wait(POLL_SECONDS):
            for name, child in self._children.items():
                if name in due:
                    if time.monotonic() >= due[name]:
                        del due[name]
                        child.start()
                        self._write_state()
                elif not child.is_running():
                    steady = time.monotonic() - child.started_at > STEADY_SECONDS
                    failures[name] = 0 if steady else failures[name] + 1
                    delay = min(2.0 ** failures[name], LONGEST_BACKOFF_SECONDS)
                    due[name] = time.monotonic() + delay
                    code = child.exit_code
                    self.say(f"{name} died (exit code {code}); it starts again in {delay:.0f} s (log: {child.log})")

    def _stop_children(self, children: list[Child]) -> None:
        for child in children:
            child.ask_to_stop()
        for child in children:
            grace = 0.0 if self._in_a_hurry else GRACE_SECONDS[child.name]
            if not child.stop(grace) and not self._in_a_hurry:
                self.say(f"{child.name} did not stop within {grace:.0f} s and was killed")

    def _write_state(self) -> None:
        known = {name: child.identity for name, child in self._children.items()}
        self._state.children = {name: identity for name, identity in known.items() if identity is not None}
        write_state(self.settings.root, self._state)


@contextmanager
def _only_stack(home: Path) -> Iterator[None]:
    try:
        with FileLock(home / "stack.lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"{home}: a stack already runs here; see: evertune status, evertune down") from None
