"""A person's yes or no against a real MLflow store, a real ledger and a service that accepts or refuses; no Prefect."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from configs.load import find_loop
from configs.schema import Loop
from configs.serving_schema import Canary
from configs.settings import Settings
from flows.approve import Approval, approve
from infra.cli import main
from infra.status import describe_status, read_status
from tasks.approval import (
    ask_for_approval,
    find_open_question,
    look_after_question,
    read_question,
    review_question,
    settle_question,
)
from tasks.core.errors import TransientError
from tasks.release import release_version
from tasks.stores.database import open_database
from tasks.stores.ledger import AuditRow, Ledger
from tasks.stores.model_registry import ModelRegistry, open_registry
from tests.support.admin_stub import AdminStub, running_admin_stub
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop
from tests.support.versions import register_tiny_version

SCORES = {"accuracy": 0.91, "accuracy_ci": [0.88, 0.94], "macro_f1": 0.9, "ece": 0.03, "n": 100}
RULES = [{"name": "floor", "passed": True, "reason": "macro-F1 0.900 reaches the floor 0.800"}]
GATE = {"scores": SCORES, "champion_scores": {**SCORES, "accuracy": 0.85}, "decision": {"rules": RULES}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose registry holds versions 1, 2 and 3 of the toy loop, and the toy loop with approval required."""
    home = tmp_path_factory.mktemp("store")
    write_toy_loop(home / "loops", release={"approval": "required", "approval_days": 7})
    registry = open_registry(Settings(home=home, mlflow_port=free_port()))
    for number in ("1", "2", "3"):
        evidence = home / "made" / number / "evidence"
        evidence.mkdir(parents=True)
        (evidence / "gate.json").write_text(json.dumps(GATE), encoding="utf-8")
        assert register_tiny_version(registry, home / "made" / number, "toy", ["negative", "positive"]) == number
    return home


