"""A Prefect server that only takes events, and can be told to refuse them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EventSink(ThreadingHTTPServer):
    """Keeps what is posted to /api/events; answers 503 while `is_down`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.is_down = False
        self.refusals = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]


@contextmanager
def running_event_sink() -> Iterator[EventSink]:
    """Yield a sink that listens."""
    sink = EventSink()
    thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield sink
    finally:
        sink.shutdown()
        thread.join()
        sink.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: EventSink

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        takes = self.path == "/api/events" and not self.server.is_down
        if takes:
            self.server.events += body
        else:
            self.server.refusals += 1
        self.send_response(204 if takes else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return
