"""The command line: what it says and how it ends when something is wrong, and its key handling."""

import json
import stat
import sys
from pathlib import Path

import pytest

from infra.cli import main
from infra.credentials import ensure_first_key, ensure_operator_token, read_first_key
from infra.preflight import find_package_problems, read_settings
from tests.support.ports import free_port
from tests.support.toy_loop import write_toy_loop


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_toy_loop(tmp_path / "loops")
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERTUNE_LOOPS_DIR", str(tmp_path / "loops"))
    for server in ("PREFECT", "MLFLOW", "API"):
        monkeypatch.setenv(f"EVERTUNE_{server}_PORT", str(free_port()))


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["evertune", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["check", "nope"], 2, "no loop 'nope'; there are: toy. A path ending in .yaml is taken too."),
        (["check", "missing.yaml"], 2, "missing.yaml: cannot be read: No such file or directory"),
        (["retrain", "nope"], 2, "no loop 'nope'"),
        (
            ["retrain", "toy", "--set", "training.epochs=-1"],
            2,
            "training.epochs: Input should be greater than 0",
        ),
        (
            ["retrain", "toy", "--set", "training.epochz=1"],
            2,
            "training.epochz: unknown key; accepted here: ",
        ),
        (["retrain", "toy", "--set", "epochs"], 2, "--set epochs: expected key=value"),
        (["monitor", "nope"], 2, "no loop 'nope'"),
        (["score", "nope", "x.csv"], 2, "no loop 'nope'"),
        (["predict", "nope", "text"], 2, "no loop 'nope'"),
        (["predict", "toy", "  "], 1, "text 1: empty"),
        (["quarantine", "toy"], 2, "toy has no snapshot yet; make one: evertune retrain toy"),
        (["keys", "create", "bob", "--loop", "nope"], 2, "no loop 'nope'"),
        (["keys", "revoke", "key_x"], 2, "no valid key 'key_x'; see: evertune keys list"),
        (["retrain"], 2, "Missing argument"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors(
    words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_every_wrong_setting_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERTUNE_API_PORT", "abc")
    monkeypatch.setenv("EVERTUNE_MLFLOW_PORT", "0")
    assert run(monkeypatch, "up") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["EVERTUNE_MLFLOW_PORT", "EVERTUNE_API_PORT"]
    assert lines[1].endswith("(got 'abc')")


def test_a_broken_yaml_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "loops" / "broken.yaml"
    broken.write_text("name: broken\nlabels: [a\n", encoding="utf-8")
    assert run(monkeypatch, "up") == 2
    assert f"evertune: {broken}:3: not YAML" in capsys.readouterr().err
    assert not (tmp_path / "home" / "stack.json").exists()


def test_check_names_each_loop(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "check") == 0
    assert capsys.readouterr().out == "toy: fits the schema (2 labels, 1 sources)\n"


def test_down_and_status_without_a_stack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "down") == 0
    assert capsys.readouterr().out.startswith("no stack runs in ")
    assert run(monkeypatch, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["running"], found["phase"]) == (False, "stopped")
    assert [server["name"] for server in found["servers"]] == ["mlflow", "prefect", "service", "worker"]
    assert found["loops"] == [{"name": "toy", "champion": None, "last_retrain": None, "last_verdict": None}]


def test_keys_from_making_to_revoking(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "keys", "create", "bob", "--loop", "toy", "--json") == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["secret"].startswith("evt_")
    assert made["loops"] == ["toy"]
    assert run(monkeypatch, "keys", "list") == 0
    listed = capsys.readouterr().out
    assert "bob" in listed
    assert made["secret"] not in listed
    assert run(monkeypatch, "keys", "revoke", made["key_id"]) == 0
    assert run(monkeypatch, "keys", "revoke", made["key_id"]) == 2


def test_the_first_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    settings = read_settings()
    settings.root.mkdir()
    ensure_operator_token(settings)
    token = settings.read_operator_token()
    ensure_operator_token(settings)
    assert settings.read_operator_token() == token
    secret = ensure_first_key(settings)
    assert secret is not None
    assert ensure_first_key(settings) is None
    assert read_first_key(settings) == secret
    for name in ("operator.token", "first.key"):
        assert stat.S_IMODE((settings.root / name).stat().st_mode) == 0o600


def test_installed_packages_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_package_problems() == []
    monkeypatch.setattr("infra.preflight._requirements", lambda: ["nosuchthing>=1", "numpy<1"])
    missing, wrong = find_package_problems()
    assert missing == "package nosuchthing>=1 is not installed; run: make setup"
    assert wrong.endswith("but numpy<1 is needed; run: make setup")
