"""`evertune releases`, `evertune served`, and what `evertune status` and a dry run say of a release in stages."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from configs.settings import Settings
from infra.cli import main
from infra.cli_releases import describe_served, read_time
from tasks.core.staging import ServedThen
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.model_registry import open_registry
from tasks.stores.releases import Releases
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = [{"name": "errors", "state": "ok", "reason": "0 of 12 texts could not be answered"}]


@pytest.fixture
def releases(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """Version 1 serves since noon; version 2 was taken back from shadow, version 3 is in canary."""
    stages: dict[str, dict[str, float]] = {"shadow": {}, "canary": {}}
    write_toy_loop(tmp_path / "loops", num_rows=20, release={"stages": stages})
    monkeypatch.setenv("EVERTUNE_HOME", str(store))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    monkeypatch.setenv("EVERTUNE_DATABASE_URL", f"sqlite:///{tmp_path / 'ledger.db'}")
    for server in ("PREFECT", "MLFLOW", "API"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))
    engine = open_database(Settings().database)
    open_registry(Settings()).set_alias("toy", "champion", "1")
    Ledger(engine).append_audit("toy", "promote", "retrain", "first", None, "1", NOON)
    made = Releases(engine)
    second = made.start("toy", "2", "1", "shadow", "retrain", "newer", "promote", NOON + timedelta(hours=1))
    made.end(second, "refused", "service", "it disagrees", NOON + timedelta(hours=2))
    third = made.start("toy", "3", "1", "shadow", "ann", "better", "release", NOON + timedelta(hours=3))
    made.enter(third, "canary", "service", "every limit holds", NOON + timedelta(hours=4), {}, None)
    running = made.find_running("toy")
    assert running is not None
    made.note(running, "12 of 200 texts compared", {"limits": LIMITS})
    return made


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("releases")
def test_releases_shows_the_way_and_the_history(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "releases", "toy") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "toy: version 1 serves since 2026-03-01 12:00 UTC",
        "version 3 is in canary since 2026-03-01 16:00 UTC, on its way since 2026-03-01 15:00 (ann: better)",
        "  12 of 200 texts compared",
        "  ok      errors: 0 of 12 texts could not be answered",
    ]
    assert lines[6:] == [
        "2026-03-01 16:00  canary    3        service: every limit holds",
        "2026-03-01 15:00  shadow    3        ann: better",
        "2026-03-01 14:00  refuse    2        service: in shadow: it disagrees",
        "2026-03-01 13:00  shadow    2        retrain: newer",
        "2026-03-01 12:00  promote   1        retrain: first",
    ]
    assert run(monkeypatch, "releases", "toy", "--limit", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["serves"]["version"], shown["running"]["stage"], len(shown["audit"])) == ("1", "canary", 1)
    assert [step["stage"] for step in shown["releases"][0]["steps"]] == ["shadow", "canary"]


@pytest.mark.usefixtures("releases")
@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-03-01", "toy: nothing served at 2026-03-01 00:00:00 UTC"),
        (
            "2026-03-01T12:30",
            "version 1 served at 2026-03-01 12:30:00 UTC, since 2026-03-01 12:00:00 UTC (retrain: first)",
        ),
        ("2026-03-01T14:30+01:00", "; version 2 in shadow since 2026-03-01 13:00:00 UTC"),
        ("2026-03-01T17:00", "; version 3 in canary since 2026-03-01 16:00:00 UTC"),
    ],
)
def test_what_served_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: str, expected: str
) -> None:
    assert run(monkeypatch, "served", "toy", "--at", at) == 0
    assert expected in capsys.readouterr().out


@pytest.mark.usefixtures("releases")
def test_served_now_as_json_and_a_wrong_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "served", "toy", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["version"], shown["candidate"], shown["stage"]) == ("1", "3", "canary")
    assert run(monkeypatch, "served", "toy", "--at", "noon") == 2
    assert "--at: 'noon' is no time; accepted: 2026-11-24, " in capsys.readouterr().err


@pytest.mark.usefixtures("releases")
def test_status_and_dry_runs_know_of_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "status") == 0
    assert "  version 3 is in canary since 2026-03-01T16:00:00+00:00: 12 of 200 texts" in capsys.readouterr().out
    assert run(monkeypatch, "release", "toy", "2", "--dry-run") == 0
    said = capsys.readouterr().out
    assert said == (
        "toy: would go from version 1 to version 2 through shadow and canary; the release of version 3 would end; "
        "nothing was changed\n"
    )
    assert run(monkeypatch, "release", "toy", "3", "--now", "--dry-run") == 0
    assert capsys.readouterr().out == "toy: would go from version 1 to version 3; nothing was changed\n"
    assert run(monkeypatch, "rollback", "toy", "--dry-run") == 0
    assert "to version 1; the release of version 3 would end; nothing" in capsys.readouterr().out


def test_times_and_words() -> None:
    assert read_time("2026-03-01T13:00+01:00") == NOON
    assert describe_served("toy", ServedThen("1", NOON, "ann", ""), NOON).endswith("12:00:00 UTC (ann)")
