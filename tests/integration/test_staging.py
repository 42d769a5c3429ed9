"""Releases in stages against a real service: shadow, canary, stable, taken back, restarted."""

import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events.schemas.events import Event

from infra.serving import answering, beside
from tasks.stores.database import open_database
from tasks.stores.ledger import Ledger
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.releases import Releases, StagedRelease
from tests.support.prefect_events import EventSink, running_event_sink
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT, FEEDBACK = "/v1/loops/toy/predict", "/v1/loops/toy/feedback"
WORDS = ("good", "bad", "nothing")
SHADOW, CANARY = {"share": 1.0, "minutes": 0, "min_texts": 30}, {"share": 0.5, "minutes": 0, "min_texts": 15}
TURNED = ["positive", "negative"]  # version 3 answers the opposite


@pytest.fixture(scope="module")
def sink() -> Iterator[EventSink]:
    with running_event_sink() as running:
        yield running


@dataclass
class Case:
    """A service with the stores beside it."""

    running: Running
    client: httpx.Client
    releases: Releases

    def start(self, version: str, stage: str) -> StagedRelease:
        return self.releases.start("toy", version, "1", stage, "ann", "better", "release", datetime.now(UTC))

    def ask(self, num_groups: int, name: str = "g") -> list[dict[str, Any]]:
        """Ask one text per group; return the answers, with their group and call's version."""
        found = []
        for number in range(num_groups):
            group = f"{name}-{number}"
            text = WORDS[number % len(WORDS)]
            answered = self.client.post(PREDICT, json={"text": text, "group": group})
            assert answered.status_code == 200, answered.text
            body = answered.json()
            found.append({"group": group, "text": text, "version": body["version"], **body["predictions"][0]})
        return found

    def newest(self) -> StagedRelease:
        return self.releases.list_recent("toy", 1)[0]

    def wait_for_stage(self, stage: str, meanwhile: Callable[[], object] = lambda: None) -> StagedRelease:
        def is_there() -> bool:
            meanwhile()
            return self.newest().stage == stage

        wait_until(is_there, lambda: self.newest())
        return self.newest()

    def audit(self) -> list[tuple[str, str | None, str | None, str]]:
        rows = Ledger(open_database(self.running.settings.database)).audit("toy")
        return [(row.action, row.from_version, row.to_version, row.who) for row in rows if row.who != "MLflow"]

    def told_prometheus(self) -> list[str]:
        with self.running.client(OPERATOR) as operator:
            lines = operator.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith("evertune_release_stage{")]

    def champion(self) -> str:
        found = self.running.registry.find("toy", "champion")
        assert found is not None
        return found.version

    def shadows(self) -> list[tuple[str, str, str | None]]:
        """Return version, stage and label of every answer that nobody saw."""
        with sqlite3.connect(self.running.settings.root / "evertune.db") as connection:
            return connection.execute("SELECT version, stage, label FROM shadow_predictions").fetchall()


def wait_until(holds: Callable[[], bool], told: Callable[[], object] = lambda: "", tries: int = 400) -> None:
    waiting = threading.Event()
    for _ in range(tries):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError(f"it never happened: {told()}")


@contextmanager
def under_load(running: Running) -> Iterator[list[int]]:
    """Ask all the time, in two threads, texts of ever new groups; yield the statuses."""
    stop, statuses = threading.Event(), list[int]()

    def load(name: str) -> None:
        with running.client() as client:
            for number in itertools.count():
                if stop.is_set():
                    return
                inputs = [{"text": word, "group": f"{name}-{number}-{word}"} for word in WORDS]
                statuses.append(client.post(PREDICT, json={"inputs": inputs}).status_code)

    with ThreadPoolExecutor(2) as threads:
        loading = [threads.submit(load, name) for name in ("a", "b")]
        try:
            yield statuses
        finally:
            stop.set()
        for one in loading:
            one.result()


