"""A registry with versions to move between, made once: registering takes MLflow seconds."""

from pathlib import Path

import pytest

from configs.settings import Settings
from tasks.stores.model_registry import open_registry
from tests.support.ports import free_port
from tests.support.versions import register_tiny_version


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose registry holds versions 1, 2 and 3 of the toy loop; whoever uses it sets the aliases."""
    home = tmp_path_factory.mktemp("store")
    registry = open_registry(Settings(home=home, mlflow_port=free_port()))
    for number in ("1", "2", "3"):
        assert register_tiny_version(registry, home / "made" / number, "toy", ["negative", "positive"]) == number
    return home
