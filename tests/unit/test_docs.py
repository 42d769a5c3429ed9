"""The README is tested: what it names is there, and what is there it names."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from configs.schema import Loop
from configs.settings import Settings
from infra.cli import app

README = Path("README.md").read_text(encoding="utf-8")
VERBS = sorted(getattr(get_command(app), "commands"))  # noqa: B009 - click's Group, which typer's type hides


def test_every_verb_is_in_the_readme() -> None:
    assert len(VERBS) >= 15
    assert [verb for verb in VERBS if f"evertune {verb}" not in README] == []


def test_every_command_in_the_readme_is_a_verb() -> None:
    assert set(re.findall(r"`evertune ([a-z]+)", README)) <= set(VERBS)


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert {"up", "test", "demo", "check", "bench"} <= named <= targets


@pytest.mark.parametrize("section", sorted({*Loop.model_fields} - {"behaviour"}))  # the cases have their own file
def test_every_section_of_a_loop_is_shown_by_the_shipped_yaml(section: str) -> None:
    document = yaml.safe_load(Path("configs/loops/product-sentiment.yaml").read_text(encoding="utf-8"))
    assert section in document


def test_variables_named_in_the_readme_are_settings() -> None:
    known = {f"EVERTUNE_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"EVERTUNE_[A-Z_]*[A-Z]", README)) - {"EVERTUNE_ALERT_URL", "EVERTUNE_API_KEY"}
    assert named <= known


def test_no_placeholder_is_left() -> None:
    assert re.findall(r"@[A-Z0-9]+@", README) == []
