"""The whole stack as a person meets it: started, looked at, killed, registered, alerted, stopped."""

import json
import os
import re
import signal
import stat
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from infra.demo.sink import AlertSink
from infra.processes import find_members
from infra.stack_state import read_state
from tests.support.stack import StackUnderTest, make_stack, wait_for_alert, wait_until

pytestmark = pytest.mark.timeout(400)


def deployments(stack: StackUnderTest) -> dict[str, dict[str, Any]]:
    found = stack.prefect("/deployments/filter", {})
    return {deployment["entrypoint"].rpartition(".")[2]: deployment for deployment in found}


def test_a_started_stack_is_healthy_and_answers(stack: StackUnderTest) -> None:
    found = stack.status()
    assert [(server["name"], server["healthy"]) for server in found["servers"]] == [
        ("mlflow", True),
        ("prefect", True),
        ("service", True),
        ("worker", True),
    ]
    (toy,) = found["loops"]
    assert (toy["name"], toy["champion"], toy["last_retrain"]["status"]) == ("toy", "1", "trained")


def test_the_printed_lines_can_be_used(stack: StackUnderTest) -> None:
    again = stack.run("up")
    assert again.returncode == 0
    assert "a stack already runs here" in again.stdout
    (curl,) = [line for line in again.stdout.splitlines() if line.startswith("curl ")]
    url, body = re.search(r"curl -s (\S+) ", curl), re.search(r"-d '(.+)'$", curl)
    assert url is not None
    assert body is not None
    key = (stack.home / "first.key").read_text(encoding="utf-8").strip()
    answer = httpx.post(
        url.group(1), json=json.loads(body.group(1)), headers={"Authorization": f"Bearer {key}"}, timeout=20
    )
    assert answer.status_code == 200
    assert answer.json()["version"] == "1"


def test_secrets_are_private(stack: StackUnderTest) -> None:
    for name in ("operator.token", "first.key"):
        assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.home.stat().st_mode) == 0o700
    assert stat.S_IMODE((stack.home / "logs" / "stack.log").stat().st_mode) == 0o600
    secrets = [(stack.home / name).read_text(encoding="utf-8").strip() for name in ("operator.token", "first.key")]
    for log in (stack.home / "logs").iterdir():
        text = log.read_text(encoding="utf-8", errors="replace")
        assert not any(secret in text for secret in secrets)
    assert f"API key       in {stack.home / 'first.key'}" in (stack.home / "logs" / "stack.log").read_text("utf-8")


def test_ports_in_use_are_named_with_their_variables(stack: StackUnderTest, tmp_path: Path) -> None:
    other = make_stack(tmp_path)
    ports = {key: value for key, value in stack.environment.items() if key.endswith("_PORT")}
    other.environment |= ports
    refused = other.run("up")
    assert refused.returncode == 2
    lines = refused.stderr.splitlines()
    assert len(lines) == 3
    for line, (variable, number) in zip(sorted(lines), sorted(ports.items(), key=lambda port: port[1]), strict=False):
        assert f"port {number} for " in line
        assert "is in use by python" in line
        assert f"set {variable} to another port" in line


def test_every_verb_is_a_deployment_with_its_form(stack: StackUnderTest) -> None:
    found = deployments(stack)
    assert set(found) == {"retrain", "tune", "monitor", "release", "rollback", "score", "upkeep"}
    for name in ("retrain", "monitor", "release", "rollback", "score"):
        loop = found[name]["parameter_openapi_schema"]["properties"]["loop"]
        assert (loop["enum"], loop["readOnly"]) == (["toy"], True)
        assert "loop:toy" in found[name]["tags"]
        assert found[name]["description"]
    assert {"evertune", "loop:toy"} <= set(found["upkeep"]["tags"])  # its failure alerts the loop's channels
    for name in ("retrain", "monitor", "release", "rollback", "score"):
        for field in found[name]["parameter_openapi_schema"]["properties"].values():
            assert field["description"]
    schema = found["retrain"]["parameter_openapi_schema"]
    assert schema["properties"]["started_by"]["enum"] == [
        "schedule",
        "drift",
        "accuracy",
        "labels",
        "erasure",
        "person",
    ]
    changes = schema["definitions"]["RetrainChanges"]["properties"]
    assert changes["method"]["anyOf"][0]["enum"] == ["full", "lora"]
    assert all(field["description"] for field in changes.values())


def test_runs_of_one_deployment_never_overlap(stack: StackUnderTest) -> None:
    found = deployments(stack)
    strategies = {name: found[name]["concurrency_options"]["collision_strategy"] for name in found}
    assert strategies.pop("monitor") == strategies.pop("upkeep") == "CANCEL_NEW"
    assert set(strategies.values()) == {"ENQUEUE"}
    assert {found[name]["global_concurrency_limit"]["limit"] for name in found} == {1}


