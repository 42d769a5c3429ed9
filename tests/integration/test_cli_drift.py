"""`evertune drift`: decisions about drift are kept with their reason, or refused with a clear line."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.settings import Settings
from infra.cli import main
from tasks.core.champions import find_last_champion
from tasks.core.drift_decisions import DriftDecision
from tasks.core.errors import DataError
from tasks.stores.database import open_database
from tasks.stores.drift_decisions import DriftDecisions
from tasks.stores.ledger import Ledger, ReportRow, Verdict
from tests.support.toy_loop import write_toy_loop

NOW = datetime.now(UTC)
EXPLANATION: dict[str, Any] = {
    "new": {"estimate": 0.31, "at_least": 0.12},
    "lengths": [],
    "words_came": [{"word": "tablet", "reference": 0.0, "current": 0.2}],
    "words_went": [],
    "topics": [],
    "keys": [],
    "note": "",
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy_loop(tmp_path / "loops", num_rows=10)
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    champion = SimpleNamespace(find=lambda _loop, _alias: SimpleNamespace(version="1"))
    monkeypatch.setattr("tasks.stores.model_registry.open_registry", lambda _settings: champion)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", "drift", "toy", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def ledger() -> Ledger:
    return Ledger(open_database(Settings().database))


def decisions() -> list[DriftDecision]:
    return DriftDecisions(open_database(Settings().database)).of_loop("toy")


def report(report_id: str, verdict: Verdict = "drift", version: str = "1", hours_ago: int = 1) -> None:
    at = NOW - timedelta(hours=hours_ago)
    window = {"n": 60, "groups": 60, "is_vote": True, "from": (at - timedelta(hours=3)).isoformat()}
    record = {
        "version": version,
        "verdict": verdict,
        "reason": "2 of 3",
        "tests": [{"name": "outputs"}],
        "window": window | {"to": at.isoformat()},
        "explanation": EXPLANATION,
    }
    ledger().append_report(ReportRow(report_id, at, "toy", version, verdict, verdict == "drift", record))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mute", "--why", "x"], "a mute ends by itself: give --hours"),
        (["mute", "--hours", "2"], "evertune drift toy mute: say why with --why; the audit log keeps it"),
        (["unmute", "--why", "x"], "toy: drift is not muted"),
        (["unmute", "--hours", "2"], "--hours does not go with unmute"),
        (["mute", "--hours", "2", "--report", "r1", "--why", "x"], "--report does not go with mute"),
        (["restore", "--why", "x"], "toy: version 1 has no acknowledged window; nothing to restore"),
        (["acknowledge", "--why", "x"], "toy: the newest window cannot be acknowledged: no such report"),
        (["acknowledge", "--report", "r9", "--why", "x"], "toy: r9 cannot be acknowledged: no such report"),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert run(monkeypatch, *words) == 2
    assert capsys.readouterr().err.strip() == f"evertune: {message}"
    assert decisions() == []
    assert ledger().audit("toy") == []


def test_drift_is_muted_for_some_hours_and_the_audit_log_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger().append_audit("toy", "promote", "retrain", "first", None, "1", NOW)
    assert run(monkeypatch, "mute", "--hours", "72", "--why", "a campaign", "--dry-run") == 0
    assert "toy: would mute drift until" in capsys.readouterr().out
    assert decisions() == []
    assert run(monkeypatch, "mute", "--hours", "72", "--why", "a campaign", "--json") == 0
    assert json.loads(capsys.readouterr().out)["action"] == "mute"
    [kept] = decisions()
    assert kept.until is not None
    assert timedelta(hours=71) < kept.until - datetime.now(UTC) <= timedelta(hours=72)
    move = ledger().audit("toy")[-1]
    assert (move.action, move.why) == ("mute", f"a campaign (until {kept.until:%Y-%m-%d %H:%M} UTC)")
    assert find_last_champion(ledger().audit("toy")) == "1"  # no decision about drift moves a version
    assert run(monkeypatch, "unmute", "--why", "it is over") == 0
    assert [one.action for one in decisions()] == ["mute", "unmute"]


def test_a_window_becomes_the_reference_and_is_taken_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report("r0", "ok", hours_ago=3)
    report("r1", hours_ago=2)
    report("r2", version="0")
    assert run(monkeypatch, "acknowledge", "--why", "new shop") == 2
    assert "version 0 answered this window, and version 1 serves" in capsys.readouterr().err
    assert run(monkeypatch, "acknowledge", "--report", "r0", "--why", "new shop") == 2
    assert "its verdict is 'ok': there is no drift to acknowledge" in capsys.readouterr().err
    assert run(monkeypatch, "acknowledge", "--report", "r1", "--why", "new shop") == 0
    assert "compare windows of version 1 with the 60 texts of report r1 from now on" in capsys.readouterr().out
    [kept] = decisions()
    assert (kept.version, kept.report_id, kept.window_to) == ("1", "r1", NOW - timedelta(hours=2))
    assert ledger().audit("toy")[-1].why == "new shop (window r1 is the reference of version 1)"
    assert run(monkeypatch, "restore", "--why", "a mistake") == 0
    assert [one.action for one in decisions()] == ["acknowledge", "restore"]
    assert run(monkeypatch, "restore", "--why", "again") == 2


def test_the_newest_window_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch) == 0
    assert "toy: no window was monitored yet: evertune monitor toy" in capsys.readouterr().out
    report("r1")
    run(monkeypatch, "mute", "--hours", "2", "--why", "a campaign")
    capsys.readouterr()
    assert run(monkeypatch) == 0
    shown = capsys.readouterr().out
    for line in ("new traffic: about 31% of the texts, at least 12%", "tablet (0% → 20%)", ": a campaign"):
        assert line in shown
    assert run(monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["report_id"], found["explanation"], len(found["decisions"])) == ("r1", EXPLANATION, 1)


def test_a_decision_without_a_reason_is_not_kept() -> None:
    store = DriftDecisions(open_database(Settings().database))
    with pytest.raises(DataError, match="drift unmute: say why"):
        store.keep("toy", DriftDecision(NOW, "unmute", "eve", " "))
    assert store.of_loop("toy") == []
