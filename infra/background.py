"""A stack that outlives the terminal: started, awaited, stopped from another process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from configs.settings import Settings
from infra.credentials import make_home, open_private
from infra.environment import build_environment
from infra.processes import STACK_ID, end_members
from infra.stack import Say, stop_leftovers
from infra.stack_state import StackState, read_state, remove_state

STOP_SECONDS = 90.0
POLL_SECONDS = 0.2


def start_detached(settings: Settings, flags: list[str], say: Say) -> int:
    """Start the supervisor in the background and show its lines until the stack is ready; return its exit code."""
    log = settings.root / "logs" / "stack.log"
    make_home(settings.root)
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = build_environment(settings, os.environ, Path.cwd())
    environment.pop(STACK_ID, None)
    with open_private(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "up", *flags],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        return _show_until_ready(process, settings, log, say)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_SECONDS)
        raise


def stop_detached(settings: Settings, say: Say) -> bool:
    """Stop the stack of a home, or what a killed one left behind; return whether there was anything to stop."""
    state = read_state(settings.root)
    if state is None or not state.is_alive():
        return stop_leftovers(settings.root, say) > 0
    os.kill(state.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while state.is_alive() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if state.is_alive():
        say(f"the supervisor did not stop within {STOP_SECONDS:.0f} s and is killed")
        os.kill(state.supervisor.pid, signal.SIGKILL)
        end_members(state.stack_id, grace_seconds=10)
        remove_state(settings.root)
    return True


def running_stack(settings: Settings) -> StackState | None:
    """Return the state of the stack that runs under the home, if one does."""
    state = read_state(settings.root)
    return state if state is not None and state.is_alive() else None


def _show_until_ready(process: subprocess.Popen[bytes], settings: Settings, log: Path, say: Say) -> int:
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            ended = process.poll() is not None
            state = read_state(settings.root)
            ready = state is not None and state.phase == "ready" and state.supervisor.pid == process.pid
            for line in lines:
                say(line.rstrip("\n"))
            if ready and state is not None:
                return state.exit_code
            if ended:
                return process.returncode or 1
            time.sleep(POLL_SECONDS)