def test_registering_again_keeps_what_a_person_paused(stack: StackUnderTest) -> None:
    monitor = deployments(stack)["monitor"]
    (schedule,) = monitor["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 0 1 1 *", "UTC")
    path = f"/deployments/{monitor['id']}/schedules/{schedule['id']}"
    stack.prefect(path, {"active": False}, "PATCH")
    stack.prefect(f"/deployments/{deployments(stack)['score']['id']}/pause_deployment", {})
    stack.run_python(
        "from pathlib import Path; from configs.load import load_all_loops; from configs.settings import Settings; "
        "from flows.deployments import register; register(load_all_loops(Settings().loops_dir), True, print)"
    )
    after = deployments(stack)
    assert [entry["active"] for entry in after["monitor"]["schedules"]] == [False]
    assert after["score"]["paused"] is True
    assert after["retrain"]["paused"] is False
    stack.prefect(f"/deployments/{after['score']['id']}/resume_deployment", {})


def test_an_alert_reaches_the_channel_with_numbers_and_link(stack: StackUnderTest, alert_sink: AlertSink) -> None:
    payload = {"summary": "toy drifted (p = 0.001)", "body": "**MMD** 0.04 since 08:00", "link": "http://report/1"}
    stack.run_python(f"from tasks.alerts import emit; emit('drift', 'toy', {payload!r})")
    alert = wait_for_alert(alert_sink, "toy drifted")
    assert alert["title"] == "toy drifted (p = 0.001)"
    assert alert["message"].startswith("**MMD** 0.04 since 08:00\n\nhttp://report/1\n\nLoop toy, 20")


def test_a_failed_flow_run_alerts_and_ends_with_one_line(stack: StackUnderTest, alert_sink: AlertSink) -> None:
    failed = stack.run("rollback", "toy", "--to", "77", "--json")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert "evertune: MLflow could not look up toy version 77" in failed.stderr
    assert "Traceback" not in failed.stderr
    alert = wait_for_alert(alert_sink, "rollback of toy failed")
    assert "toy version 77" in alert["message"]
    assert "/runs/flow-run/" in alert["message"]


def test_an_unchanged_retrain_runs_in_the_worker_and_is_skipped(stack: StackUnderTest) -> None:
    done = stack.run("retrain", "toy", "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    assert (record["loop"], record["status"]) == ("toy", "skipped")
    assert "/runs/flow-run/" in done.stderr


def test_a_refused_challenger_ends_with_3(stack: StackUnderTest, alert_sink: AlertSink) -> None:
    done = stack.run("retrain", "toy", "--set", "gate.min_macro_f1=0.999", "--set", "training.epochs=0.1", "--json")
    assert done.returncode == 3, done.stderr
    record = json.loads(done.stdout)
    assert record["decision"]["promote"] is False
    assert stack.status()["loops"][0]["champion"] == "1"
    wait_for_alert(alert_sink, "refused")


def test_a_file_is_scored_by_the_worker(stack: StackUnderTest, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,good\n2,\n", encoding="utf-8")
    done = stack.run("score", "toy", str(tmp_path / "in.csv"), "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["n_scored"], record["n_rejected"], record["version"]) == (1, 1, "1")
    header = (tmp_path / "in.scored.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == "id,text,label,score,p_negative,p_positive"


def test_a_killed_service_comes_back(stack: StackUnderTest) -> None:
    state = read_state(stack.home)
    assert state is not None
    os.kill(state.children["service"].pid, signal.SIGKILL)

    def is_back() -> bool:
        now = read_state(stack.home)
        replaced = now is not None and now.children["service"].pid != state.children["service"].pid
        return replaced and _answers(f"{stack.api}/readyz")

    wait_until(is_back)
    assert "service died (exit code -9)" in (stack.home / "logs" / "stack.log").read_text(encoding="utf-8")


def test_a_killed_supervisor_leaves_nothing_for_ever(stack: StackUnderTest, tmp_path: Path) -> None:
    second = make_stack(tmp_path)  # beside the first: other home, other ports
    process = second.start("up", "--no-train")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("curl "):
            break
    unset = "alerts of toy to 'sink' (drift, failed, refused, rollback, approval, release) go nowhere"
    assert f"{unset}; set EVERTUNE_TEST_SINK" in "".join(lines)
    process.kill()
    process.communicate()
    state = read_state(second.home)
    assert state is not None
    assert len(find_members(state.stack_id)) >= 4
    assert second.status()["running"] is False

    cleaned = second.run("down")
    assert re.search(r"stopped \d+ processes that a killed stack had left behind", cleaned.stdout)
    assert find_members(state.stack_id) == []
    assert not (second.home / "stack.json").exists()
    assert all(psutil.pid_exists(server["pid"]) for server in stack.status()["servers"])


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False
