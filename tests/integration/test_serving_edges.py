"""The edges of the prediction service: hostile bodies, broken versions, an odd registry, a wrong configuration."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import onnx
import pytest

from configs.load import find_loop
from infra.serving.slots import Slot, VersionRefused, check_version, follow_alias
from tasks.stores.database import open_database
from tasks.stores.ledger import AuditRow, Ledger
from tasks.stores.model_registry import ModelVersion
from tasks.stores.prediction_log import PredictionLog
from tests.support.ports import free_port
from tests.support.serving import OPERATOR, FolderRegistry, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT, FEEDBACK = "/v1/loops/toy/predict", "/v1/loops/toy/feedback"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    serving = {"max_texts": 8, "max_chars": 200, "max_batch": 4, "max_queue": 64, "timeout_seconds": 5}
    return write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent


def make_home(folder: Path, champion: str = "1") -> Path:
    for version in ("1", "2"):
        write_tiny_bundle(folder / "registry" / "toy" / version)
    (folder / "registry" / "toy" / "champion").write_text(champion, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, loops: Path) -> Iterator[Running]:
    with run_service(make_home(tmp_path_factory.mktemp("home")), loops) as running:
        yield running


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def wait_until(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(400):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError("it never happened")


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        (PREDICT, b'{"\\ud800": 1, "text": "good"}', 422, "body: Input should be a valid string"),
        (PREDICT, json.dumps({"my own words " * 999: 1, "text": "good"}).encode(), 422, "words m…: Extra"),
        (PREDICT, b'{"text": "good", "group": "\\ud800"}', 422, "group: "),
        (PREDICT, b'{"text": "good", "group": "a\\u0000b"}', 422, "group: holds a control character at position 1"),
        (PREDICT, b'{"text": "a\\u0085b"}', 422, "text: holds a control character at position 1"),
        (PREDICT, b"[" * 100_000, 400, "JSON"),
        (PREDICT, b'{"text": ' + b"1" * 10_000 + b"}", 400, "JSON"),
        (PREDICT, b'{"text": NaN}', 422, "text: Input should be a valid string"),
        (PREDICT, b"", 422, "body: Field required"),
        (PREDICT, b"null", 422, "body: "),
        (PREDICT, json.dumps({"inputs": [{"text": "good"}] * 5000}).encode(), 422, "5000 texts, at most 8"),
        (FEEDBACK, b'{"prediction_id": "\\ud800", "label": "positive"}', 422, "prediction_id: "),
        (FEEDBACK, b'{"items": [{"prediction_id": "\\ud800", "label": "positive"}]}', 422, "items.0.prediction_id: "),
        (FEEDBACK, b'{"prediction_id": "a\\u0000", "label": "positive"}', 422, "prediction_id: holds a control"),
        (FEEDBACK, b'{"prediction_id": "a", "label": "positive", "labeller": "\\ud800"}', 422, "labeller: "),
        (FEEDBACK, b'{"prediction_id": "a", "label": "\\ud800"}', 422, "label: "),
        (FEEDBACK, json.dumps({"items": [{"prediction_id": "a", "label": "b"}] * 1001}).encode(), 422, "at most 1000"),
    ],
)
def test_a_hostile_body_gets_a_short_clear_answer(
    client: httpx.Client, path: str, content: bytes, status: int, message: str
) -> None:
    response = client.post(path, content=content, headers=JSON)
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True), response.text
    assert len(response.text) < 600


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("until=0001-01-01", 422),
        ("since=0001-01-01", 422),
        ("since=9999-12-31", 422),
        ("since=yesterday", 422),
        ("until=9999-12-31", 200),
        ("since=2020-01-01", 200),
    ],
)
def test_usage_of_any_days(client: httpx.Client, query: str, status: int) -> None:
    assert client.get(f"/v1/usage?{query}").status_code == status


@pytest.mark.parametrize("loop", ["%00", "%ff", "a%0ab", "..%2f"])
def test_an_odd_path_is_404(client: httpx.Client, loop: str) -> None:
    response = client.post(f"/v1/loops/{loop}/predict", json={"text": "good"})
    assert (response.status_code, "code" in response.json()["error"]) == (404, True)


@pytest.mark.parametrize("name", ["\ud800", "", "x" * 201, "a\x00b"])
def test_an_odd_name_of_a_key_is_422(service: Running, name: str) -> None:
    with service.client(OPERATOR) as operator:
        assert operator.post("/v1/admin/keys", content=json.dumps({"name": name}), headers=JSON).status_code == 422


def break_output(folder: Path) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    for names in (part for node in model.graph.node for part in (node.input, node.output)):
        names[:] = ["scores" if name == "logits" else name for name in names]
    model.graph.output[0].name = "scores"
    onnx.save(model, str(folder / "model.onnx"))


def break_cases(folder: Path) -> None:
    (folder / "cases.json").write_text('[{"text": "good", "probabilities": [0.1, 0.2, 0.7]}]', encoding="utf-8")


def name_another_loop(folder: Path) -> None:
    manifest = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    (folder / "predictor.json").write_text(json.dumps(manifest | {"loop": "other"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("version", "damage", "reason"),
    [
        ("21", break_output, "it cannot answer: InvalidArgument"),
        ("22", break_cases, "it cannot answer: ValueError"),
        ("23", name_another_loop, "it was made for loop 'other', not for 'toy'"),
    ],
)
def test_a_version_that_cannot_answer_is_refused(
    service: Running, version: str, damage: Callable[[Path], None], reason: str
) -> None:
    damage(write_tiny_bundle(service.registry.folder / "toy" / version))
    with service.client(OPERATOR) as operator:
        refused = operator.post("/v1/admin/loops/toy/release", json={"version": version})
        assert (refused.status_code, refused.json()["status"]) == (409, "refused")
        assert reason in refused.json()["reason"]
        assert operator.get("/v1/loops/toy").json()["version"] == "1"


def test_a_broken_champion_does_not_end_the_following(
    tmp_path: Path, loops: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = make_home(tmp_path / "home")
    break_output(write_tiny_bundle(home / "registry" / "toy" / "3"))
    with run_service(home, loops) as running, running.client() as client:
        for broken, told in (("3", "it cannot answer"), ("404", "no version 404 of toy")):
            running.registry.set_champion("toy", broken)
            wait_until(lambda told=told: told in caplog.text)  # type: ignore[misc]
            assert client.post(PREDICT, json={"text": "good"}).json()["version"] == "1"
        running.registry.set_champion("toy", "2")
        wait_until(lambda: client.get("/v1/loops/toy").json()["version"] == "2")


class OvertakenRegistry(FolderRegistry):
    """One whose champion a release moves right after it was read for the first time."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.later: list[str] = []

    def find(self, loop: str, alias: str) -> ModelVersion | None:
        found = super().find(loop, alias)
        if self.later:
            self.set_champion(loop, self.later.pop())
        return found


