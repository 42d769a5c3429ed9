"""Plans, limits, quotas and keys over real HTTP; usage is what the log says, whatever is killed."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tasks.core.billing import month_bounds
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tests.support.ports import free_port
from tests.support.serving import OPERATOR, Running, make_settings, run_service, wait_until_ready
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT = "/v1/loops/toy/predict"
FAST = {"requests_per_second": 1000, "burst": 10_000}
PLANS: dict[str, Any] = {
    "currency": "EUR",
    "default_plan": "small",
    "plans": {
        "slow": {
            "requests_per_second": 1,
            "burst": 60,
            "texts_per_month": 1000,
            "beyond": "refuse",
            "monthly_price": 0,
        },
        "small": {**FAST, "texts_per_month": 10, "beyond": "refuse", "monthly_price": 5},
        "billed": {**FAST, "texts_per_month": 4, "beyond": "bill", "monthly_price": 5, "price_per_1000_texts": 20},
        "elsewhere": {**FAST, "texts_per_month": 4, "beyond": "refuse", "monthly_price": 5, "loops": ["other"]},
        "doomed": {**FAST, "texts_per_month": 4, "beyond": "refuse", "monthly_price": 5},
    },
}


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    serving = {"max_texts": 8, "max_chars": 200, "max_batch": 4}
    return write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent


@pytest.fixture(scope="module")
def plans_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("plans") / "plans.yaml"
    file.write_text(yaml.safe_dump(PLANS, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERTUNE_PLANS_FILE", str(file))
        yield file


def make_home(folder: Path) -> Path:
    write_tiny_bundle(folder / "registry" / "toy" / "1")
    (folder / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, loops: Path, plans_file: Path) -> Iterator[Running]:
    with run_service(make_home(tmp_path_factory.mktemp("home")), loops) as running:
        yield running


@pytest.fixture
def operator(service: Running) -> Iterator[httpx.Client]:
    with service.client(OPERATOR) as client:
        yield client


def sell(operator: httpx.Client, plan: str | None, **terms: Any) -> dict[str, Any]:
    response = operator.post("/v1/admin/keys", json={"name": "shop", "plan": plan, **terms})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


def ask(client: httpx.Client, num_texts: int = 1) -> httpx.Response:
    return client.post(PREDICT, json={"inputs": [{"text": "good"}] * num_texts})


def code_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


def ask_together(service: Running, secret: str, num_requests: int, num_texts: int) -> list[httpx.Response]:
    with service.client(secret) as client, ThreadPoolExecutor(8) as callers:
        return list(callers.map(lambda _: ask(client, num_texts), range(num_requests)))


def logged_texts(running: Running, key_id: str) -> int:
    usage = PredictionLog(open_database(running.settings.database)).usage(key_id, *month_bounds(datetime.now(UTC)))
    return int(usage["texts"].sum())


def test_requests_beyond_the_burst_are_429_and_say_when_to_come_back(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "slow")
    responses = ask_together(service, made["secret"], 70, 1)
    passed = [one for one in responses if one.status_code == 200]
    refused = [one for one in responses if one.status_code == 429]
    # A minute of 60 requests; where it began within these calls, what is left of the one before fades out.
    assert len(passed) + len(refused) == 70
    assert 60 <= len(passed) <= 61 + 2
    assert {code_of(one) for one in refused} == {"rate_limited"}
    assert all(1 <= int(one.headers["Retry-After"]) <= 60 for one in refused)
    policy = '"requests";q=60;w=60, "texts";q=1000;qu="texts"'
    assert {one.headers["RateLimit-Policy"] for one in responses} == {policy}
    lefts = sorted(int(one.headers["RateLimit-Remaining"]) for one in passed)
    assert (lefts[0], passed[0].headers["RateLimit-Limit"]) == (0, "60")
    assert logged_texts(service, made["key_id"]) == len(passed)


def test_a_quota_is_exact_to_the_text_however_many_ask_at_once(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "small")
    responses = ask_together(service, made["secret"], 12, 3)
    assert sorted(one.status_code for one in responses) == [200] * 3 + [429] * 9
    with service.client(made["secret"]) as client:
        last = ask(client)
        assert (last.status_code, last.headers["RateLimit-Remaining"]) == (200, "0")
        refused = ask(client)
        used = client.get("/v1/usage/plan").json()
    assert (refused.status_code, code_of(refused)) == (429, "quota_exceeded")
    assert "includes 10 texts per month, 0 are left, 1 were asked" in refused.json()["error"]["message"]
    _, end = month_bounds(datetime.now(UTC))
    until_reset = (end - datetime.now(UTC)).total_seconds()
    assert int(refused.headers["Retry-After"]) == pytest.approx(until_reset, abs=60)
    assert f'"texts";r=0;t={refused.headers["Retry-After"]}' in refused.headers["RateLimit"]
    assert (used["used"], used["included"], used["left"], used["beyond"]) == (10, 10, 0, "refuse")
    assert datetime.fromisoformat(used["resets_at"]) == end
    assert logged_texts(service, made["key_id"]) == 10


def test_what_was_not_answered_uses_nothing_up(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "small")
    with service.client(made["secret"]) as client:
        for body in ({"inputs": [{"text": "good"}] * 9}, {"inputs": [{"text": "x" * 201}] * 8}):
            refused = client.post(PREDICT, json=body)
            assert refused.status_code in (413, 422)
        assert (ask(client, 8).status_code, ask(client, 3).status_code, ask(client, 2).status_code) == (200, 429, 200)
        assert ask(client).status_code == 429


def test_texts_beyond_are_billed_where_the_plan_says_so(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "billed")
    with service.client(made["secret"]) as client:
        first, second = ask(client, 4), ask(client, 3)
        assert (first.status_code, second.status_code) == (200, 200)
        assert "texts" not in second.headers["RateLimit"]  # no end that a client must heed
        used = client.get("/v1/usage/plan").json()
    assert (used["used"], used["overage"], used["left"], used["amount"]) == (7, 3, 0, "5.06")


def test_what_a_month_costs_is_said_as_it_will_be_billed(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "billed")
    with service.client(made["secret"]) as client:
        ask(client, 7)
        operator.patch(f"/v1/admin/keys/{made['key_id']}", json={"plan": "slow"})
        used = client.get("/v1/usage/plan").json()
        assert (used["plan"], used["monthly_price"], used["left"], used["overage"]) == ("slow", "0.00", 993, 0)
        assert used["amount"] == "5.06"  # of the dearer plan that it had in this month
        operator.patch(f"/v1/admin/keys/{made['key_id']}", json={"plan": None})
        used = client.get("/v1/usage/plan").json()
    assert (used["plan"], used["amount"], used["currency"]) == (None, "5.06", "EUR")


@pytest.fixture
def held_jobs(service: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let no job reach the engine until the event is set."""
    batcher = service.app.state.service.slots["toy"].batcher
    go, answer = threading.Event(), batcher.answer

    async def wait(items: Any, background: bool = False) -> Any:
        while background and not go.is_set():
            await asyncio.sleep(0.01)
        return await answer(items, background)

    monkeypatch.setattr(batcher, "answer", wait)
    yield go
    go.set()