def make_home(folder: Path) -> Path:
    for version, sure in (("1", 4.0), ("2", 4.5)):
        write_tiny_bundle(folder / "registry" / "toy" / version, sure=sure)
    write_tiny_bundle(folder / "registry" / "toy" / "3", labels=TURNED)
    write_tiny_bundle(folder / "registry" / "toy" / "4", broken_case=True)
    (folder / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    return folder


def write_loops(folder: Path, **stages: Any) -> Path:
    limits = {"max_latency_ratio": 1000.0, **stages}  # this machine is shared: a time says nothing here
    serving = {"max_batch": 4, "max_queue": 512, "timeout_seconds": 20}
    return write_toy_loop(folder, num_rows=20, serving=serving, release={"stages": limits}).parent


@contextmanager
def run_case(home: Path, loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setenv("EVERTUNE_PREFECT_URL", sink.url)
    sink.events.clear()
    with run_service(home, loops) as running, running.client() as client:
        yield Case(running, client, Releases(open_database(running.settings.database)))


@pytest.fixture(scope="module")
def staged_loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_loops(tmp_path_factory.mktemp("loops"), shadow=SHADOW, canary=CANARY)


def test_the_whole_way_under_load(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        with under_load(case.running) as statuses:
            case.running.registry.set_alias("toy", "challenger", "2")
            release = case.start("2", "shadow")
            ended = case.wait_for_stage("stable", lambda: case.ask(20))
            wait_until(lambda: {one["version"] for one in case.ask(20)} == {"2"})
        assert len(statuses) > 10
        assert set(statuses) == {200}
        assert (ended.release_id, ended.champion, case.champion()) == (release.release_id, "1", "2")
        assert case.running.registry.find("toy", "challenger") is None
        assert case.audit() == [
            ("shadow", "1", "2", "ann"),
            ("canary", "1", "2", "service"),
            ("release", "1", "2", "ann"),
        ]
        assert [step.stage for step in case.releases.list_steps(release.release_id)] == ["shadow", "canary", "stable"]
        assert {state["state"] for state in ended.record["limits"]} == {"ok"}
        wait_until(lambda: sink.kinds() == ["evertune.release", "evertune.release"])
        told = [event["payload"]["summary"] for event in sink.events]
        assert told[0].startswith("toy: version 2 goes from shadow to canary: ")
        assert told[1].startswith("toy: version 2 serves everyone: ")
        check_what_is_counted(case)


def check_what_is_counted(case: Case) -> None:
    """Usage is what callers were answered, canary included; shadows are in a table of their own."""
    log = PredictionLog(open_database(case.running.settings.database))
    window = log.read_window("toy", max_rows=100_000)
    with sqlite3.connect(case.running.settings.root / "evertune.db") as connection:
        stages = connection.execute("SELECT version, stage, count(*) FROM predictions GROUP BY 1, 2").fetchall()
    counted = {(version, stage): number for version, stage, number in stages}
    assert set(counted) == {("1", "stable"), ("2", "canary"), ("2", "stable")}
    now = datetime.now(UTC)
    used = log.usage(None, now - timedelta(days=2), now + timedelta(days=2))
    assert int(used["texts"].sum()) == len(window) == sum(counted.values())
    said = {(version, stage) for version, stage, _ in case.shadows()}
    assert said == {("2", "shadow"), ("2", "canary"), ("1", "canary")}  # the control, and the champion on canary texts


def test_a_version_that_disagrees_is_taken_back_from_shadow(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        case.start("3", "shadow")
        ended = case.wait_for_stage("refused", lambda: case.ask(10, f"g{len(case.shadows())}"))
        assert "another label for" in ended.reason
        assert case.champion() == "1"
        assert {one["version"] for one in case.ask(10)} == {"1"}
        assert case.audit() == [("shadow", "1", "3", "ann"), ("refuse", "1", "3", "service")]
        wait_until(lambda: sink.kinds() == ["evertune.rollback"])
        summary = sink.events[0]["payload"]["summary"]
        assert summary.startswith("toy: version 3 was taken back from shadow: another label")
        assert sink.events[0]["resource"]["prefect.resource.id"] == "evertune.loop.toy"


def test_feedback_judges_both_versions(tmp_path: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The candidate answers the opposite, which this loop allows; what people say is right decides."""
    stages = {"shadow": SHADOW | {"min_texts": 10_000}, "max_disagreement": 0.99, "max_score_distance": 0.99}
    with run_case(make_home(tmp_path / "home"), write_loops(tmp_path / "loops", **stages), sink, monkeypatch) as case:
        case.start("3", "shadow")
        wait_until(lambda: bool(case.newest().record))
        answers = [one for one in case.ask(60) if one["text"] != "nothing"]
        items = [{"prediction_id": one["prediction_id"], "label": one["label"]} for one in answers]
        assert case.client.post(FEEDBACK, json={"items": items}).status_code == 200
        ended = case.wait_for_stage("refused")
        assert "accuracy -1.000 [-1.000, -0." in ended.reason
        counted = ended.record["labels"]
        assert (counted["won"], counted["tied"]) == (0, 0)
        assert 5 < counted["lost"] <= len(items)  # it was taken back as soon as the labels sufficed


def test_a_release_goes_on_after_a_restart(tmp_path: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path / "home")
    loops = write_loops(tmp_path / "loops", canary=CANARY | {"min_texts": 200})
    with run_case(home, loops, sink, monkeypatch) as case:
        case.start("2", "canary")
        wait_until(lambda: bool(case.newest().record))
        before = case.ask(40)
        assert {one["version"] for one in before} == {"1", "2"}
        assert case.told_prometheus() == ['evertune_release_stage{loop="toy",stage="canary",version="2"} 1.0']
        wait_until(lambda: case.newest().record["texts"].get("canary", 0) >= 10)
        seen = case.newest()
    with run_case(home, loops, sink, monkeypatch) as case:
        assert case.newest().entered_at == seen.entered_at
        wait_until(lambda: {one["version"] for one in case.ask(40)} == {"1", "2"})
        assert [one["version"] for one in case.ask(40)] == [one["version"] for one in before]
        kept = sum(stage == "canary" and version == "1" for version, stage, _ in case.shadows())
        assert kept >= seen.record["texts"]["canary"]
        ended = case.wait_for_stage("stable", lambda: case.ask(40))
        assert ended.record["texts"]["canary"] >= 200  # those of before the restart among them
        assert case.told_prometheus() == []
        assert case.champion() == "2"


def test_a_shadow_that_hangs_holds_up_nobody(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun, ask = threading.Event(), threading.Event(), beside._predict

    def hang(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return ask(*arguments)

    monkeypatch.setattr(beside, "_predict", hang)
    monkeypatch.setattr(beside, "MAX_WAITING", 20)
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        case.start("2", "shadow")
        wait_until(lambda: bool(case.newest().record))
        case.ask(1)
        assert begun.wait(10)
        assert len(case.ask(40)) == 40
        assert case.shadows() == []
        wait_until(lambda: case.newest().record["left_out"] == 20)  # a full queue is no reason to wait
        go.set()
        wait_until(lambda: len(case.shadows()) == 21)


def test_what_a_canary_cannot_answer_the_champion_does(
    tmp_path: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = answering._answer

    def fail_in_canary(loop: Any, served: Any, stage: str, asked: Any, mark: Any) -> Any:
        if stage == "canary" and any(one.text == "bad" for one in asked):
            raise RuntimeError("out of memory")
        return answer(loop, served, stage, asked, mark)

    monkeypatch.setattr(answering, "_answer", fail_in_canary)
    loops = write_loops(tmp_path / "loops", canary=CANARY | {"min_texts": 10_000})
    with run_case(make_home(tmp_path / "home"), loops, sink, monkeypatch) as case:
        case.start("2", "canary")
        wait_until(lambda: bool(case.newest().record))
        answers = case.ask(60)
        assert {one["version"] for one in answers if one["text"] == "bad"} == {"1"}
        assert {one["label"] for one in answers if one["text"] == "bad"} == {"negative"}
        ended = case.wait_for_stage("refused", lambda: case.ask(3))
        assert "could not be answered, a share of 0.001 is allowed" in ended.reason


def test_one_call_with_several_groups_names_the_version_of_each(
    tmp_path: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops = write_loops(tmp_path / "loops", canary=CANARY | {"min_texts": 10_000})
    with run_case(make_home(tmp_path / "home"), loops, sink, monkeypatch) as case:
        case.start("2", "canary")
        wait_until(lambda: bool(case.newest().record))
        alone = {one["group"]: one["version"] for one in case.ask(8)}
        inputs = [{"text": "good", "group": group} for group in alone]
        body = case.client.post(PREDICT, json={"inputs": inputs}).json()
        together = [one.get("version") or body["version"] for one in body["predictions"]]
        assert together == list(alone.values())
        with case.running.client(OPERATOR) as operator:
            shown = operator.get("/v1/admin/loops/toy/releases").json()
        assert (shown["running"]["version"], shown["running"]["stage"], len(shown["recent"])) == ("2", "canary", 1)


@pytest.mark.parametrize(
    ("version", "stage", "reason"), [("4", "refused", "a stored case differs by"), ("77", "withdrawn", "no version 77")]
)
def test_a_version_that_may_not_serve_is_never_staged(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch, version: str, stage: str,
    reason: str,
) -> None:  # fmt: skip
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        case.start(version, "shadow")
        assert reason in case.wait_for_stage(stage).reason
        assert (case.champion(), {one["version"] for one in case.ask(6)}) == ("1", {"1"})
        assert case.shadows() == []


def test_a_champion_moved_by_hand_ends_the_release(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        case.start("3", "shadow")
        wait_until(lambda: bool(case.newest().record))
        case.running.registry.set_champion("toy", "2")
        assert "and now version 2 serves" in case.wait_for_stage("withdrawn").reason


def test_a_stage_that_the_yaml_no_longer_asks_for_ends_the_release(
    tmp_path: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_case(make_home(tmp_path / "home"), write_loops(tmp_path / "loops"), sink, monkeypatch) as case:
        case.start("2", "canary")
        assert "release.stages.canary is null" in case.wait_for_stage("withdrawn").reason
        assert {one["version"] for one in case.ask(6)} == {"1"}


def test_an_alias_moved_before_a_crash_completes_the_release(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service died between the move of the alias and its record."""
    home = make_home(tmp_path)
    with run_case(home, staged_loops, sink, monkeypatch) as case:
        case.start("2", "canary")
        wait_until(lambda: bool(case.newest().record))
    (home / "registry" / "toy" / "champion").write_text("2", encoding="utf-8")
    with run_case(home, staged_loops, sink, monkeypatch) as case:
        case.wait_for_stage("stable")
        assert ("release", "1", "2", "service") in case.audit() or case.audit()[-1][0] == "canary"
        assert {one["version"] for one in case.ask(6)} == {"2"}


def test_alerts_wait_for_prefect(
    tmp_path: Path, staged_loops: Path, sink: EventSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.serving.service.ALERT_SECONDS", 0.1)
    with run_case(make_home(tmp_path), staged_loops, sink, monkeypatch) as case:
        sink.is_down, sink.refusals = True, 0
        case.start("4", "shadow")
        case.wait_for_stage("refused")
        wait_until(lambda: sink.refusals > 1)
        sink.is_down = False
        wait_until(lambda: sink.kinds() == ["evertune.refused"])
        wait_until(lambda: case.releases.list_due_alerts(datetime(2020, 1, 1, tzinfo=UTC)) == [])
        assert sink.kinds() == ["evertune.refused"]
        assert Event.model_validate(sink.events[0]).resource.id == "evertune.loop.toy"  # Prefect's own reading
