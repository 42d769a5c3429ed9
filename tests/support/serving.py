"""A prediction service on a free port, fed from a folder instead of MLflow.

python -m tests.support.serving HOME LOOPS PORT     the same as a process of its own
"""

import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from configs.settings import Settings
from infra.serving.app import create_app
from tasks.core.errors import DataError, TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
from tasks.stores.model_registry import ModelVersion
from tests.support.ports import free_port

OPERATOR = "operator-token-of-the-tests"


class FolderRegistry:
    """A registry whose versions are folders and whose champion alias is a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, loop: str, alias: str) -> ModelVersion | None:
        if (self.folder / "unreachable").exists():
            raise TransientError("MLflow could not be asked")
        file = self.folder / loop / alias
        return self.get(loop, file.read_text(encoding="utf-8")) if file.exists() else None

    def get(self, loop: str, version: str) -> ModelVersion:
        if not (self.folder / loop / version).is_dir():
            raise DataError(f"no version {version} of {loop}")
        return ModelVersion(loop, version, "run", f"models:/m-{version}")

    def fetch_bundle(self, version: ModelVersion, cache: Path) -> Path:
        target = cache / version.loop / version.version / "bundle"
        if not target.exists():
            shutil.copytree(self.folder / version.loop / version.version, target)
        return target

    def set_alias(self, loop: str, alias: str, version: str) -> None:
        partial = self.folder / loop / "partial"
        partial.write_text(version, encoding="utf-8")
        partial.replace(self.folder / loop / alias)

    def delete_alias(self, loop: str, alias: str) -> None:
        (self.folder / loop / alias).unlink()

    def set_champion(self, loop: str, version: str) -> None:
        self.set_alias(loop, "champion", version)


@dataclass(frozen=True)
class Running:
    """A service that answers."""

    url: str
    settings: Settings
    registry: FolderRegistry
    key: str
    app: Any = None

    def client(self, secret: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {secret or self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30.0)


def make_settings(home: Path, loops: Path, port: int) -> Settings:
    return Settings.model_validate(
        {
            "home": home,
            "loops_dir": loops,
            "api_port": port,
            "operator_token": OPERATOR,
            "alias_poll_seconds": 0.2,
            "serving_threads": 1,
        }
    )


@contextmanager
def run_service(home: Path, loops: Path, wait: bool = True) -> Iterator[Running]:
    """Run the service in a thread of this process, by default until it is ready."""
    settings = make_settings(home, loops, free_port())
    registry = FolderRegistry(home / "registry")
    _, key = ApiKeys(open_database(settings.database)).create("tests", None, datetime.now(UTC))
    server = make_server(settings, registry)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if wait:
            wait_until_ready(settings.api)
        yield Running(settings.api, settings, registry, key, server.config.app)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def make_server(settings: Settings, registry: FolderRegistry) -> uvicorn.Server:
    app = create_app(settings, lambda: registry)
    config = uvicorn.Config(app, host="127.0.0.1", port=settings.api_port, log_config=None, access_log=False)
    return uvicorn.Server(config)


def wait_until_ready(url: str, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    waiting = threading.Event()
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=2.0).is_success:
                return
        except httpx.TransportError:
            pass
        waiting.wait(0.05)
    raise AssertionError(f"{url} is not ready after {timeout_seconds} s")


if __name__ == "__main__":
    own_home, own_loops, own_port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    make_server(make_settings(own_home, own_loops, own_port), FolderRegistry(own_home / "registry")).run()
