"""Jobs over real HTTP: what may be uploaded, whose they are, and that no text is answered twice, even by kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from infra.client import Evertune, ServiceProblem
from infra.serving import job_run, job_runner
from infra.serving.job_run import id_of_row
from tasks.core.errors import DataError, TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database, reading, writing
from tasks.stores.job_files import Answers, JobFiles, erase_jobs
from tasks.stores.jobs import Jobs
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.schema import jobs as jobs_table
from tasks.stores.schema import predictions
from tests.support.ports import free_port
from tests.support.serving import OPERATOR, Running, make_settings, run_service, wait_until_ready
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

JOBS = "/v1/loops/toy/jobs"
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    limits = {"max_bytes": 20_000, "max_texts": 500, "max_open": 2}
    serving = {"max_texts": 8, "max_chars": 200, "max_batch": 4, "jobs": limits}
    return write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent


def make_home(folder: Path) -> Path:
    write_tiny_bundle(folder / "registry" / "toy" / "1")
    (folder / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, loops: Path) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_runner, "LOOK_SECONDS", 0.1)
        with run_service(make_home(tmp_path_factory.mktemp("home")), loops) as running:
            yield running


@pytest.fixture
def key(service: Running) -> str:
    return ApiKeys(open_database(service.settings.database)).create("jobs", None, datetime.now(UTC))[1]


@pytest.fixture
def evertune(service: Running, key: str) -> Iterator[Evertune]:
    with Evertune(service.url, key) as client:
        yield client


@pytest.fixture
def client(service: Running, key: str) -> Iterator[httpx.Client]:
    with service.client(key) as client:
        yield client


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def wait_until(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(600):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError("it never holds")


def finish(evertune: Evertune, job_id: str) -> list[Any]:
    job = evertune.wait_for_job("toy", job_id, timeout_seconds=30, poll_seconds=0.02)
    assert job.status == "done", job
    wait_until(lambda: is_readable(evertune, job_id))
    return list(evertune.read_result("toy", job_id))


def is_readable(evertune: Evertune, job_id: str) -> bool:
    try:
        next(evertune.read_result("toy", job_id), None)
    except ServiceProblem:  # not finished
        return False
    return True


def test_a_file_is_answered_row_by_row_and_counts_once(evertune: Evertune, service: Running, tmp_path: Path) -> None:
    rows: list[Any] = [{"text": " ", "id": 1}, {"text": "good", "id": 2, "group": "s-1"}, {"text": "bad", "id": "x"}]
    rows += [{"text": 7}, {"text": "x" * 201}, {"text": "good", "group": 5}, "good", {"text": "good, ana@example.org"}]
    rows += [{"text": f"bad {number}"} for number in range(12)]
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", rows))
    assert (job.rows, job.valid, job.loop) == (20, 15, "toy")
    lines = finish(evertune, job.job_id)
    assert [line.row for line in lines] == list(range(1, 21))
    assert [line.id for line in lines[:3]] == [1, 2, "x"]
    assert [line.error for line in lines if line.error] == [
        "empty", "not text (int)", "too long (201 characters, at most 200)", "group: not text (int)", "not a record"
    ]  # fmt: skip
    assert [line.label for line in lines[1:3]] == ["positive", "negative"]
    ids = [line.prediction_id for line in lines if line.prediction_id]
    kept = PredictionLog(open_database(service.settings.database)).read_predictions(ids)
    assert (len(ids), len(kept), kept[ids[0]].group, kept[ids[2]].text) == (15, 15, "s-1", "good, [email]")
    (usage,) = evertune.read_usage()
    assert (usage.requests, usage.texts) == (1, 15)
    assert not list((service.settings.root / "jobs" / job.job_id).glob("input*"))  # the texts as they came are gone


def test_csv_may_name_its_text_column(evertune: Evertune, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text('id,review\n7,"good, good"\n8,bad\n', encoding="utf-8-sig")
    lines = finish(evertune, evertune.start_job("toy", file, text_column="review").job_id)
    assert [(line.id, line.label) for line in lines] == [("7", "positive"), ("8", "negative")]


def test_the_same_upload_is_one_job(evertune: Evertune, client: httpx.Client, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "texts.jsonl", [{"text": "good"}])
    first = evertune.start_job("toy", file, idempotency_key="night-1")
    again = client.post(JOBS, content=file.read_bytes(), headers=NDJSON | {"Idempotency-Key": "night-1"})
    assert (again.status_code, again.json()["job_id"]) == (200, first.job_id)
    assert again.headers["Location"] == f"{JOBS}/{first.job_id}"
    finish(evertune, first.job_id)
    assert evertune.start_job("toy", file, idempotency_key="night-1").status == "done"
    assert len(evertune.list_jobs("toy")) == 1
    assert evertune.start_job("toy", file).job_id != first.job_id


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b'{"text": "good"}\n', "application/json", 415, "application/x-ndjson' or text/csv"),
        (b'{"text": "good"}\n', "", 415, "application/x-ndjson' or text/csv"),
        (b"", "application/x-ndjson", 422, "no column 'text'; found []"),
        (b'{"review": "good"}\n', "application/x-ndjson", 422, "Name the text's column with ?text_column=."),
        (b"review\ngood\n", "text/csv", 422, "the file:1: no column 'text'; found ['review']"),
        (b"text\n\xff\n", "text/csv", 422, "the file:2: not UTF-8"),
        (b"text,text\ngood,bad\n", "text/csv", 422, "a column name stands twice"),
        (b'{"text": ""}\n' * 3, "application/x-ndjson", 422, "no text that can be answered among its 3 rows"),
        (b'{"text": ""}\n' + b"[" * 10_000 + b"\n", "application/x-ndjson", 422, "among its 2 rows"),
        (b'{"text": "good"}\n' * 501, "application/x-ndjson", 422, "more than 500 rows"),
        (b'{"text": "good"}\n' * 2_000, "application/x-ndjson", 413, "longer than 20000 bytes"),
    ],
)
def test_bad_uploads(
    client: httpx.Client, service: Running, content: bytes, kind: str, status: int, message: str
) -> None:
    response = client.post(JOBS, content=content, headers={"Content-Type": kind} if kind else {})
    assert (response.status_code, message in response.json()["error"]["message"]) == (status, True), response.text
    assert client.get(JOBS).json() == []


def test_a_job_belongs_to_its_key(service: Running, evertune: Evertune, tmp_path: Path) -> None:
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", [{"text": "good"}]))
    finish(evertune, job.job_id)
    with service.client() as stranger:
        for method, path in (("GET", ""), ("GET", "/result"), ("POST", "/cancel"), ("DELETE", "")):
            response = stranger.request(method, f"{JOBS}/{job.job_id}{path}")
            assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_job")
        assert job.job_id not in {one["job_id"] for one in stranger.get(JOBS).json()}
        assert stranger.get(f"{JOBS}/..%2f..%2fevertune.db").status_code == 404
        assert stranger.get(f"{JOBS}/nope").status_code == 422
    with service.client(OPERATOR) as operator:
        assert operator.get(f"{JOBS}/{job.job_id}").json()["status"] == "done"
    assert httpx.post(f"{service.url}{JOBS}", content=b"{}", headers=NDJSON).status_code == 401


def test_a_result_can_be_deleted_and_goes_in_time(evertune: Evertune, service: Running, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "texts.jsonl", [{"text": "good"}])
    first, second = (evertune.start_job("toy", file).job_id for _ in range(2))
    for job_id in (first, second):
        finish(evertune, job_id)
    assert evertune.delete_job("toy", first).removed_at is not None
    for call in (evertune.delete_job, lambda *names: list(evertune.read_result(*names))):
        with pytest.raises(ServiceProblem, match="410 result_deleted"):
            call("toy", first)
    with writing(open_database(service.settings.database)) as connection:
        old = datetime.now(UTC) - timedelta(days=8)
        connection.execute(update(jobs_table).where(jobs_table.c.job_id == second).values(ended_at=old))
    runner = service.app.state.service.runner
    runner._sweep(datetime.now(UTC))
    assert evertune.read_job("toy", second).removed_at is not None
    assert not (service.settings.root / "jobs" / second).exists()


@pytest.fixture
def held_engine(service: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no job reach the engine until the event is set."""
    import asyncio

    batcher = service.app.state.service.slots["toy"].batcher
    go, answer = threading.Event(), batcher.answer

    async def wait(items: Any, background: bool = False) -> Any:
        while background and not go.is_set():
            await asyncio.sleep(0.01)
        return await answer(items, background)

    monkeypatch.setattr(batcher, "answer", wait)
    yield go
    go.set()


