import os
from pathlib import Path

import pytest

pytest_plugins = ["tests.support.stack_fixtures", "tests.support.release_fixtures"]
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as every process of the stack: servers and tests share the cores

TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="rewrite the golden losses (make golden)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folder is the marker: unit, integration, model, e2e."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
