"""Alias moves against a real MLflow store, a real ledger, and a service that accepts or refuses."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from configs.load import find_loop
from configs.schema import Loop
from configs.settings import Settings
from flows.release import rollback
from infra.cli import _finish_move
from tasks.core.errors import DataError, TransientError
from tasks.release import Judged, Target, choose_rollback, read_answer, release_version
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.model_registry import ModelRegistry, open_registry
from tests.support.admin_stub import AdminStub, running_admin_stub
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop


@pytest.fixture
def settings(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shared registry, and a ledger of the test's own."""
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
    if found.find("toy", "champion"):
        found.delete_alias("toy", "champion")
    return found


@pytest.fixture
def service(settings: Settings) -> Iterator[AdminStub]:
    with running_admin_stub(settings.api_port) as stub:
        yield stub


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    folder = tmp_path_factory.mktemp("loops")
    write_toy_loop(folder)
    return find_loop("toy", folder)


def champion_of(registry: ModelRegistry) -> str | None:
    found = registry.find("toy", "champion")
    return found.version if found else None


def moves(settings: Settings) -> list[tuple[str, str | None, str | None]]:
    rows = Ledger(open_database(settings.database)).audit("toy")
    return [(row.action, row.from_version, row.to_version) for row in rows]


def test_a_release_moves_alias_ledger_and_service(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop
) -> None:
    outcome = release_version.fn(toy, "1", "ann", "first", action="promote")
    assert (outcome.status, outcome.version, outcome.previous) == ("serving", "1", None)
    outcome = release_version.fn(toy, "2", "ann", "better")
    assert (outcome.status, outcome.previous) == ("serving", "1")
    assert champion_of(registry) == "2"
    assert moves(settings) == [("promote", None, "1"), ("release", "1", "2")]
    assert service.asked == [("1", "Bearer operator-of-a-test"), ("2", "Bearer operator-of-a-test")]
    assert service.checked == ["1", "2"]


def test_the_service_is_asked_before_the_alias_moves(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop
) -> None:
    """While nothing serves, the service takes up what the alias names: it must not name what will be refused."""
    seen: list[str | None] = []
    service.on_check = lambda: seen.append(champion_of(registry))
    service.refused.add("1")
    release_version.fn(toy, "1", "ann", "first")
    service.refused.clear()
    release_version.fn(toy, "1", "ann", "again")
    release_version.fn(toy, "2", "ann", "better")
    assert seen == [None, None, "1"]


def test_a_version_that_passes_and_cannot_be_switched_to_is_taken_back(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop
) -> None:
    release_version.fn(toy, "1", "ann", "first")
    service.refuses_to_switch.add("2")
    assert release_version.fn(toy, "2", "ann", "better").status == "refused"
    assert champion_of(registry) == "1"
    assert moves(settings)[1:] == [("release", "1", "2"), ("rollback", "2", "1")]


@pytest.mark.usefixtures("service")
def test_a_version_judged_against_another_champion_is_not_released(
    settings: Settings, registry: ModelRegistry, toy: Loop
) -> None:
    release_version.fn(toy, "1", "ann", "first")
    outcome = release_version.fn(toy, "2", "ann", "yes", judged=Judged(None))
    assert outcome.status == "outdated"
    assert outcome.reason == "it was judged against no champion, and now version 1 serves"
    assert (champion_of(registry), len(moves(settings))) == ("1", 1)
    assert release_version.fn(toy, "2", "ann", "yes", judged=Judged("1")).status == "serving"


def test_a_refusal_moves_nothing(
    settings: Settings,
    registry: ModelRegistry,
    service: AdminStub,
    toy: Loop,
    caplog: pytest.LogCaptureFixture,
) -> None:
    release_version.fn(toy, "1", "ann", "first")
    service.refused.add("2")
    outcome = release_version.fn(toy, "2", "ann", "better")
    assert (outcome.status, outcome.reason) == ("refused", "case 3 differs by 0.4")
    assert champion_of(registry) == "1"
    assert moves(settings)[1:] == [("refuse", "1", "2")]
    last = Ledger(open_database(settings.database)).audit("toy")[-1]
    assert (last.who, last.why) == ("service", "case 3 differs by 0.4 (wanted by ann)")
    assert service.asked == [("1", "Bearer operator-of-a-test")]
    assert "toy: version 2 was refused by the service, version 1 serves on" in caplog.text


def test_a_refused_first_version_leaves_no_champion(
    settings: Settings, registry: ModelRegistry, service: AdminStub, toy: Loop
) -> None:
    service.refused.add("1")
    assert release_version.fn(toy, "1", "ann", "first").status == "refused"
    assert champion_of(registry) is None
    assert moves(settings) == [("refuse", None, "1")]


