"""A prediction service that only knows the release route: it serves every version but those it is told to refuse."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class AdminStub(ThreadingHTTPServer):
    """Answers release requests; `asked` holds (version, authorization) of each, `checked` the versions asked about.

    `on_check` is called before a question whether a version may serve is answered.
    """

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.refused: set[str] = set()
        self.refuses_to_switch: set[str] = set()  # passes the question, and fails the switch
        self.asked: list[tuple[str, str]] = []
        self.checked: list[str] = []
        self.on_check: Callable[[], object] = lambda: None


@contextmanager
def running_admin_stub(port: int) -> Iterator[AdminStub]:
    """Yield a stub that listens."""
    stub = AdminStub(port)
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        thread.join()
        stub.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: AdminStub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        version = body["version"]
        if body.get("check_only"):
            self.server.on_check()
            self.server.checked.append(version)
        else:
            self.server.asked.append((version, self.headers["Authorization"]))
        fails_to_switch = version in self.server.refuses_to_switch and not body.get("check_only")
        if version in self.server.refused or fails_to_switch:
            self._answer(409, {"status": "refused", "reason": "case 3 differs by 0.4"})
        else:
            self._answer(200, {"status": "serving", "version": version, "previous": None, "checks": {}})

    def log_message(self, format: str, *args: object) -> None:
        return

    def _answer(self, code: int, body: dict[str, object]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
