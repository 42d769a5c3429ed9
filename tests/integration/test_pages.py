"""The service's pages over real HTTP: who may see them, what they show in two languages, what their forms do."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pandas as pd
import pytest
from sqlalchemy import insert

from configs.plans import load_plans
from infra.serving.i18n.languages import Words
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database, writing
from tasks.stores.erasures import Erasures
from tasks.stores.labellers import Labellers
from tasks.stores.ledger import Ledger, ReportRow, RetrainRow, Verdict
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.schema import releases
from tasks.stores.statements import Statements
from tests.support.pages import open_browser, read_token, sign_in
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

PREDICT = "/v1/loops/toy/predict"
OWN_PAGES = ("/", "/loops/toy", "/playground/toy", "/labelling/toy", "/people", "/keys")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    serving = {"max_chars": 200, "labelling": {"votes": 2, "max_votes": 2, "audit_share": 0.0}}
    loops = write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20, serving=serving).parent
    write_tiny_bundle(home / "registry" / "toy" / "1")
    (home / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    with run_service(home, loops) as running:
        fill_ledger(running)
        yield running


def fill_ledger(running: Running) -> None:
    """Keep what flows would have written: two windows, two retrains, a move, a release that was taken back."""
    engine = open_database(running.settings.database)
    ledger = Ledger(engine)
    ledger.append_audit("toy", "promote", "retrain", "ok: floor <b>", None, "1", NOW)
    windows: list[tuple[Verdict, float, float | None]] = [("ok", 0.6, None), ("drift", 0.001, 0.7)]
    for number, (verdict, p_value, measured) in enumerate(windows):
        tests = [{"name": "outputs", "p_value": p_value, "effect": 0.2, "fires": p_value < 0.01}]
        interval = None if measured is None else [0.6, 0.8]
        accuracy = {
            "measured": measured,
            "interval": interval,
            "estimated": 0.8,
            "n_labelled": 0 if not measured else 60,
        }
        decision = {"action": "label first", "reason": "only 3 labels", "flow_run_id": None}
        window = {"n": 200, "groups": 50, "is_vote": True, "from": None, "to": NOW.isoformat()}
        record: dict[str, Any] = {
            "tests": tests,
            "accuracy": accuracy,
            "decision": decision,
            "window": window,
            "report_url": "http://x/r1",
        }
        at = NOW - timedelta(hours=2 - number)
        ledger.append_report(ReportRow(f"r{number}", at, "toy", "1", verdict, verdict == "drift", record))
    reasons = ["refused: floor: macro-F1 0.2 is below the floor 0.6", "ok: test rows: 80 rows"]
    short = {"name": "short", "n": 40, "accuracy": 0.5, "champion_accuracy": 0.7, "difference": -0.2, "verdict": "lost"}
    metrics: dict[str, Any] = {"accuracy": 0.3, "macro_f1": 0.2, "ece": 0.1, "n": 80}
    metrics |= {"accuracy_ci": [0.2, 0.4], "macro_f1_ci": [0.1, 0.3]}
    retrained: dict[str, Any] = {
        "decision": {"promote": False, "reasons": reasons}, "released": "not promoted", "metrics": metrics,
        "champion_metrics": metrics, "slices": [short], "cases": {"must": {"passed": 3, "n": 4, "failed": []}},
        "snapshot": {"fingerprint": "abc", "train": 300}, "seconds": {"total": 65.0}, "suspicious_rows": 2,
        "worth": {"verdict": "lost", "newest": None,
                  "test": {"accuracy": -0.2, "interval": [-0.3, -0.1], "n": 80, "macro_f1": -0.2}},
    }  # fmt: skip
    Erasures(engine).mark("toy", {"abc": ["train"]}, NOW)
    ledger.append_retrain(RetrainRow("flow-2", NOW, "toy", "drift", "trained", "2", retrained))
    ended = {
        "release_id": "r", "loop": "toy", "version": "2", "champion": "1", "stage": "refused", "who": "eve",
        "why": "new", "action": "release", "started_at": NOW, "entered_at": NOW, "ended_at": NOW,
        "reason": "too slow", "record": {},
    }  # fmt: skip
    with writing(engine) as connection:
        connection.execute(insert(releases), [ended])


def answer_texts(service: Running, *texts: str) -> list[str]:
    with service.client() as client:
        body = {"inputs": [{"text": text} for text in texts]}
        return [one["prediction_id"] for one in client.post(PREDICT, json=body).json()["predictions"]]


def read_gold(service: Running, prediction_id: str) -> str | None:
    window = PredictionLog(open_database(service.settings.database)).read_window("toy", max_rows=10_000)
    found: str | None = window.set_index("prediction_id").loc[prediction_id, "gold"]
    return found


def invite(service: Running, name: str, loops: list[str] | None = None) -> str:
    return Labellers(open_database(service.settings.database)).invite(name, loops, NOW)[1]


def test_the_pages_show_state_only_to_the_operator(service: Running) -> None:
    page = service.settings.root / "reports" / "toy" / "r9.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("<h1>A report</h1>", encoding="utf-8")
    for path in (*OWN_PAGES, "/playground", "/labelling", "/reports/toy/r9", "/validation/toy/abc"):
        response = httpx.get(f"{service.url}{path}")
        assert (response.status_code, response.headers["Location"]) == (303, f"/login?next={path}")
    with sign_in(service) as browser:
        assert "version 1" in browser.get("/").text
        assert "A report" in browser.get("/reports/toy/r9").text
        assert "/v1/loops/{loop}/predict" in browser.get("/docs").text
        for missing in ("/reports/toy/nope", "/reports/toy/..%2F..%2Foperator.token", "/validation/toy/..%2F..",
                        "/suspects/toy/00112233445566aa", "/loops/nope", "/labelling/nope"):  # fmt: skip
            assert browser.get(missing).status_code == 404
        session = {cookie.name: cookie for cookie in browser.cookies.jar}[
            f"evertune_session_{service.settings.api_port}"
        ]
        assert session.has_nonstandard_attr("HttpOnly")
        assert OPERATOR not in str(session.value)
        browser.post("/logout", data={"form_token": read_token(browser.get("/").text)})
        assert "Token or pass" in browser.get("/").text


def test_a_machine_reads_a_report_with_the_token(service: Running) -> None:
    with service.client(OPERATOR) as operator, service.client() as customer:
        assert operator.get("/reports/toy/nope").json()["error"]["code"] == "unknown_report"
        assert customer.get("/reports/toy/nope").status_code == 403


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_a_login_never_leads_elsewhere(service: Running, target: str) -> None:
    with open_browser(service) as browser:
        token = read_token(browser.get("/login").text)
        fields = {"form_token": token, "token": OPERATOR, "next": target}
        assert browser.post("/login", data=fields, follow_redirects=False).headers["Location"] == "/"


@pytest.mark.parametrize("path", ["/login", "/logout", "/playground/toy", "/labelling/toy", "/people", "/keys"])
def test_a_form_from_elsewhere_is_refused(service: Running, path: str) -> None:
    with open_browser(service) as stranger:
        stolen = read_token(stranger.get("/login").text)
    with sign_in(service) as browser:
        for token in ("", "forged", stolen):
            fields = {
                "form_token": token,
                "token": OPERATOR,
                "text": "good",
                "name": "x",
                "revoke": "k",
                "action": "undo",
            }
            response = browser.post(path, data=fields)
            assert (response.status_code, "too old" in response.text) == (403, True)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_in_both_languages_and_without_inline_script_or_style(service: Running, language: str) -> None:
    title = {"en": "Loops", "zh": "循环"}[language]
    with sign_in(service, language=language) as browser:
        for path in (*OWN_PAGES, "/docs", "/login", "/loops/nope"):
            response = browser.get(path)
            policy, html = response.headers["Content-Security-Policy"], response.text
            assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
            assert "unsafe" not in policy
            assert f'<html lang="{language}">' in html
            assert title in html
            assert re.findall(r"<script(?![^>]*\ssrc=)|\sstyle=|\son[a-z]+=|javascript:", html) == []
            forms = re.findall(r'<form[^>]*method="post".*?</form>', html, re.DOTALL)
            assert [form for form in forms if 'name="form_token"' not in form] == []
        assert [browser.get(f"/static/{name}").status_code for name in ("style.css", "app.js", "icon.svg")] == [200] * 3


def test_a_page_is_written_beside_the_event_loop(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = set()
    say = Words.__call__

    def noted(words: Words, key: str, **values: Any) -> str:
        writers.add(threading.current_thread().name)
        return say(words, key, **values)

    with sign_in(service) as browser:
        monkeypatch.setattr(Words, "__call__", noted)
        browser.get("/people")
    assert [name for name in writers if "(run)" in name] == []  # uvicorn's own thread
    assert writers


def test_the_switch_of_language_is_kept(service: Running) -> None:
    with sign_in(service) as browser:
        assert 'href="/loops/toy?lang=zh"' in browser.get("/loops/toy").text
        assert '<html lang="zh">' in browser.get("/loops/toy?lang=zh").text
        assert "没有这个循环" in browser.get("/loops/nope").text
        assert '<html lang="zh">' in browser.get("/keys?lang=xx").text
        assert "所有时间均为 UTC" not in browser.get("/?lang=en").text


def test_a_failure_is_a_page_for_browsers_and_json_for_others(service: Running) -> None:
    with sign_in(service) as browser:
        page = browser.get("/loops/nope")
        told = browser.get("/loops/nope", headers={"Accept": "*/*"})
    assert (page.status_code, "That did not work" in page.text) == (404, True)
    assert told.json()["error"]["code"] == "unknown_loop"


def test_the_loop_page_shows_versions_gate_release_drift_and_ledger(service: Running) -> None:
    with sign_in(service) as browser:
        html = browser.get("/loops/toy").text
        front = " ".join(browser.get("/").text.split())
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "ok: floor &lt;b&gt;" in html
    for shown in (
        "1 of 2 rules hold", "macro-F1 0.2 is below the floor 0.6", "✕ fails", "On 80 frozen test rows",
        "must know 3/4",
        "-0.200", "lost", "label first only 3 labels", "70.0 % [60.0–80.0 %], n = 60", "65 s", "taken back", "too slow",
        "Version 1 serves everyone.", "alarm limit 0.01", "-20.0 [-30.0, -10.0], n = 80", "learnt erased rows",
        "This month: 1 trainings, 0 of them promoted, 0.02 h; 1 refused in a row",
    ):  # fmt: skip
        assert shown in text, shown
    assert (html.count("<figure"), html.count('role="img"')) == (3, 9)  # each for three widths
    assert "trained, version 2" in front
    assert "not promoted" in front
    assert "<b>70.0 %</b>" in front  # measured is shown rather than the newer estimate
    assert 'class="strip"' in front


@pytest.mark.parametrize(
    ("released", "shown"),
    [
        ("serving", "promoted"),
        ("pending", "promoted"),
        ("refused", "refused by the service"),
        ("awaiting approval", "awaiting approval"),
        ("not promoted", "not promoted"),
    ],
)
def test_the_page_says_what_became_of_the_last_retrain(service: Running, released: str, shown: str) -> None:
    record = {"decision": {"promote": True, "reasons": []}, "released": released}
    row = RetrainRow(f"flow {released}", datetime.now(UTC), "toy", "person", "trained", "2", record)
    Ledger(open_database(service.settings.database)).append_retrain(row)
    with sign_in(service) as browser:
        page = " ".join(browser.get("/").text.split())
        assert browser.get("/loops/toy").status_code == 200
    assert f"<span>{shown} · " in page


def test_the_playground_answers_shows_the_words_and_takes_feedback(service: Running) -> None:
    log = PredictionLog(open_database(service.settings.database))
    with sign_in(service) as browser:
        before = len(log.read_window("toy", max_rows=10_000))
        html = browser.submit("/playground/toy", text="good <script> bad bad").text
        shown = " ".join(html.split())
        assert 'class="label">negative <small>' in shown
        assert "&lt;<span" in shown
        assert re.search(r'<span class="for\d"[^>]*>bad</span>', shown)
        assert re.search(r'<span class="against4"[^>]*>good</span>', shown)
        assert len(log.read_window("toy", max_rows=10_000)) == before + 1  # what explains is not logged
        prediction_id = html.split('name="prediction_id" value="')[1].split('"')[0]
        kept = {"form_token": read_token(html), "prediction_id": prediction_id, "label": "positive"}
        assert "Kept as feedback: positive." in browser.post("/playground/toy", data=kept).text
        conflict = browser.post("/playground/toy", data=kept | {"label": "negative"})
        assert (conflict.status_code, "another label was recorded" in conflict.text) == (409, True)
        assert "is empty" in browser.submit("/playground/toy", text=" ").text
        assert browser.submit("/playground/toy", text="x" * 201).status_code == 413
    assert read_gold(service, prediction_id) == "positive"


def test_people_label_with_a_pass_and_see_nothing_else(service: Running) -> None:
    (prediction_id,) = answer_texts(service, "a text for two people")
    with sign_in(service) as operator:
        html = operator.submit("/people", name="Ana").text
        ana = re.search(r"lab_[\w-]{20,}", html)
        assert ana
        assert ana.group() not in operator.get("/people").text  # shown once
        assert operator.submit("/people", name="Ana").status_code == 409
        assert operator.submit("/people", name="Operator").status_code == 422
        assert operator.submit("/people", name=" ").status_code == 422
        assert operator.submit("/people", name="Uma", loop=["gone"]).status_code == 404  # not a pass for every loop
        assert "Uma" not in operator.get("/people").text
    with sign_in(service, ana.group()) as browser, sign_in(service, invite(service, "Ben")) as other:
        assert "You label as Ana" in browser.get("/").text  # led to the queue
        assert [browser.get(path).status_code for path in ("/loops/toy", "/playground/toy", "/people", "/keys")] == [
            403
        ] * 4
        assert browser.get("/v1/admin/keys").status_code == 401  # no session of the operator
        asked = browser.get("/labelling/toy").text
        assert "Agreement" not in asked
        said = {"prediction_id": prediction_id, "label": "positive"}
        assert "You said" in browser.submit("/labelling/toy", **said).text
        assert read_gold(service, prediction_id) is None
        assert "1 other person has labelled this text." in other.get("/labelling/toy").text
        other.submit("/labelling/toy", **said)
        assert read_gold(service, prediction_id) == "positive"
        other.submit("/labelling/toy", action="undo")
        assert read_gold(service, prediction_id) is None
        assert browser.submit("/labelling/toy", prediction_id=prediction_id, label="great").status_code == 422
        assert browser.submit("/labelling/toy", prediction_id="nope", label="positive").status_code == 404
        people = Labellers(open_database(service.settings.database))
        people.revoke(next(one.labeller_id for one in people.list() if one.name == "Ana"), NOW)
        assert "Token or pass" in browser.get("/labelling/toy").text
    with sign_in(service, invite(service, "Eva", ["elsewhere"])) as browser:
        assert browser.get("/labelling").status_code == 404
        refused = browser.get("/labelling/toy")
        assert (refused.status_code, "not for your pass" in refused.text) == (403, True)
        assert "this key" not in refused.text


def test_the_operator_decides_disputes_and_sees_the_agreement(service: Running) -> None:
    ids = answer_texts(service, *(f"disputed text {number}" for number in range(6)))
    with sign_in(service, invite(service, "Jo")) as browser:
        for prediction_id in ids:
            browser.submit("/labelling/toy", prediction_id=prediction_id, label="negative")
    with sign_in(service, invite(service, "Kim")) as browser:
        for prediction_id, label in zip(ids, ["positive"] + ["negative"] * 5, strict=True):
            browser.submit("/labelling/toy", prediction_id=prediction_id, label=label)
        browser.submit("/labelling/toy", prediction_id=ids[0], action="decide", label="positive")  # is not hers to do
    assert [read_gold(service, one) for one in ids] == [None, *["negative"] * 5]
    with sign_in(service) as operator:
        page = " ".join(operator.get("/labelling/toy").text.split())
        assert "Disputed texts" in page
        assert "Jo: negative" in page
        assert "<dt>Fleiss&#39; kappa</dt>" in page
        assert re.search(r"<td>Jo</td><td>Kim</td><td class=\"number\">6</td><td class=\"number\">83.3 %</td>", page)
        after = operator.submit("/labelling/toy", prediction_id=ids[0], action="decide", label="positive").text
        assert "Disputed texts" not in after
        late = operator.submit("/labelling/toy", prediction_id=ids[0], action="decide", label="negative")
        assert (late.status_code, "it stays" in late.text) == (409, True)
    assert read_gold(service, ids[0]) == "positive"


def test_keys_are_made_rotated_and_ended_and_the_secret_is_shown_once(service: Running) -> None:
    def works(secret: str) -> bool:
        with service.client(secret) as client:
            return client.post(PREDICT, json={"text": "good"}).status_code == 200

    with sign_in(service) as browser:
        html = browser.submit("/keys", name="web-shop <i>", plan="pro", days="30", loop=["toy"]).text
        first = re.search(r"evt_[\w-]{30,}", html)
        assert first
        key_id = re.search(r'name="revoke" value="(key_\w+)"', html.split("web-shop &lt;i&gt;</h2>")[-1])
        assert key_id
        assert works(first.group())
        page = browser.get("/keys").text
        assert first.group() not in page
        mine = " ".join(page.split("web-shop &lt;i&gt;</h2>")[1].split("</section>")[0].split())
        assert "<b>1</b> of 100,000 texts" in mine
        assert f"{datetime.now(UTC) + timedelta(days=30):%Y-%m-%d}" in mine
        assert "49.00 EUR" in mine
        second = re.search(r"evt_[\w-]{30,}", browser.submit("/keys", rotate=key_id.group(1), grace="0").text)
        assert second
        assert (works(first.group()), works(second.group())) == (False, True)
        browser.submit("/keys", revoke=key_id.group(1))
        assert not works(second.group())
        assert browser.submit("/keys", rotate=key_id.group(1)).status_code == 404
        assert browser.submit("/keys", name="x", plan="gold").status_code == 422
        assert browser.submit("/keys", name="x", loop=["nope"]).status_code == 404
        assert browser.submit("/keys", name="a\x00b").status_code == 422


def test_the_page_of_keys_counts_the_log_once_for_itself_and_once_for_the_bills(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    usage = PredictionLog.usage

    def counted(log: PredictionLog, key_id: str | None, since: datetime, until: datetime) -> pd.DataFrame:
        counts.append(since)
        return usage(log, key_id, since, until)

    monkeypatch.setattr(PredictionLog, "usage", counted)
    with sign_in(service) as browser:
        assert browser.get("/keys").status_code == 200
    assert len(counts) == 2


def test_the_statements_of_ended_months_are_pages(service: Running) -> None:
    engine, last_month = open_database(service.settings.database), NOW.replace(day=1) - timedelta(days=1)
    ApiKeys(engine).create("billed <b>", None, last_month - timedelta(days=1), plan="pro")
    (written,) = Statements(engine).write_missing(load_plans(service.settings.plans_file), NOW.replace(day=1, hour=2))
    with sign_in(service) as browser:
        page = " ".join(browser.get("/keys").text.split())
        assert f'<a href="/statements/{written.month}/index.html">{written.month}</a>' in page
        assert "49.00 EUR" in page
        month = browser.get(f"/statements/{written.month}/index.html")
        assert ("billed &lt;b&gt;" in month.text, "<script" in month.text) == (True, False)
        assert "billed &lt;b&gt;" in browser.get(f"/statements/{written.month}/{written.key_id}.html").text
        revenue = browser.get(f"/statements/{written.month}/revenue.csv")
        assert revenue.headers["Content-Disposition"] == f'attachment; filename="{written.month}-revenue.csv"'
        for missing in ("2026-13/index.html", "1999-01/index.html", f"{written.month}/nobody.html",
                        f"{written.month}/index.xml", "..%2F..%2Foperator.token/x.csv"):  # fmt: skip
            assert browser.get(f"/statements/{missing}").status_code == 404
    assert httpx.get(f"{service.url}/statements/{written.month}/index.html").status_code == 303
