"""A headless Chromium that is clicked and typed into over its DevTools protocol; needs no driver."""

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_SECONDS = 60.0
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--remote-debugging-port=0", "--disable-background-networking", "--disable-component-update")  # fmt: skip


def find_chromium() -> str | None:
    """Return the path of an installed browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page of the browser. What the page's console complains of is kept in `complaints`."""

    def __init__(self, connection: Connection) -> None:
        self.complaints: list[str] = []
        self._connection = connection
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._number = 0
        self._loads = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": values}))
        while True:
            answer = self._answers.get(timeout=WAIT_SECONDS)
            if answer["id"] == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                result: dict[str, Any] = answer["result"]
                return result

    def go(self, url: str) -> None:
        """Load a page and wait until it is complete."""
        self._loading(lambda: self.call("Page.navigate", url=url))

    def click(self, selector: str, loads: bool = False) -> None:
        """Press the mouse on an element; `loads`: and wait for the page that follows."""
        box = self.ask(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        place = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}

        def press() -> None:
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, **place)

        self._loading(press) if loads else press()

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, loads: bool = False) -> None:
        """Press a key of the keyboard."""

        def strike() -> None:
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, text=key if kind == "keyDown" else "")

        self._loading(strike) if loads else strike()

    def ask(self, expression: str) -> Any:
        """Return what a JavaScript expression gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """Return the text that an element shows; empty where there is none."""
        return str(self.ask(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def _loading(self, act: Any) -> None:
        before = self._loads
        act()
        deadline = time.monotonic() + WAIT_SECONDS
        waiting = threading.Event()
        while self._loads == before:
            assert time.monotonic() < deadline, "no page was loaded"
            waiting.wait(0.02)

    def _listen(self) -> None:
        try:
            for message in self._connection:
                self._note(json.loads(message))
        except ConnectionClosed:
            return

    def _note(self, heard: dict[str, Any]) -> None:
        if "id" in heard:
            self._answers.put(heard)
        elif heard["method"] == "Page.loadEventFired":
            self._loads += 1
        elif heard["method"] == "Log.entryAdded" and heard["params"]["entry"]["level"] in ("error", "warning"):
            self.complaints.append(heard["params"]["entry"]["text"])
        elif heard["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(heard["params"]["exceptionDetails"]))


@contextmanager
def run_chromium(folder: Path, language: str = "en-GB") -> Iterator[Tab]:
    """Yield a tab of a new browser whose profile lies in a folder."""
    path = find_chromium()
    assert path is not None
    command = [
        path,
        *FLAGS,
        f"--user-data-dir={folder}",
        f"--lang={language}",
        f"--accept-lang={language}",
        "about:blank",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    drain = threading.Thread(target=process.stderr.read)
    try:
        line = next(line for line in process.stderr if "DevTools listening on" in line)
        drain.start()  # a full pipe would stop the browser
        port = line.split("127.0.0.1:")[1].split("/")[0]
        pages = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_SECONDS).json()
        target = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        with connect(target, max_size=None, open_timeout=WAIT_SECONDS, proxy=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(timeout=WAIT_SECONDS)
        if drain.ident is not None:
            drain.join(timeout=WAIT_SECONDS)
        process.stderr.close()