@pytest.fixture
def settings(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The registry of the module, and a ledger of the test's own."""
    monkeypatch.setenv("EVERTUNE_HOME", str(store))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(store / "loops"))
    monkeypatch.setenv("EVERTUNE_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("EVERTUNE_OPERATOR_TOKEN", "operator-of-a-test")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for server in ("MLFLOW", "API", "PREFECT"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))
    return Settings()


@pytest.fixture
def toy(settings: Settings) -> Loop:
    return find_loop("toy", settings.loops_dir)


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    """Version 1 is champion, nothing is challenger."""
    found = open_registry(settings)
    found.set_alias("toy", "champion", "1")
    if found.find("toy", "challenger"):
        found.delete_alias("toy", "challenger")
    return found


@pytest.fixture
def service(settings: Settings) -> Iterator[AdminStub]:
    with running_admin_stub(settings.api_port) as stub:
        yield stub


def audit(settings: Settings) -> list[AuditRow]:
    return Ledger(open_database(settings.database)).audit("toy")


def alias(registry: ModelRegistry, name: str) -> str | None:
    found = registry.find("toy", name)
    return found.version if found else None


def ask(toy: Loop, registry: ModelRegistry, version: str = "2") -> None:
    registry.set_alias("toy", "challenger", version)
    asked = ask_for_approval(toy, registry.get("toy", version), alias(registry, "champion"), "all rules hold")
    assert (asked.version, asked.command, asked.url) == (version, "evertune approve toy", None)


def settle(toy: Loop, answer: Any, version: str | None = None) -> dict[str, Any]:
    return settle_question.fn(toy, read_question.fn(toy, version), answer, "looks right", "ann")


def ask_long_ago(settings: Settings, version: str, days: float) -> None:
    then = datetime.now(UTC) - timedelta(days=days)
    Ledger(open_database(settings.database)).append_audit("toy", "ask", "retrain", "ok", "1", version, then)


@pytest.mark.usefixtures("service")
def test_a_yes_releases(
    settings: Settings, registry: ModelRegistry, toy: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    ask(toy, registry)
    assert "toy: version 2 waits for your approval" in caplog.text
    assert alias(registry, "champion") == "1"
    asked = read_question.fn(toy, None)
    assert "| accuracy                | 0.910 [0.880, 0.940] | 0.850 [0.880, 0.940] |" in asked.table
    assert "macro-F1 0.900 reaches the floor 0.800" in asked.table
    record = settle(toy, "yes")
    assert (record["status"], record["version"], record["who"]) == ("serving", "2", "approver ann")
    assert (alias(registry, "champion"), alias(registry, "challenger")) == ("2", None)
    last = audit(settings)[-1]
    assert (last.action, last.who, last.why, last.from_version) == ("promote", "approver ann", "looks right", "1")
    assert registry.describe(registry.get("toy", "2"))["tags"]["approval"] == "yes of approver ann: looks right"
    again = settle(toy, "yes", "2")
    assert again["status"] == "ended"
    assert again["reason"].startswith("version 2 was released by approver ann on ")


def test_a_no_keeps_the_challenger_as_a_refusal_of_the_gate_does(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    ask(toy, registry)
    assert settle(toy, "no")["status"] == "turned down"
    assert (alias(registry, "champion"), alias(registry, "challenger")) == ("1", "2")
    assert [(row.action, row.who) for row in audit(settings)] == [("ask", "retrain"), ("refuse", "approver ann")]
    assert "toy: version 2 was refused: looks right" in caplog.text
    assert not service.checked


@pytest.mark.usefixtures("service")
def test_a_newer_version_takes_the_place_of_an_older_question(
    settings: Settings, registry: ModelRegistry, toy: Loop
) -> None:
    ask(toy, registry, "2")
    ask(toy, registry, "3")
    question = find_open_question(toy, registry)
    assert question is not None
    assert question.version == "3"
    withdrawn = audit(settings)[1]
    assert (withdrawn.action, withdrawn.to_version) == ("withdraw", "2")
    assert withdrawn.why == "version 3 is newer and passes the gate too"
    older = settle(toy, "yes", "2")
    assert (older["status"], older["version"]) == ("ended", None)
    assert "version 2 was withdrawn by retrain" in older["reason"]
    assert alias(registry, "champion") == "1"
    assert settle(toy, "yes")["version"] == "3"


def test_without_an_answer_in_time_it_is_let_go(
    settings: Settings, registry: ModelRegistry, toy: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    ask_long_ago(settings, "2", days=7.1)
    review_question.fn(toy)
    assert [row.action for row in audit(settings)] == ["ask", "lapse"]
    assert "toy: version 2 was let go: nobody answered until" in caplog.text
    late = settle(toy, "yes", "2")
    assert late["status"] == "ended"
    assert "version 2 was let go by evertune" in late["reason"]
    ask_long_ago(settings, "3", days=6.9)
    review_question.fn(toy)
    assert find_open_question(toy, registry) is not None
    assert alias(registry, "champion") == "1"


@pytest.mark.usefixtures("service")
def test_a_yes_counts_for_nothing_once_the_champion_changed(
    settings: Settings, registry: ModelRegistry, toy: Loop
) -> None:
    ask(toy, registry, "2")
    asked = read_question.fn(toy, None)
    release_version.fn(toy, "3", "eve", "urgent")
    record = settle_question.fn(toy, asked, "yes", "", "ann")
    assert record["status"] == "ended"
    assert "it was judged against version 1, and now version 3 serves" in record["reason"]
    assert (alias(registry, "champion"), audit(settings)[-1].action) == ("3", "withdraw")


def test_what_the_service_refuses_stays_a_challenger(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop
) -> None:
    service.refused.add("2")
    ask(toy, registry)
    record = settle(toy, "yes")
    assert (record["status"], record["reason"]) == ("refused", "case 3 differs by 0.4")
    assert (alias(registry, "champion"), alias(registry, "challenger")) == ("1", "2")
    assert find_open_question(toy, registry) is None


class Suspended(Exception):
    """What ends a process whose flow run waits."""


def test_a_yes_to_one_table_does_not_release_the_next_version(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run for whichever version waits goes on after Resume from its beginning, as Prefect's do, a pause key once."""
    shown: dict[str, str] = {}

    def suspend(wait_for_input: Any, timeout: int, key: str) -> Approval:
        if key not in shown:
            shown[key] = wait_for_input._description
            raise Suspended
        return Approval(answer="yes", why="", who="ann")

    for name, called in (("suspend_flow_run", suspend), ("read_question", read_question.fn)):
        monkeypatch.setattr(f"flows.approve.{name}", called)
    monkeypatch.setattr("flows.approve.settle_question", settle_question.fn)
    ask(toy, registry, "2")
    with pytest.raises(Suspended):
        approve.fn("toy")
    ask(toy, registry, "3")
    with pytest.raises(Suspended):
        approve.fn("toy")
    assert alias(registry, "champion") == "1"
    assert [("version 2" in table, "version 3" in table) for table in shown.values()] == [(True, False), (False, True)]
    record = approve.fn("toy")
    assert (record["status"], record["version"]) == ("serving", "3")


def unreachable(*_arguments: object) -> None:
    raise TransientError("MLflow does not answer")


def test_people_are_told_although_mlflow_does_not_answer(
    settings: Settings,
    registry: ModelRegistry,
    toy: Loop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as broken:
        for part in ("tag", "fetch_reference"):
            broken.setattr(ModelRegistry, part, unreachable)
        ask(toy, registry)
    assert "toy: version 2 waits for your approval" in caplog.text
    started = []
    monkeypatch.setattr("tasks.approval.start_asking", lambda *what: started.append(what[:3]))
    (asked,) = audit(settings)
    key = f"approve-toy-{asked.at.isoformat()}"
    review_question.fn(toy)
    look_after_question(toy, registry)
    assert started == [("toy", "2", key)] * 2  # which Prefect starts once
    settle(toy, "no")
    review_question.fn(toy)
    assert len(started) == 2


@pytest.mark.usefixtures("service")
def test_a_yes_is_a_success_although_what_follows_the_move_fails(
    settings: Settings, registry: ModelRegistry, toy: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(toy, registry)
    asked = read_question.fn(toy, None)
    with monkeypatch.context() as broken:
        for part in ("delete_alias", "tag"):
            broken.setattr(ModelRegistry, part, unreachable)
        assert settle_question.fn(toy, asked, "yes", "", "ann")["status"] == "serving"
    assert alias(registry, "champion") == "2"
    again = settle_question.fn(toy, asked, "yes", "", "ann")  # the process died right after the move
    assert again["status"] == "serving"
    assert again["reason"].startswith("version 2 was released by approver ann on ")
    assert [row.action for row in audit(settings)] == ["ask", "promote"]
    assert settle_question.fn(toy, asked, "no", "", "ann")["status"] == "ended"
    release_version.fn(toy, "1", "ann", "worse after all", "rollback")
    assert settle_question.fn(toy, asked, "yes", "", "ann")["status"] == "ended"
    assert alias(registry, "champion") == "1"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("service")
def test_the_command_shows_the_table_and_tells_what_cannot_be_answered(
    settings: Settings,
    registry: ModelRegistry,
    toy: Loop,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("infra.running.prepare_process", lambda _settings: False)  # it would change the environment
    assert run(monkeypatch, "approve", "toy") == 2
    assert capsys.readouterr().err == "evertune: toy: no version of toy waits for approval\n"
    ask(toy, registry)
    (waiting,) = [loop["waiting"] for loop in read_status(settings)["loops"]]
    assert (waiting["version"], waiting["command"]) == ("2", "evertune approve toy")
    assert "  version 2 waits for approval since " in "\n".join(describe_status(read_status(settings)))
    assert run(monkeypatch, "approve", "toy", "--dry-run", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"loop": "toy", "version": "2", "problem": None, "dry_run": True}
    assert "macro-F1 0.900 reaches the floor 0.800" in shown.err
    assert run(monkeypatch, "approve", "toy", "--version", "3") == 2
    assert "version 3 of toy does not wait for approval" in capsys.readouterr().err
    release_version.fn(toy, "3", "eve", "urgent")
    assert run(monkeypatch, "approve", "toy", "--dry-run") == 0
    assert "would count for nothing: it was judged against version 1, and now version 3" in capsys.readouterr().out
    assert [row.action for row in audit(settings)] == ["ask", "release"]
    find_open_question(toy, registry)
    assert run(monkeypatch, "approve", "toy", "--version", "2", "--json") == 3  # asked, and too late
    shown = capsys.readouterr()
    assert json.loads(shown.out)["status"] == "ended"
    assert "nothing was released: version 2 was withdrawn by evertune on " in shown.err
    assert run(monkeypatch, "approve", "toy", "--version", "3") == 2


@pytest.mark.usefixtures("service")
def test_a_yes_begins_a_release_in_stages(settings: Settings, registry: ModelRegistry, toy: Loop) -> None:
    stages = toy.release.stages.model_copy(update={"canary": Canary()})
    staged = toy.model_copy(update={"release": toy.release.model_copy(update={"stages": stages})})
    ask(staged, registry)
    asked = read_question.fn(staged, None)
    for expected in ("in canary, beside version 1; ", "in canary: "):  # the second: a task that was tried again
        settled = settle_question.fn(staged, asked, "yes", "looks right", "ann")
        assert (settled["status"], settled["reason"].startswith(expected)) == ("staged", True), settled
    assert (alias(registry, "champion"), alias(registry, "challenger")) == ("1", "2")
    assert [row.action for row in audit(settings)] == ["ask", "canary"]