def test_a_cancelled_job_stops_and_keeps_what_it_answered(
    evertune: Evertune, held_engine: threading.Event, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "texts.jsonl", [{"text": "good"}] * 20)
    job = evertune.start_job("toy", file)
    wait_until(lambda: evertune.read_job("toy", job.job_id).status == "running")
    with pytest.raises(ServiceProblem, match="409 not_finished"):
        list(evertune.read_result("toy", job.job_id))
    with pytest.raises(ServiceProblem, match="409 not_finished: cancel the job first"):
        evertune.delete_job("toy", job.job_id)
    second = evertune.start_job("toy", file)
    with pytest.raises(ServiceProblem, match="429 too_many_jobs: this key has 2 unfinished jobs"):
        Evertune.start_job(evertune, "toy", file)
    for one in (job, second):
        assert evertune.cancel_job("toy", one.job_id).status == "cancelled"
        with pytest.raises(ServiceProblem, match="409 is_over"):
            evertune.cancel_job("toy", one.job_id)
    held_engine.set()
    wait_until(lambda: is_readable(evertune, job.job_id))
    answered = list(evertune.read_result("toy", job.job_id))
    assert 1 <= len(answered) == evertune.read_job("toy", job.job_id).done
    wait_until(lambda: sum(usage.texts for usage in evertune.read_usage()) >= len(answered))


