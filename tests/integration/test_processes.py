"""Processes and ports, with real ones."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.ports import Port, find_port_problems, is_free
from infra.processes import STACK_ID, Child, ProcessId, end_members, find_members
from infra.stack import stop_leftovers
from infra.stack_state import StackState, read_state, state_file, write_state
from tests.support.ports import free_port

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
    "print('up', flush=True); time.sleep(60)"
)


def wait_for_line(child: Child) -> None:
    while "up" not in child.last_words():
        assert child.is_running()


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[object]:
    children: list[Child] = []

    def make(code: str, stack_id: str = "stack-of-a-test") -> Child:
        environment = {**os.environ, STACK_ID: stack_id}
        child = Child("child", [sys.executable, "-c", code], environment, tmp_path / "logs" / "child.log")
        child.start()
        children.append(child)
        return child

    yield make
    for child in children:
        child.stop(0)


def test_child_that_ignores_sigterm_is_killed(make_child) -> None:  # type: ignore[no-untyped-def]
    child = make_child(STUBBORN)
    wait_for_line(child)
    assert child.stop(grace_seconds=0.2) is False
    assert child.exit_code == -9
    assert not child.identity.is_alive()


def test_child_that_obeys_is_not_killed(make_child) -> None:  # type: ignore[no-untyped-def]
    child = make_child("import time; print('up', flush=True); time.sleep(60)")
    wait_for_line(child)
    assert child.stop(grace_seconds=10) is True
    assert child.exit_code == -15


def test_last_words_are_the_end_of_the_log(make_child) -> None:  # type: ignore[no-untyped-def]
    child = make_child("print('one\\ntwo\\n\\nthree\\nfour')")
    child._process.wait(10)
    assert child.last_words(lines=2) == "three | four"


def test_leftovers_of_a_killed_stack_are_stopped_with_what_they_started(make_child, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    child = make_child(PARENT, stack_id="killed-stack")
    wait_for_line(child)
    bystander = make_child("import time; time.sleep(60)", stack_id="another-stack")
    assert len(find_members("killed-stack")) == 2
    write_state(tmp_path, StackState("killed-stack", ProcessId(pid=2**22 - 1, created=1.0)))
    said: list[str] = []
    assert stop_leftovers(tmp_path, said.append) == 2
    assert said == ["stopped 2 processes that a killed stack had left behind"]
    assert read_state(tmp_path) is None
    assert bystander.is_running()
    assert end_members("killed-stack", 1) == 0


def test_a_reused_pid_is_another_process() -> None:
    me = ProcessId.of(os.getpid())
    assert me.is_alive()
    assert not ProcessId(me.pid, me.created - 100).is_alive()


def test_a_stack_that_runs_is_left_alone(tmp_path: Path) -> None:
    write_state(tmp_path, StackState("running", ProcessId.of(os.getpid())))
    assert stop_leftovers(tmp_path, print) == 0
    assert read_state(tmp_path) is not None


def test_a_state_cut_off_while_written_is_no_state(tmp_path: Path) -> None:
    state_file(tmp_path).write_text('{"stack_id": "x", "superv', encoding="utf-8")
    assert read_state(tmp_path) is None


def test_a_taken_port_names_holder_and_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert not is_free("127.0.0.1", number)
        name = psutil.Process().name()
        assert find_port_problems("127.0.0.1", [Port(number, "MLflow", "EVERTUNE_MLFLOW_PORT")]) == [
            f"port {number} for MLflow is in use by {name} (pid {os.getpid()}); "
            "free it or set EVERTUNE_MLFLOW_PORT to another port"
        ]


def test_one_port_wanted_twice_is_told() -> None:
    number = free_port()
    ports = [Port(number, "MLflow", "EVERTUNE_MLFLOW_PORT"), Port(number, "Prefect", "EVERTUNE_PREFECT_PORT")]
    problems = find_port_problems("127.0.0.1", ports)
    assert problems == [f"port {number} is wanted by MLflow and Prefect; set EVERTUNE_PREFECT_PORT"]


def test_help_needs_no_heavy_import() -> None:
    heavy = ("prefect", "mlflow", "torch", "pandas", "sqlalchemy")
    code = f"import sys, infra.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
