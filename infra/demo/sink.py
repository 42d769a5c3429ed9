"""A local HTTP address that receives the demo's alerts, as a webhook of the user's would."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class AlertSink:
    """The alerts that arrived, oldest first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[dict[str, Any]] = []

    @property
    def apprise_url(self) -> str:
        """Return the address as a channel's Apprise URL."""
        return f"json://127.0.0.1:{self.port}/alerts"

    def find(self, words: str) -> dict[str, Any] | None:
        """Return the first alert that holds some words."""
        return next((alert for alert in list(self.received) if words in json.dumps(alert, ensure_ascii=False)), None)


@contextmanager
def open_sink() -> Iterator[AlertSink]:
    """Yield a sink that listens on a free port of 127.0.0.1."""
    sink = AlertSink(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Keep the body."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                sink.received.append(json.loads(body))
            except ValueError:
                sink.received.append({"raw": body.decode("utf-8", errors="replace")})
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent: the story tells what arrived."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)