def test_a_follower_does_not_undo_a_release_that_overtook_it(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    registry = OvertakenRegistry(home / "registry")
    swaps: list[str] = []
    log = PredictionLog(open_database(f"sqlite:///{tmp_path / 'log.db'}"))
    slot = Slot(find_loop("toy", loops), log, home / "models", 1, lambda _loop, version: swaps.append(version))

    async def story() -> list[str | None]:
        await slot.switch_to(registry.get("toy", "2"), registry)
        registry.later = ["2"]
        return [await follow_alias(slot, lambda: registry) for _ in range(2)]

    assert asyncio.run(story()) == [None, "2"]
    assert swaps == ["2"]


def test_not_ready_while_the_champion_cannot_serve(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home", champion="3")
    write_tiny_bundle(home / "registry" / "toy" / "3", broken_case=True)
    with run_service(home, loops, wait=False) as running:
        wait_until(lambda: answers(f"{running.url}/healthz"))
        for _ in range(20):
            ready = httpx.get(f"{running.url}/readyz")
            assert (ready.status_code, ready.headers["Retry-After"]) == (503, "1")
        assert "toy" in ready.json()["error"]["message"]
        running.registry.set_champion("toy", "1")
        wait_until(lambda: answers(f"{running.url}/readyz"))


def loops_with(folder: Path, **changes: Any) -> Path:
    return write_toy_loop(folder, num_rows=20, **changes).parent


def test_a_champion_refused_at_a_start_leaves_what_served_before(
    tmp_path: Path, loops: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = make_home(tmp_path / "home")
    with run_service(home, loops):
        pass
    write_tiny_bundle(home / "registry" / "toy" / "3", broken_case=True)
    (home / "registry" / "toy" / "champion").write_text("3", encoding="utf-8")
    with run_service(home, loops) as running, running.client() as client:
        wait_until(lambda: client.get("/v1/loops/toy").json()["version"] == "1")
        assert client.post(PREDICT, json={"text": "good"}).status_code == 200
        assert "toy: version 1 serves as before the restart: a stored case differs by" in caplog.text
        assert "toy: the champion cannot be followed, version 1 serves on: a stored case differs by" in caplog.text


def test_what_served_before_a_restart_is_not_timed_again(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    with run_service(home, loops):
        pass
    strict = loops_with(tmp_path / "strict", release={"max_latency_ms": 1e-6})
    with run_service(home, strict) as running, running.client(OPERATOR) as operator:
        assert operator.get("/v1/loops/toy").json()["version"] == "1"
        refused = operator.post("/v1/admin/loops/toy/release", json={"version": "2"})
        assert (refused.status_code, "one text takes" in refused.json()["reason"]) == (409, True)


def test_a_slow_first_champion_is_tried_again_until_it_serves(
    tmp_path: Path, loops: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def check_slowly_at_first(*arguments: Any, **named: Any) -> dict[str, float]:
        tries.append(1)
        if len(tries) < 4:
            raise VersionRefused(f"one text takes {700 - len(tries)} ms, 500 ms is allowed")
        return check_version(*arguments, **named)

    monkeypatch.setattr("infra.serving.slots.check_version", check_slowly_at_first)
    with run_service(make_home(tmp_path / "home"), loops) as running, running.client() as client:
        assert client.get("/v1/loops/toy").json()["version"] == "1"
    assert len(tries) == 4
    assert caplog.text.count("version 1 is refused") == 1
    assert "toy: the champion cannot be followed, nothing serves, it is tried again: one text takes 699" in caplog.text


def test_a_champion_that_was_damaged_is_not_recalled(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    with run_service(home, loops):
        pass
    break_cases(home / "models" / "toy" / "1" / "bundle")
    with run_service(home, loops, wait=False) as running, running.client() as client:
        wait_until(lambda: answers(f"{running.url}/healthz"))
        for _ in range(10):
            assert client.post(PREDICT, json={"text": "good"}).status_code == 503
        running.registry.set_champion("toy", "2")
        wait_until(lambda: client.get("/v1/loops/toy").json()["version"] == "2")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def test_a_restart_does_not_begin_a_version_anew(tmp_path: Path, loops: Path) -> None:
    home, since = make_home(tmp_path / "home"), []
    for _ in range(2):
        with run_service(home, loops) as running, running.client() as client:
            since.append(client.get("/v1/loops/toy").json()["since"])
    (home / "registry" / "unreachable").touch()
    with run_service(home, loops) as running, running.client() as client:
        since.append(client.get("/v1/loops/toy").json()["since"])
    assert since[0] == since[1] == since[2]


def test_an_alias_moved_in_mlflow_is_audited_once(tmp_path: Path, loops: Path) -> None:
    home = make_home(tmp_path / "home")
    with run_service(home, loops) as running:
        ledger = Ledger(open_database(running.settings.database))
        wait_until(lambda: len(ledger.audit("toy")) == 1)
        ledger.append_audit("toy", "release", "eve", "because", "1", "2", datetime.now(UTC))
        running.registry.set_champion("toy", "2")
        with running.client() as client:
            wait_until(lambda: client.get("/v1/loops/toy").json()["version"] == "2")
        running.registry.set_champion("toy", "1")
        wait_until(lambda: len(ledger.audit("toy")) == 3)
        rows = ledger.audit("toy")
    assert [move(row) for row in rows] == [("MLflow", None, "1"), ("eve", "1", "2"), ("MLflow", "2", "1")]
    assert rows[-1].why == "the champion alias was moved in MLflow"


def move(row: AuditRow) -> tuple[str, str | None, str | None]:
    return row.who, row.from_version, row.to_version


@pytest.mark.parametrize(
    ("content", "token", "message"),
    [
        ("name: toy\nnonsense: 1\n", "secret", "toy.yaml:2: nonsense: unknown key"),
        (None, None, "operator.token: no such file; set EVERTUNE_OPERATOR_TOKEN or run evertune up"),
        (None, "", "the operator token is empty"),
    ],
)
def test_a_wrong_configuration_ends_with_2_and_a_plain_line(
    tmp_path: Path, loops: Path, content: str | None, token: str | None, message: str
) -> None:
    folder = loops
    if content is not None:
        folder = tmp_path / "loops"
        folder.mkdir()
        (folder / "toy.yaml").write_text(content, encoding="utf-8")
    places = {"HOME": str(tmp_path / "home"), "LOOPS_DIR": str(folder), "API_PORT": str(free_port())}
    places |= {} if token is None else {"OPERATOR_TOKEN": token}
    environment = os.environ | {f"EVERTUNE_{name}": value for name, value in places.items()}
    command = [sys.executable, "-m", "infra.serving"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, message in ended.stderr, "Traceback" in ended.stderr) == (2, True, False), ended.stderr


def test_a_report_runs_in_a_sandbox(service: Running) -> None:
    page = service.settings.root / "reports" / "toy" / "r1.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<script>1</script>", encoding="utf-8")
    with service.client(OPERATOR) as operator:
        policy = operator.get("/reports/toy/r1").headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts ")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