def start_job(client: httpx.Client, num_texts: int) -> httpx.Response:
    headers = {"Content-Type": "application/x-ndjson"}
    return client.post("/v1/loops/toy/jobs", content=b'{"text": "good"}\n' * num_texts, headers=headers)


def wait_until(holds: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(600):
        if holds():
            return
        waiting.wait(0.05)
    raise AssertionError("it never holds")


def test_jobs_that_wait_for_their_turn_hold_their_texts(
    service: Running, operator: httpx.Client, held_jobs: threading.Event
) -> None:
    made = sell(operator, "small")
    with service.client(made["secret"]) as client:
        accepted = [start_job(client, 3) for _ in range(3)]  # two of a key run at a time, the third waits
        assert [one.status_code for one in accepted] == [202] * 3, accepted[-1].text
        refused = start_job(client, 2)
        assert (refused.status_code, code_of(refused)) == (429, "quota_exceeded")
        assert (ask(client, 2).status_code, ask(client, 1).status_code, ask(client, 1).status_code) == (429, 200, 429)
        last = f"/v1/loops/toy/jobs/{accepted[2].json()['job_id']}"
        assert client.post(f"{last}/cancel").json()["status"] == "cancelled"
        wait_until(lambda: ask(client, 3).status_code == 200)  # what it held is free again
        held_jobs.set()
        wait_until(lambda: logged_texts(service, made["key_id"]) == 10)
        assert ask(client, 1).status_code == 429
    assert service.app.state.service.limits.quotas._months[made["key_id"]].reserved == 0


@pytest.mark.parametrize("end", ["expired", "revoked"])
def test_a_job_ends_with_its_key(
    service: Running, operator: httpx.Client, held_jobs: threading.Event, end: str
) -> None:
    made = sell(operator, "small", expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    with service.client(made["secret"]) as client:
        job = start_job(client, 3).json()
        place = f"/v1/loops/toy/jobs/{job['job_id']}"
        wait_until(lambda: client.get(place).json()["status"] == "running")
    keys = ApiKeys(open_database(service.settings.database))
    now = datetime.now(UTC)
    if end == "expired":
        keys.change(made["key_id"], now, plan="small", expires_at=now)
    else:
        keys.revoke(made["key_id"], now)
    _, task = service.app.state.service.runner._running[job["job_id"]]
    task.get_loop().call_soon_threadsafe(task.cancel)  # as a restart would; the next look goes on with it
    wait_until(lambda: operator.get(place).json()["status"] == "cancelled")
    assert operator.get(place).json()["reason"] == f"its key {'has expired' if end == 'expired' else 'was revoked'}"
    assert logged_texts(service, made["key_id"]) == 0


def test_a_key_without_a_plan_has_no_limits_and_says_none(service: Running) -> None:
    with service.client() as client:
        response = ask(client)
        used = client.get("/v1/usage/plan").json()
    assert response.status_code == 200
    assert [name for name in response.headers if name.startswith("ratelimit")] == []
    assert (used["plan"], used["included"], used["amount"]) == (None, None, None)
    assert used["used"] >= 1


def test_a_key_uses_only_the_loops_of_its_plan(service: Running, operator: httpx.Client) -> None:
    with service.client(sell(operator, "elsewhere")["secret"]) as client:
        assert ask(client).status_code == 403


def test_keys_are_sold_changed_rotated_and_ended(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "small")
    place = f"/v1/admin/keys/{made['key_id']}"
    with service.client(made["secret"]) as old:
        assert ask(old, 8).status_code == 200
        assert ask(old, 8).status_code == 429
        changed = operator.patch(place, json={"plan": "billed"}).json()
        assert (changed["plan"], changed["state"], changed["expires_at"]) == ("billed", "valid", None)
        assert ask(old, 8).status_code == 200  # at once, with what was used before
        rotated = operator.post(f"{place}/rotate", json={"grace_hours": 1}).json()
        with service.client(rotated["secret"]) as new:
            assert (ask(old).status_code, ask(new).status_code) == (200, 200)
            assert operator.post(f"{place}/rotate", json={"grace_hours": False}).status_code == 422  # no way to say 0
            newest = operator.post(f"{place}/rotate", json={"grace_hours": 0}).json()["secret"]
            assert ask(new).status_code == 401
        assert ask(old).status_code == 200  # its own time of grace is not over
        with service.client(newest) as client:
            assert client.get("/v1/usage/plan").json()["used"] == 19
            assert operator.delete(place).json() == {"status": "revoked"}
            assert (ask(client).status_code, ask(old).status_code) == (401, 401)
    assert operator.patch(place, json={"plan": "small"}).status_code == 404
    assert operator.post(f"{place}/rotate", json={}).status_code == 404


def test_an_expired_key_opens_nothing_until_its_end_is_moved(service: Running, operator: httpx.Client) -> None:
    now = datetime.now(UTC)
    keys = ApiKeys(open_database(service.settings.database))
    key, secret = keys.create("guest", None, now, plan="small", expires_at=now - timedelta(seconds=1))
    with service.client(secret) as client:
        response = ask(client)
        assert (response.status_code, "expired" in response.json()["error"]["message"]) == (401, True)
        operator.patch(f"/v1/admin/keys/{key.key_id}", json={"expires_at": (now + timedelta(days=1)).isoformat()})
        assert ask(client).status_code == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "x", "plan": "gold"}, "plan: no plan 'gold'; there are: slow, small, billed, elsewhere, doomed"),
        ({"name": "x", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at: is past"),
        ({"name": "x", "expires_at": "2999-01-01T00:00:00"}, "expires_at: Input should have timezone info"),
        ({"name": "x", "expires_at": "9999-12-31T23:59:59-05:00"}, "expires_at: is beyond the calendar"),
        ({"name": "x", "loops": []}, "loops: List should have at least 1 item"),
    ],
)
def test_terms_that_cannot_be_are_refused(operator: httpx.Client, body: dict[str, Any], message: str) -> None:
    response = operator.post("/v1/admin/keys", json=body)
    assert (response.status_code, message in response.json()["error"]["message"]) == (422, True), response.text


