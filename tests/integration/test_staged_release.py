"""How flows begin and end a release in stages, against a real MLflow store and a service that accepts or refuses."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.load import find_loop
from configs.schema import Loop
from configs.settings import Settings
from flows.release import release, rollback
from tasks.conclusion import promote_challenger
from tasks.core.retrain_plan import gate_key
from tasks.release import Judged, Target, choose_rollback, release_version
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.model_registry import ModelRegistry, open_registry
from tasks.stores.releases import Releases, StagedRelease
from tests.support.admin_stub import AdminStub, running_admin_stub
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop


@pytest.fixture
def settings(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shared registry, and a database of the test's own."""
    monkeypatch.setenv("EVERTUNE_HOME", str(store))
    monkeypatch.setenv("EVERTUNE_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    monkeypatch.setenv("EVERTUNE_OPERATOR_TOKEN", "operator-of-a-test")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for server in ("MLFLOW", "API"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))
    return Settings()


@pytest.fixture
def registry(settings: Settings) -> ModelRegistry:
    found = open_registry(settings)
    found.set_alias("toy", "champion", "1")
    return found


@pytest.fixture
def service(settings: Settings) -> Iterator[AdminStub]:
    with running_admin_stub(settings.api_port) as stub:
        yield stub


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """A loop that asks for both stages."""
    folder = tmp_path_factory.mktemp("loops")
    stages = {"shadow": {"share": 0.5}, "canary": {"minutes": 5}}
    write_toy_loop(folder, num_rows=20, release={"stages": stages})
    return find_loop("toy", folder)


@pytest.fixture
def releases(settings: Settings, registry: ModelRegistry) -> Releases:
    return Releases(open_database(settings.database))


def champion_of(registry: ModelRegistry) -> str | None:
    found = registry.find("toy", "champion")
    return found.version if found else None


def moves(settings: Settings) -> list[tuple[str, str | None, str | None, str]]:
    rows = Ledger(open_database(settings.database)).audit("toy")
    return [(row.action, row.from_version, row.to_version, row.who) for row in rows]


def running(releases: Releases) -> StagedRelease:
    found = releases.find_running("toy")
    assert found is not None
    return found


def test_a_release_begins_in_the_first_stage(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop, releases: Releases
) -> None:
    outcome = release_version.fn(toy, "2", "ann", "better", action="promote")
    assert (outcome.status, outcome.previous) == ("staged", "1")
    assert outcome.reason == (
        "in shadow, beside version 1; its way is shadow -> canary -> stable: evertune releases toy"
    )
    assert (champion_of(registry), service.checked, service.asked) == ("1", ["2"], [])
    begun = running(releases)
    assert (begun.version, begun.champion, begun.stage, begun.action) == ("2", "1", "shadow", "promote")
    assert moves(settings) == [("shadow", "1", "2", "ann")]
    again = release_version.fn(toy, "2", "ann", "better", action="promote")  # a flow run that was tried again
    assert (again.status, again.reason.startswith("in shadow since ")) == ("staged", True)
    assert running(releases) == begun


def test_a_version_that_the_service_refuses_is_never_staged(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop, releases: Releases
) -> None:
    service.refused.add("2")
    assert release_version.fn(toy, "2", "ann", "better").status == "refused"
    assert (releases.find_running("toy"), champion_of(registry)) == (None, "1")
    assert moves(settings) == [("refuse", "1", "2", "service")]


def test_without_service_it_begins_when_the_service_does(toy: Loop, releases: Releases) -> None:
    outcome = release_version.fn(toy, "2", "ann", "better")
    assert (outcome.status, "once the service runs" in outcome.reason) == ("staged", True)
    assert running(releases).version == "2"


@pytest.mark.usefixtures("service")
def test_a_retrain_begins_a_release_of_what_the_gate_promotes(
    settings: Settings, registry: ModelRegistry, toy: Loop, releases: Releases
) -> None:
    registry.set_alias("toy", "challenger", "2")
    registered: Any = SimpleNamespace(version=registry.get("toy", "2"))
    decision = SimpleNamespace(promote=True, summary="all 3 rules of the gate hold")
    evaluation: Any = SimpleNamespace(decision=decision, champion_version="1")
    promotion = promote_challenger.fn(toy, registered, evaluation)
    assert (promotion.status, running(releases).version, champion_of(registry)) == ("staged", "2", "1")
    challenger = registry.find("toy", "challenger")
    assert challenger is not None  # it has not won yet; the service takes the alias away when it has
    assert challenger.version == "2"
    registry.delete_alias("toy", "challenger")
    assert moves(settings) == [("shadow", "1", "2", "retrain")]


@pytest.mark.usefixtures("service")
def test_before_the_first_champion_there_are_no_stages(registry: ModelRegistry, toy: Loop, releases: Releases) -> None:
    registry.delete_alias("toy", "champion")
    assert release_version.fn(toy, "1", "ann", "first").status == "serving"
    assert releases.find_running("toy") is None


@pytest.mark.usefixtures("service")
def test_a_newer_version_takes_the_place_of_an_older_one(
    settings: Settings, registry: ModelRegistry, toy: Loop, releases: Releases
) -> None:
    release_version.fn(toy, "2", "retrain", "", action="promote")
    assert release_version.fn(toy, "3", "retrain", "", action="promote", judged=Judged("1")).status == "staged"
    assert running(releases).version == "3"
    older = releases.list_recent("toy", 5)[1]
    assert (older.stage, older.reason) == ("withdrawn", "version 3 came after it")
    assert [move[:3] for move in moves(settings)] == [
        ("shadow", "1", "2"),
        ("withdraw", "1", "2"),
        ("shadow", "1", "3"),
    ]
    outdated = release_version.fn(toy, "2", "retrain", "", action="promote", judged=Judged("2"))
    assert outdated.status == "outdated"
    assert (running(releases).version, champion_of(registry)) == ("3", "1")


@pytest.mark.usefixtures("service")
def test_now_leaves_the_stages_out(
    settings: Settings, registry: ModelRegistry, toy: Loop, releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.release.find_loop", lambda _name, _folder: toy)
    monkeypatch.setattr("flows.release.release_version", release_version.fn)
    assert release.fn("toy", "2")["status"] == "staged"
    assert release.fn("toy", "2", now=True)["status"] == "serving"  # the very version on its way
    assert champion_of(registry) == "2"
    ended = releases.list_recent("toy", 1)[0]
    assert (ended.stage, ended.reason.startswith("released at once by")) == ("stable", True)
    assert release.fn("toy", "3")["status"] == "staged"
    assert release.fn("toy", "2")["status"] == "serving"  # the champion again, as a flow run that is tried again does
    assert running(releases).version == "3"
    assert release.fn("toy", "1", now=True)["status"] == "serving"  # another one
    assert (champion_of(registry), releases.find_running("toy")) == ("1", None)
    assert [move[:3] for move in moves(settings)] == [
        ("shadow", "1", "2"),
        ("release", "1", "2"),
        ("shadow", "2", "3"),
        ("release", "2", "1"),
        ("withdraw", "2", "3"),
    ]


def test_a_refused_now_leaves_the_release_on_its_way(
    registry: ModelRegistry, service: AdminStub, toy: Loop, releases: Releases
) -> None:
    release_version.fn(toy, "2", "ann", "")
    service.refused.add("3")
    assert release_version.fn(toy, "3", "ann", "", now=True).status == "refused"
    assert (running(releases).version, champion_of(registry)) == ("2", "1")


@pytest.mark.usefixtures("service")
def test_a_rollback_takes_back_what_is_on_its_way(
    settings: Settings,
    registry: ModelRegistry,
    toy: Loop,
    releases: Releases,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("flows.release.find_loop", lambda _name, _folder: toy)
    monkeypatch.setattr("flows.release.choose_rollback", choose_rollback.fn)
    monkeypatch.setattr("flows.release.release_version", release_version.fn)
    ledger = Ledger(open_database(settings.database))
    ledger.append_audit("toy", "promote", "ann", "", None, "1", datetime.now(UTC))
    release_version.fn(toy, "2", "ann", "")
    assert choose_rollback.fn(toy, None) == Target("1", Judged("1"))
    outcome = rollback.fn("toy", why="complaints")
    assert (outcome["status"], outcome["version"]) == ("serving", "1")
    assert outcome["reason"] == "the release of version 2 ended in shadow; checks passed"
    assert (champion_of(registry), releases.find_running("toy")) == ("1", None)
    assert [move[:3] for move in moves(settings)] == [
        ("promote", None, "1"),
        ("shadow", "1", "2"),
        ("refuse", "1", "2"),
    ]
    assert "version 2 was taken back from shadow, version 1 serves on" in caplog.text


@pytest.mark.usefixtures("service")
def test_a_rollback_to_a_version_ends_a_release_too(registry: ModelRegistry, toy: Loop, releases: Releases) -> None:
    release_version.fn(toy, "2", "ann", "")
    assert release_version.fn(toy, "3", "ann", "", action="rollback").status == "serving"
    assert (champion_of(registry), releases.find_running("toy")) == ("3", None)
    assert releases.list_recent("toy", 1)[0].stage == "refused"


def test_a_change_counts_only_from_the_stage_that_was_read(releases: Releases) -> None:
    """Two services of one database look at the same release: one of them advances it."""
    now = datetime.now(UTC)
    seen = releases.start("toy", "2", "1", "shadow", "ann", "", "release", now)
    assert releases.enter(seen, "canary", "service", "ok", now, {}, None)
    assert not releases.enter(seen, "canary", "service", "ok", now, {}, None)
    assert not releases.complete(seen, "service", "ok", now, {}, None)
    assert not releases.end(seen, "refused", "service", "slow", now)
    assert running(releases).stage == "canary"
    assert [step.stage for step in releases.list_steps(seen.release_id)] == ["shadow", "canary"]


def test_an_alert_is_told_once(releases: Releases) -> None:
    now = datetime.now(UTC)
    begun = releases.start("toy", "2", "1", "shadow", "ann", "", "release", now)
    releases.end(begun, "refused", "service", "slow", now, None, {"kind": "rollback", "summary": "toy: slow"})
    (due,) = releases.list_due_alerts(now - timedelta(days=1))
    assert (due.loop, due.alert["summary"]) == ("toy", "toy: slow")
    assert releases.list_due_alerts(now + timedelta(seconds=1)) == []
    releases.mark_told([due], now)
    assert releases.list_due_alerts(now - timedelta(days=1)) == []


def test_other_limits_of_the_stages_give_another_hearing(toy: Loop) -> None:
    def with_stages(**changes: object) -> Loop:
        stages = toy.release.stages.model_copy(update=changes)
        return toy.model_copy(update={"release": toy.release.model_copy(update={"stages": stages})})

    assert gate_key(toy) != gate_key(with_stages(max_disagreement=0.5))
    none = {"shadow": None, "canary": None}
    assert gate_key(with_stages(**none)) == gate_key(with_stages(**none, max_disagreement=0.5))