def test_a_job_of_a_revoked_key_ends(
    evertune: Evertune, service: Running, key: str, held_engine: threading.Event, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(job_run, "TELL_SECONDS", 0.0)
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", [{"text": "good"}] * 20))
    keys = ApiKeys(open_database(service.settings.database))
    found = keys.find(key, datetime.now(UTC))
    assert found is not None
    keys.revoke(found.key_id, datetime.now(UTC))
    held_engine.set()
    with service.client(OPERATOR) as operator:
        wait_until(lambda: operator.get(f"{JOBS}/{job.job_id}").json()["status"] == "cancelled")
        assert operator.get(f"{JOBS}/{job.job_id}").json()["reason"] == "its key was revoked"


def test_what_fails_for_a_while_is_tried_again_and_a_text_that_always_fails_is_told(
    evertune: Evertune, service: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batcher = service.app.state.service.slots["toy"].batcher
    answer, failures = batcher.answer, [TransientError("the log"), DataError("lost")]

    async def stumble(items: Any, background: bool = False) -> Any:
        answers = None if any(item.text == "worst" for item in items) else await answer(items, background)
        if answers is None or failures:
            raise failures.pop() if failures else ValueError("the engine")  # after it was logged
        return answers

    monkeypatch.setattr(batcher, "answer", stumble)
    monkeypatch.setattr(job_run, "RETRY_SECONDS", (0.0,))
    rows = [{"text": text} for text in ("good", "bad", "worst", "good", "bad", "bad")]
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", rows))
    lines = finish(evertune, job.job_id)
    assert [line.label for line in lines] == ["positive", "negative", None, "positive", "negative", "negative"]
    assert lines[2].error == "the engine could not answer it"
    assert [usage.texts for usage in evertune.read_usage()] == [5]


def test_what_the_log_has_is_not_asked_again(
    evertune: Evertune, service: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = service.app.state.service.runner
    monkeypatch.setattr(runner.files, "finish", lambda job_id: None)
    rows = [{"text": text} for text in ("good", "bad", " ", "good", "bad")]
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", rows))
    lines = finish(evertune, job.job_id)
    answers = runner.files.answers_of(job.job_id)
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.index(b"\n") + 9])  # as after a kill between the log's commit and the answers

    def refuse(items: Any, background: bool = False) -> Any:
        raise AssertionError("it was answered before")

    monkeypatch.setattr(service.app.state.service.slots["toy"].batcher, "answer", refuse)
    with writing(open_database(service.settings.database)) as connection:
        again = update(jobs_table).where(jobs_table.c.job_id == job.job_id)
        connection.execute(again.values(status="running", ended_at=None))
    wait_until(lambda: evertune.read_job("toy", job.job_id).status == "done")
    assert finish(evertune, job.job_id) == lines
    assert [usage.texts for usage in evertune.read_usage()] == [4]


def test_erasing_a_key_ends_its_jobs_and_deletes_their_files(
    evertune: Evertune, service: Running, key: str, held_engine: threading.Event, tmp_path: Path
) -> None:
    engine = open_database(service.settings.database)
    found = ApiKeys(engine).find(key, datetime.now(UTC))
    assert found is not None
    job = evertune.start_job("toy", write_lines(tmp_path / "texts.jsonl", [{"text": "good"}] * 20))
    files = JobFiles(service.settings.root / "jobs")
    assert erase_jobs(Jobs(engine), files, found.key_id, datetime.now(UTC)) == 1
    held_engine.set()
    wait_until(lambda: not service.app.state.service.runner.is_working_on(job.job_id))
    ended = evertune.read_job("toy", job.job_id)
    assert (ended.status, ended.reason, ended.removed_at is None) == ("cancelled", "its texts were erased", False)
    assert job.job_id not in files.list_ids()


def test_answers_go_on_after_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    answers.append([{"row": 1}, {"row": 2}])
    answers.close()
    with path.open("ab") as file:
        file.write(b'{"row": 3, "la')
    answers = Answers(path)
    assert answers.n_rows == 2
    answers.append([{"row": 3}])
    answers.close()
    assert path.read_bytes() == b'{"row":1}\n{"row":2}\n{"row":3}\n'


def test_a_folder_has_one_name(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "jobs")
    assert files.open_place() == JobFiles(tmp_path / "jobs").open_place()
    shutil.rmtree(files.folder)
    assert files.list_ids() == []


def test_no_text_is_answered_or_billed_twice_across_kill_9(tmp_path: Path, loops: Path) -> None:
    home, port = make_home(tmp_path / "home"), free_port()
    settings = make_settings(home, loops, port)
    engine = open_database(settings.database)
    key, secret = ApiKeys(engine).create("tests", None, datetime.now(UTC))
    rows = [{"text": "good" if number % 3 else " ", "id": number} for number in range(1, 401)]
    upload, job_id = write_lines(tmp_path / "texts.jsonl", rows), ""

    def logged() -> int:
        with reading(engine) as connection:
            return int(connection.execute(select(func.count()).select_from(predictions)).scalar_one())

    for trial in range(3):
        command = [sys.executable, "-m", "tests.support.serving", str(home), str(loops), str(port)]
        process = subprocess.Popen(command)
        try:
            wait_until_ready(settings.api)
            with Evertune(settings.api, secret) as evertune:
                job_id = job_id or evertune.start_job("toy", upload).job_id
                if trial == 2:
                    lines = finish(evertune, job_id)
                else:
                    before = logged()
                    wait_until(lambda before=before: logged() >= min(before + 16, 267))  # type: ignore[misc]
                    os.kill(process.pid, signal.SIGKILL)
        finally:
            process.kill()
            process.wait(timeout=10)
    assert [line.row for line in lines] == list(range(1, 401))
    assert [line.id for line in lines if line.error is None] == [number for number in range(1, 401) if number % 3]
    ids = [id_of_row(job_id, line.row) for line in lines if line.error is None]
    assert [line.prediction_id for line in lines if line.error is None] == ids
    day = datetime.now(UTC)
    usage = PredictionLog(engine).usage(key.key_id, day - timedelta(days=1), day + timedelta(days=1))
    assert (logged(), usage["texts"].sum(), usage["requests"].sum()) == (267, 267, 1)