def test_only_the_operator_touches_keys_and_sees_all_usage(service: Running, operator: httpx.Client) -> None:
    made = sell(operator, "small")
    with service.client(made["secret"]) as client:
        ask(client, 2)
        place = f"/v1/admin/keys/{made['key_id']}"
        tries = [client.get("/v1/admin/keys"), client.patch(place, json={}), client.post(f"{place}/rotate", json={})]
        assert [one.status_code for one in (*tries, client.delete(place))] == [403] * 4
        assert {row["key_id"] for row in client.get("/v1/usage").json()} == {made["key_id"]}
    assert len({row["key_id"] for row in operator.get("/v1/usage").json()}) > 1
    assert {key["key_id"]: key["plan"] for key in operator.get("/v1/admin/keys").json()}[made["key_id"]] == "small"


def test_plans_are_taken_up_while_serving(service: Running, operator: httpx.Client, plans_file: Path) -> None:
    made = sell(operator, "doomed")
    without = {**PLANS, "plans": {name: plan for name, plan in PLANS["plans"].items() if name != "doomed"}}
    with service.client(made["secret"]) as client:
        plans_file.write_text(yaml.safe_dump(without), encoding="utf-8")
        response = ask(client)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "60")
        plans_file.write_text(yaml.safe_dump(PLANS, sort_keys=False), encoding="utf-8")
        assert ask(client).status_code == 200


