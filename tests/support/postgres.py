"""A PostgreSQL server of one's own, where the machine has one installed."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.errors import TransientError
from tasks.stores.database import open_database
from tests.support.ports import free_port

OPEN_SECONDS = 60


@contextmanager
def run_postgres(folder: Path) -> Iterator[str]:
    """Yield the URL of a server whose data lie in a folder, kept between runs."""
    user = "nobody" if os.geteuid() == 0 else None  # the server refuses to run as root
    folder.mkdir(parents=True, exist_ok=True)
    if user is not None:
        shutil.chown(folder, user)
        for parent in folder.parents:
            if not parent.stat().st_mode & 0o001:  # pytest makes its folders for their owner only
                parent.chmod(0o711)
    options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    data, port = folder / "data", free_port()
    if not data.is_dir():
        subprocess.run(["initdb", "-D", data, "-U", "evertune", "-A", "trust", "--no-sync"], check=True, **options)
    process = subprocess.Popen(["postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "", "-F"], **options)
    url = f"postgresql+psycopg://evertune@127.0.0.1:{port}/postgres"
    try:
        _wait_until_open(url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_until_open(url: str) -> None:
    until = time.monotonic() + OPEN_SECONDS
    while True:
        try:
            open_database(url).dispose()
        except TransientError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
