"""The pages in a real browser: by keyboard and mouse, on a phone, in the dark, without JavaScript."""

from collections.abc import Iterator

import pytest

from tasks.stores.database import open_database
from tasks.stores.labels import Labels
from tasks.stores.prediction_log import PredictionLog
from tests.support.chromium import Tab, find_chromium, run_chromium
from tests.support.serving import OPERATOR, Running, run_service
from tests.support.tiny_bundle import write_tiny_bundle
from tests.support.toy_loop import write_toy_loop

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    loops = write_toy_loop(tmp_path_factory.mktemp("loops"), num_rows=20).parent
    write_tiny_bundle(home / "registry" / "toy" / "1")
    (home / "registry" / "toy" / "champion").write_text("1", encoding="utf-8")
    with run_service(home, loops) as running:
        yield running


@pytest.fixture(scope="module")
def tab(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with run_chromium(tmp_path_factory.mktemp("profile")) as tab:
        tab.go(f"{service.url}/login")
        tab.ask("document.querySelector('#token').focus()")
        tab.type(OPERATOR)
        tab.click("main button", loads=True)
        yield tab


def test_a_text_is_asked_explained_and_corrected_by_clicking(service: Running, tab: Tab) -> None:
    tab.click("nav.main a[href='/playground']", loads=True)
    tab.ask("document.querySelector('#text').focus()")
    tab.type("bad bad good")
    tab.click("main form button", loads=True)
    assert "negative" in tab.text("h2.label")
    assert (tab.text(".words .for2"), tab.text(".words .against4")) == ("bad", "good")
    shade = "getComputedStyle(document.querySelector('.words .for2')).backgroundColor"
    assert tab.ask(shade) not in ("rgba(0, 0, 0, 0)", "")  # the style sheet came through the policy
    tab.click(".feedback button[value='positive']", loads=True)
    assert "Kept as feedback: positive." in tab.text("main")
    log = PredictionLog(open_database(service.settings.database))
    assert log.count_labels("toy") == 1
    assert tab.complaints == []


def test_texts_are_labelled_and_taken_back_by_keyboard(service: Running, tab: Tab) -> None:
    with service.client() as client:
        body = {"inputs": [{"text": f"{word} thing"} for word in ("first", "second", "third")]}
        client.post("/v1/loops/toy/predict", json=body)
    labels = Labels(open_database(service.settings.database))
    tab.go(f"{service.url}/labelling/toy")
    assert "3 texts wait" in tab.text(".desk")
    first = tab.text("blockquote")
    tab.press("2", loads=True)
    assert [label for _, _, label in labels.votes("toy", 10)] == ["positive"]
    assert (tab.text("blockquote") != first, first in tab.text(".last")) == (True, True)
    tab.press("s", loads=True)
    assert "You skipped" in tab.text(".last")
    tab.press("u", loads=True)
    tab.press("u", loads=True)
    assert labels.votes("toy", 10) == []
    assert (tab.text("blockquote"), "3 texts wait" in tab.text(".desk")) == (first, True)
    tab.press("x")
    assert labels.votes("toy", 10) == []
    assert tab.complaints == []


def test_a_key_is_made_copied_once_and_revoked(service: Running, tab: Tab) -> None:
    tab.click("nav.main a[href='/keys']", loads=True)
    tab.ask("document.querySelector('#name').focus()")
    tab.type("shop")
    tab.click(".fields button", loads=True)
    secret = tab.text("#secret")
    with service.client(secret) as client:
        assert client.get("/v1/loops").status_code == 200
    assert tab.ask("!document.querySelector('[data-copy]').hidden") is True
    tab.go(f"{service.url}/keys")
    assert secret not in tab.text()
    card = "[...document.querySelectorAll('.key')].find(e => e.innerText.includes('shop'))"
    tab.ask(f"{card}.id = 'shop'; {card}.querySelectorAll('details')[1].open = true")
    tab.click("#shop .danger", loads=True)
    assert "revoked" in tab.ask(f"{card}.innerText")
    with service.client(secret) as client:
        assert client.get("/v1/loops").status_code == 401


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_phone(service: Running, tab: Tab, language: str, scheme: str) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        for path in ("/", "/loops/toy", "/playground/toy", "/labelling/toy", "/people", "/keys", "/docs"):
            tab.go(f"{service.url}{path}?lang={language}")
            assert tab.ask("document.documentElement.scrollWidth <= innerWidth"), path
            assert tab.ask("document.documentElement.lang") == language
        dark = tab.ask("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(16, 17, 20)") == (scheme == "dark")
        shown = "getComputedStyle(document.querySelector('.chart > .size-narrow')).display"
        tab.go(f"{service.url}/keys")
        assert tab.ask(shown) == "block"
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
        tab.call("Emulation.setEmulatedMedia", features=[])
    assert tab.complaints == []


def test_without_javascript_everything_can_be_read_and_sent(service: Running, tab: Tab) -> None:
    tab.go(f"{service.url}/?lang=en")
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.go(f"{service.url}/labelling/toy")
        assert "texts wait" in tab.text(".desk")
        tab.click(".choices button[value='negative']", loads=True)
        assert "You said" in tab.text(".last")
        tab.click(".last button", loads=True)
        tab.go(f"{service.url}/loops/toy")
        assert "Version 1 serves everyone." in tab.text("main")
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert Labels(open_database(service.settings.database)).votes("toy", 10) == []
