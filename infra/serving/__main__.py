"""`python -m infra.serving`: the prediction service of this machine."""

import logging
import sys

import uvicorn

from configs.load import ConfigError
from configs.settings import Settings
from infra.preflight import read_settings
from infra.serving.app import create_app
from infra.serving.slots import Registry
from tasks.core.errors import TransientError

SHUTDOWN_SECONDS = 15


def main() -> int:
    """Serve until a signal; return 2 for a wrong configuration and 1 when the database cannot be opened."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line per look at the registry
    try:
        settings = read_settings()
        app = create_app(settings, lambda: _open_registry(settings))
    except (ConfigError, TransientError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.api_port,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
    )
    return 0


def _open_registry(settings: Settings) -> Registry:
    from tasks.stores.model_registry import open_registry  # mlflow takes seconds to import; the port opens first

    return open_registry(settings)


if __name__ == "__main__":
    raise SystemExit(main())
