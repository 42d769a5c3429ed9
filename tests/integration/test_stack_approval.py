"""A version waits in Prefect for a person, outlives the worker, and serves after a yes: the whole stack."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from infra.demo.sink import AlertSink
from infra.stack_state import read_state
from tests.support.stack import StackUnderTest, wait_for_alert, wait_until

pytestmark = pytest.mark.timeout(600)
REGISTER = """
from configs.load import find_loop, load_all_loops
from configs.settings import Settings
from flows.deployments import register
register(load_all_loops(Settings().loops_dir), True, print)
"""
RELEASE = """
from tasks.release import release_version
release_version.fn(find_loop("toy", Settings().loops_dir), "{champion}", "a test", "as it was before")
"""
ASK = """
from tasks.approval import ask_for_approval
from tasks.stores.model_registry import open_registry
registry = open_registry(Settings())
champion = registry.find("toy", "champion")
ask_for_approval(find_loop("toy", Settings().loops_dir), champion, champion.version, "asked by a test")
"""
QUICK = ("training.epochs=0.1", "training.seed=77", "gate.min_macro_f1=0.01", "gate.max_accuracy_loss=0.99",
         "gate.max_slice_loss=0.99")  # fmt: skip


@pytest.fixture
def careful(stack: StackUnderTest) -> Iterator[StackUnderTest]:
    """The stack, whose toy loop asks for approval as long as the test lasts, and asks about its own champion now.

    The champion is the same after it.
    """
    file = Path(stack.environment["EVERTUNE_LOOPS_DIR"]) / "toy.yaml"
    before, champion = file.read_text(encoding="utf-8"), serving(stack)
    file.write_text(before + yaml.safe_dump({"release": {"approval": "required"}}), encoding="utf-8")
    stack.run_python(REGISTER + ASK)
    yield stack
    file.write_text(before, encoding="utf-8")
    stack.run_python(REGISTER + RELEASE.format(champion=champion))
    assert serving(stack) == champion


def serving(stack: StackUnderTest) -> str:
    versions: dict[str, str] = httpx.get(f"{stack.api}/readyz", timeout=20).json()["versions"]
    return versions["toy"]


def asking(stack: StackUnderTest, version: str) -> dict[str, Any]:
    """Return the newest run of the deployment `approve/toy` that is about a version; empty while there is none."""
    found = stack.prefect("/flow_runs/filter", {"flows": {"name": {"any_": ["approve"]}}, "sort": "ID_DESC"})
    return next((run for run in found if run["parameters"]["version"] == version), {})


def wait_for_state(stack: StackUnderTest, version: str, state: str) -> dict[str, Any]:
    wait_until(lambda: asking(stack, version).get("state_name") == state)
    return asking(stack, version)


def test_a_version_waits_for_a_person_and_serves_after_a_yes(careful: StackUnderTest, alert_sink: AlertSink) -> None:
    champion = serving(careful)
    older = wait_for_state(careful, champion, "Suspended")
    deployment = careful.prefect(f"/deployments/{older['deployment_id']}", method="GET")
    assert deployment["global_concurrency_limit"] is None  # one that waits keeps no other from asking
    assert "evertune approve toy" in deployment["description"]

    changes = [word for change in QUICK for word in ("--set", change)]
    trained = careful.run("retrain", "toy", *changes, "--json")
    assert trained.returncode == 0, trained.stderr
    record = json.loads(trained.stdout)
    assert record["released"] == "awaiting approval"
    version, page = record["version"], record["approval"]["url"]
    assert f"answer with: evertune approve toy  or {page}" in trained.stderr
    alert = wait_for_alert(alert_sink, f"version {version} waits")
    assert alert["title"] == f"toy: version {version} waits for your approval"
    assert page in alert["message"]
    assert wait_for_state(careful, champion, "Cancelled")["id"] == older["id"]  # superseded
    waiting = wait_for_state(careful, version, "Suspended")
    assert page.endswith(waiting["id"])
    state = read_state(careful.home)
    assert state is not None
    os.kill(state.children["worker"].pid, signal.SIGKILL)
    swept = careful.run_python("from infra.flow_runs import sweep_zombies; sweep_zombies()")
    assert swept.returncode == 0
    assert asking(careful, version)["state_name"] == "Suspended"  # no process holds it, so no restart ends it
    (toy,) = careful.status()["loops"]
    assert (toy["champion"], toy["waiting"]["version"], toy["waiting"]["url"]) == (champion, version, page)

    done = careful.run("approve", "toy", "--why", "read the table", "--json")
    assert done.returncode == 0, done.stderr
    answered = json.loads(done.stdout)
    assert (answered["status"], answered["version"], answered["why"]) == ("serving", version, "read the table")
    assert "- ok, **floor**: " in done.stderr
    assert asking(careful, version)["state_name"] == "Completed"
    assert serving(careful) == version
