"""The command line: what it says and how it ends when something is wrong, and its key handling."""

import json
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from configs.load import find_loop
from infra.cli import main
from infra.credentials import ensure_first_key, ensure_operator_token, make_home, open_private, read_first_key
from infra.preflight import find_label_problems, find_package_problems, read_settings
from infra.running import _raise_for
from tasks.core.screening import screen
from tasks.stores.database import open_database
from tasks.stores.erasures import Erasures
from tasks.stores.model_registry import open_registry
from tasks.stores.snapshots import SnapshotStore
from tasks.stores.sources import load_rows
from tasks.training import list_case_texts
from tests.support.ports import free_port
from tests.support.tiny_bundle import write_tiny_bundle
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
        (
            ["tune", "toy", "--set", "tuning.seeds=2", "--set", "training.epochs=1", "--write"],
            2,
            "--write with --set training.epochs=1: what --set changes is meant for one run",
        ),
        (["monitor", "nope"], 2, "no loop 'nope'"),
        (["score", "nope", "x.csv"], 2, "no loop 'nope'"),
        (["predict", "nope", "text"], 2, "no loop 'nope'"),
        (["predict", "toy", "  "], 2, "text 1: empty"),
        (["predict", "toy", "text"], 2, "toy has no champion yet; train one: evertune retrain toy"),
        (["cases", "toy"], 2, "toy has no cases; write them into toy.cases.yaml beside its YAML"),
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


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "EVERTUNE_DATABASE_URL: not a database URL; accepted: sqlite:////absolute/file.db or postgresql"),
        ("postgres://bob:hunter2@db/x", "EVERTUNE_DATABASE_URL: no database 'postgres'; accepted: "),
    ],
)
def test_a_wrong_database_is_told_in_one_line(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVERTUNE_DATABASE_URL", url)
    assert run(monkeypatch, "keys", "list") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"evertune: {message}")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("ended", "code", "line"),
    [
        ("DataError: toy: bad rows", 2, "toy: bad rows"),
        ("ConfigError: toy.yaml:3: no", 2, "toy.yaml:3: no"),
        ("TransientError: MLflow is down", 1, "MLflow is down"),
        ("ValueError: what", 1, "flow run ended as Failed: Flow run encountered an exception: ValueError: what"),
    ],
)
def test_a_flow_that_failed_in_the_worker_ends_with_its_errors_code(
    ended: str, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_arguments: object) -> None:
        _raise_for("Failed", f"Flow run encountered an exception: {ended}", None)

    monkeypatch.setattr("infra.running.run_flow", fail)
    assert run(monkeypatch, "monitor", "toy") == code
    assert capsys.readouterr().err == f"evertune: {line}\n"


@pytest.mark.parametrize("verb", ["check", "up"])
def test_labels_that_the_champion_does_not_answer_are_told_before_anything_starts(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "home" / "models" / "toy"
    write_tiny_bundle(models / "3" / "bundle", labels=["negative", "positive"])
    (models / "served.json").write_text('{"version": "3", "since": "2026-03-01T12:00:00+00:00"}', encoding="utf-8")
    assert find_label_problems([find_loop("toy", tmp_path / "loops")], read_settings()) == []
    file = tmp_path / "loops" / "toy.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("- positive\n", "- good\n", 1), encoding="utf-8")
    assert run(monkeypatch, verb) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"evertune: {file}: labels: version 3, which serves, answers ['negative', 'positive']; "
        "got ['negative', 'good']. Put them back, or give the loop with other labels a new name"
    )


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
    told = ["toy: fits the schema (2 labels, 1 sources)", "plans.yaml: fits the schema (free, pro, business)"]
    assert capsys.readouterr().out.splitlines() == told


def test_down_and_status_without_a_stack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "down") == 0
    assert capsys.readouterr().out.startswith("no stack runs in ")
    assert run(monkeypatch, "status", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["running"], found["phase"]) == (False, "stopped")
    assert [server["name"] for server in found["servers"]] == ["mlflow", "prefect", "service", "worker"]
    unknown = dict.fromkeys(("champion", "waiting", "staged", "last_retrain", "last_verdict"))
    assert found["loops"] == [{"name": "toy", **unknown}]


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


def test_home_is_private(tmp_path: Path) -> None:
    made = tmp_path / "new" / "home"
    make_home(made)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.parent.stat().st_mode) & 0o055  # only home itself
    mended = tmp_path / "old"
    mended.mkdir(mode=0o755)
    make_home(mended)
    assert stat.S_IMODE(mended.stat().st_mode) == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    make_home(shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_a_stacks_log_is_private(tmp_path: Path) -> None:
    log = tmp_path / "stack.log"
    log.write_text("of an earlier start", encoding="utf-8")
    log.chmod(0o644)
    with open_private(log) as output:
        output.write(b"a line\n")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text(encoding="utf-8") == "a line\n"


def test_installed_packages_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_package_problems() == []
    monkeypatch.setattr("infra.preflight._requirements", lambda: ["nosuchthing>=1", "numpy<1"])
    missing, wrong = find_package_problems()
    assert missing == "package nosuchthing>=1 is not installed; run: make setup"
    assert wrong.endswith("but numpy<1 is needed; run: make setup")


def test_erasing_reaches_rows_that_the_log_is_past_keeping_and_names_who_learnt_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, loop = read_settings(), find_loop("toy", tmp_path / "loops")
    rows = load_rows(loop, tmp_path / "loops", settings.root)
    rows.loc[rows.index[:2], "source"] = "feedback"
    rows.loc[rows.index[0], ["row_id", "group"]] = ["feedback:known-1", "user-17"]
    rows.loc[rows.index[1], ["row_id", "group"]] = ["feedback:known-2", "user-18"]
    found, store = screen(rows, loop.data, loop.labels), SnapshotStore(settings.snapshots)
    registry = open_registry(settings)
    for part in ("checkpoint", "evidence"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x.json").write_text("{}", encoding="utf-8")
    write_tiny_bundle(tmp_path / "bundle", labels=list(loop.labels))
    run_id = registry.start_run("toy", "toy run", {}, {})
    parts = {part: tmp_path / part for part in ("bundle", "checkpoint", "evidence")}
    registry.register("toy", run_id, parts, loop.labels, "# a card", {"snapshot": "00112233445566aa"})
    for words in (["--group", "user-17"], ["--prediction", "known-2"]):
        snapshot = store.write(loop, "00112233445566aa", found, "<p>page</p>", datetime(2026, 5, 4, tzinfo=UTC))
        vectors = settings.root / "backtests" / "toy" / "key" / "vectors.npy"
        vectors.parent.mkdir(parents=True, exist_ok=True)
        vectors.touch()
        capsys.readouterr()
        assert run(monkeypatch, "erase", *words, "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["snapshots"] == {"toy": ["00112233445566aa"]}
        assert told["versions"] == {"toy": ["1"]}
        assert store.find("toy", snapshot.fingerprint) is None
        assert list(Erasures(open_database(settings.database)).list_marked("toy")) == ["00112233445566aa"]
        assert not vectors.exists()
    assert run(monkeypatch, "erase", "--group", "user-17") == 0
    assert "0 predictions erased, and 0 snapshots" in capsys.readouterr().out


def test_no_text_that_came_back_as_feedback_is_stored_in_a_version() -> None:
    validation = pd.DataFrame({"text": ["ours", "theirs"], "source": ["reviews", "feedback"]})
    assert list_case_texts(validation) == ["ours"]