def test_a_quota_and_its_metering_survive_kill_9(tmp_path: Path, loops: Path, plans_file: Path) -> None:
    """Whatever is killed, no more than the included texts are ever answered, and usage is the log, to the text."""
    included, asked_at_once = 600, 3
    home, port = make_home(tmp_path / "home"), free_port()
    plans = tmp_path / "plans.yaml"
    plan = {**FAST, "texts_per_month": included, "beyond": "refuse", "monthly_price": 0}
    plans.write_text(yaml.safe_dump({"currency": "EUR", "default_plan": "p", "plans": {"p": plan}}), encoding="utf-8")
    settings = make_settings(home, loops, port)
    keys = ApiKeys(open_database(settings.database))
    key, secret = keys.create("tests", None, datetime.now(UTC), plan="p")
    answered: list[str] = []
    refused = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=settings.api, headers={"Authorization": f"Bearer {secret}"}, timeout=10) as client:
            try:
                while not refused.is_set():
                    response = ask(client, asked_at_once)
                    if response.status_code == 429:
                        assert code_of(response) == "quota_exceeded"
                        refused.set()
                    else:
                        answered.extend(one["prediction_id"] for one in response.json()["predictions"])
            except httpx.TransportError:
                return

    def serve(until: int | None) -> None:
        command = [sys.executable, "-m", "tests.support.serving", str(home), str(loops), str(port)]
        process = subprocess.Popen(command, env={**os.environ, "EVERTUNE_PLANS_FILE": str(plans)})
        try:
            wait_until_ready(settings.api)
            with ThreadPoolExecutor(4) as callers:
                calls = [callers.submit(call) for _ in range(4)]
                waiting = threading.Event()
                while until is not None and len(answered) < until:
                    waiting.wait(0.005)
                if until is not None:
                    os.kill(process.pid, signal.SIGKILL)
                for one in calls:
                    one.result()
        finally:
            process.kill()
            process.wait(timeout=10)

    for until in (60, 180, None):
        serve(until)
    log = PredictionLog(open_database(settings.database))
    rows = log.read_window("toy", max_rows=10_000)
    usage = log.usage(key.key_id, *month_bounds(datetime.now(UTC)))
    assert refused.is_set()
    assert len(answered) == len(set(answered))
    assert set(answered) <= set(rows["prediction_id"])
    assert int(usage["texts"].sum()) == len(rows) == included
    assert int(usage["requests"].sum()) == included // asked_at_once