def test_without_service_the_release_is_pending(settings: Settings, registry: ModelRegistry, toy: Loop) -> None:
    outcome = release_version.fn(toy, "1", "ann", "first")
    assert outcome.status == "pending"
    assert outcome.reason == f"the service at {settings.api} does not run; it serves the version when it starts"
    assert champion_of(registry) == "1"


@pytest.mark.usefixtures("service")
def test_releasing_the_champion_again_is_no_move(settings: Settings, registry: ModelRegistry, toy: Loop) -> None:
    for _ in range(2):
        assert release_version.fn(toy, "1", "ann", "first").status == "serving"
    assert moves(settings) == [("release", None, "1")]
    assert champion_of(registry) == "1"


@pytest.mark.usefixtures("service")
def test_a_move_without_its_audit_row_gets_it_when_it_is_tried_again(
    settings: Settings, registry: ModelRegistry, toy: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_version.fn(toy, "1", "ann", "first")
    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "append_audit", unreachable)
        with pytest.raises(TransientError):
            release_version.fn(toy, "2", "ann", "better", action="promote")
    assert champion_of(registry) == "2"
    for _ in range(2):
        assert release_version.fn(toy, "2", "ann", "better", action="promote").status == "serving"
    assert moves(settings) == [("release", None, "1"), ("promote", "1", "2")]


def unreachable(*_arguments: object) -> None:
    raise TransientError("the database does not answer")


@pytest.mark.usefixtures("service")
def test_a_rollback_moves_nothing_when_another_version_was_promoted_meanwhile(
    settings: Settings, registry: ModelRegistry, toy: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1", "2"):
        release_version.fn(toy, version, "ann", "")

    def choose_and_be_overtaken(config: Loop, to: str | None) -> Target:
        target = choose_rollback.fn(config, to)
        release_version.fn(config, "3", "retrain", "better", action="promote")
        return target

    monkeypatch.setattr("flows.release.find_loop", lambda _name, _folder: toy)
    monkeypatch.setattr("flows.release.choose_rollback", choose_and_be_overtaken)
    monkeypatch.setattr("flows.release.release_version", release_version.fn)
    outcome = rollback.fn("toy")
    assert outcome["status"] == "outdated"
    assert outcome["reason"] == "it was chosen to go back from version 2, and now version 3 serves"
    assert (champion_of(registry), moves(settings)[-1]) == ("3", ("promote", "2", "3"))
    with pytest.raises(typer.Exit) as ended:
        _finish_move(outcome)
    assert ended.value.exit_code == 3
    release_version.fn(toy, "2", "ann", "")
    assert rollback.fn("toy", to="1")["status"] == "serving"  # a person named it, whatever serves


def test_an_unknown_version_changes_nothing(settings: Settings, registry: ModelRegistry, toy: Loop) -> None:
    with pytest.raises(DataError, match="could not look up toy version 77"):
        release_version.fn(toy, "77", "ann", "typo")
    assert champion_of(registry) is None
    assert moves(settings) == []


@pytest.mark.usefixtures("service")
def test_a_rollback_goes_to_the_champion_before(registry: ModelRegistry, toy: Loop) -> None:
    with pytest.raises(DataError, match="toy has no champion to go back from; train one: evertune retrain toy"):
        choose_rollback.fn(toy, None)
    release_version.fn(toy, "1", "ann", "first")
    with pytest.raises(DataError, match=r"version 1 is the first champion.*--to.*there are: 3, 2, 1"):
        choose_rollback.fn(toy, None)
    release_version.fn(toy, "2", "ann", "better")
    assert choose_rollback.fn(toy, None) == Target("1", Judged("2"))
    assert choose_rollback.fn(toy, "2") == Target("2", None)
    release_version.fn(toy, "1", "ann", "worse after all", action="rollback")
    assert champion_of(registry) == "1"


@pytest.mark.parametrize(
    ("code", "text", "body", "status", "reason"),
    [
        (200, "", {"status": "serving"}, "serving", "checks passed"),
        (409, "", {"status": "refused", "reason": "too slow"}, "refused", "too slow"),
        (409, "conflict", None, "refused", "conflict"),
        (404, "no such loop", None, "pending", "the service answered 404: no such loop"),
        (500, "oops", None, "pending", "the service answered 500: oops"),
    ],
)
def test_answers_of_the_service(code: int, text: str, body: object, status: str, reason: str) -> None:
    answer = read_answer(code, text, body)
    assert (answer.status, answer.reason) == (status, reason)
