"""Child processes of a stack: started in their own process groups, recognised later, stopped for certain."""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

STACK_ID = "EVERTUNE_STACK_ID"  # in the environment of every process that a stack started, and of what those started
CREATED_TOLERANCE_SECONDS = 0.05


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from a later one that was given the same pid."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """Return the identity of a process that runs; raises psutil.NoSuchProcess."""
        return cls(pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool:
        """Say whether this very process still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < CREATED_TOLERANCE_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class Child:
    """One process of the stack, with its log file and its restarts."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self.identity: ProcessId | None = None
        self.started_at = 0.0

    def start(self) -> None:
        """Start the process in its own process group, so that Ctrl-C reaches the stack first."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.identity = ProcessId.of(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        """Return the exit code, or None while it runs or before it started."""
        return self._process.poll() if self._process else None

    def is_running(self) -> bool:
        """Say whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the process itself; servers pass it on to their own workers."""
        if self._process and self.is_running():
            self._process.send_signal(signal.SIGTERM)

    def stop(self, grace_seconds: float) -> bool:
        """End the process and its group; return whether it went by itself within the grace time."""
        if self._process is None:
            return True
        self.ask_to_stop()
        try:
            self._process.wait(grace_seconds)
            return True
        except subprocess.TimeoutExpired:
            return False
        finally:
            _signal_group(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def last_words(self, lines: int = 3) -> str:
        """Return the last lines of its log, for a message about its end."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:])


def find_members(stack_id: str) -> list[psutil.Process]:
    """Return every process of this user that a stack started, however far down, itself excluded."""
    members = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(STACK_ID) == stack_id:
                members.append(process)
        except psutil.Error:  # gone meanwhile, or another user's
            continue
    return members


def end_members(stack_id: str, grace_seconds: float) -> int:
    """Stop what a stack left behind, first politely; return how many processes there were."""
    members = find_members(stack_id)
    _send(members, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=grace_seconds)
    _send(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=grace_seconds)
    return len(members)


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return
