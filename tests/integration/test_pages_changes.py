"""The page of a window: what changed, with examples read afresh, so that an erased text is gone from it at once."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tasks.core.drift_decisions import DriftDecision
from tasks.stores.database import open_database
from tasks.stores.drift_decisions import DriftDecisions
from tasks.stores.ledger import Ledger, ReportRow
from tasks.stores.prediction_log import PredictionLog
from tests.support.monitored import make_predictions
from tests.support.pages import sign_in
from tests.support.serving import Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

NOW = datetime.now(UTC)
TOPIC: dict[str, Any] = {"reference": 0.0, "current": 0.4, "outcome": "came", "reference_examples": []}
EXPLANATION: dict[str, Any] = {
    "new": {"estimate": 0.41, "at_least": 0.33},
    "lengths": [{"part": "median", "reference": 15.0, "current": 9.0}],
    "words_came": [{"word": "tablet", "reference": 0.0, "current": 0.404}],
    "words_went": [],
    "topics": [TOPIC | {"words": ["tablet", "<b>pen</b>"], "current_examples": ["1-0-0", "1-0-1", "gone"]}],
    "keys": [{"key_id": "key_unknown", "n": 200, "share": 1.0, "new": 0.41}],
    "note": "",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    loops = write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20).parent
    write_tiny_bundle(home / "registry" / "toy" / "1")
    (home / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    with run_service(home, loops) as running:
        engine = open_database(running.settings.database)
        PredictionLog(engine).append(make_predictions(["my tablet froze", "a <i>tablet</i> pen"]))
        window = {"n": 200, "groups": 50, "is_vote": True, "from": None, "to": NOW.isoformat()}
        record: dict[str, Any] = {
            "tests": [{"name": "outputs", "p_value": 0.001, "effect": 0.2, "fires": True}],
            "accuracy": {"measured": None, "interval": None, "estimated": 0.8, "band": [0.7, 0.9], "n_labelled": 0},
            "decision": {"action": "wait", "reason": "muted", "flow_run_id": None},
            "window": window,
            "report_url": "http://x/r1",
            "reference": {"kind": "test rows", "n": 120, "report_id": None, "note": "", "snapshot": None},
            "explanation": EXPLANATION,
        }
        Ledger(engine).append_report(ReportRow("r1", NOW, "toy", "1", "drift", True, record))
        Ledger(engine).append_report(ReportRow("r0", NOW, "toy", "1", "ok", False, record | {"explanation": None}))
        decision = DriftDecision(NOW, "mute", "eve", "a <campaign>", until=NOW.replace(year=NOW.year + 1))
        DriftDecisions(engine).keep("toy", decision)
        yield running


def test_what_changed_is_shown_with_examples_until_they_are_erased(service: Running) -> None:
    with sign_in(service) as browser:
        page = browser.get("/loops/toy/windows/r1").text
        for shown in ("41 %", "at least 33 %", "tablet", "40.4 %", "my tablet froze", "key_unknown", "test rows"):
            assert shown in page
        assert "&lt;b&gt;pen" in page
        assert "a &lt;i&gt;tablet&lt;/i&gt; pen" in page
        assert page.count("<blockquote") == 2  # the third is past keeping
        PredictionLog(open_database(service.settings.database)).erase(prediction_id="1-0-0")
        page = browser.get("/loops/toy/windows/r1").text
        assert "my tablet froze" not in page
        assert page.count("<blockquote") == 1


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_loops_page_leads_to_it_and_tells_of_the_mute(service: Running, language: str) -> None:
    with sign_in(service, language=language) as browser:
        page = browser.get("/loops/toy").text
        assert 'href="/loops/toy/windows/r1"' in page
        assert 'href="/loops/toy/windows/r0"' not in page
        assert "words that came: tablet (0% → 40%)" in page
        assert "drift is muted until" in page
        assert "a &lt;campaign&gt;" in page
        assert browser.get("/loops/toy/windows/r1").status_code == 200


@pytest.mark.parametrize("report_id", ["r0", "r9", "..%2Fr1"])
def test_a_window_without_explanation_is_not_found(service: Running, report_id: str) -> None:
    with sign_in(service) as browser:
        assert browser.get(f"/loops/toy/windows/{report_id}").status_code == 404


def test_only_the_operator_sees_it(service: Running) -> None:
    response = httpx.get(f"{service.url}/loops/toy/windows/r1")
    assert (response.status_code, response.headers["Location"]) == (303, "/login?next=/loops/toy/windows/r1")
