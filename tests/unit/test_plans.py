"""Plans are checked by line, and taken into use when their file changes."""

import logging
import os
from pathlib import Path

import pytest

from configs.load import ConfigError
from configs.plans import PlanFile, load_plans
from configs.settings import Settings

GOOD = """\
currency: EUR
default_plan: free
plans:
  free:
    requests_per_second: 2
    burst: 10
    texts_per_month: 1000
    beyond: refuse
    monthly_price: 0
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plans.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_plans_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERTUNE_PLANS_FILE", raising=False)
    plans = load_plans(Settings().plans_file, ["product-sentiment"])
    assert list(plans.plans) == ["free", "pro", "business"]
    assert plans.find("pro").window_seconds == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("burst: 10", "burst: 11"), r":4: plans.free: burst 11 is no multiple of requests_per_second 2"),
        (("beyond: refuse", "beyond: bill"), r":4: plans.free: beyond: bill needs price_per_1000_texts"),
        (
            ("beyond: refuse", "beyond: refuse\n    price_per_1000_texts: 1"),
            r":4: plans.free: beyond: refuse takes no price_per_1000_texts",
        ),
        (("monthly_price: 0", "monthly_price: 0.005"), r":9: plans.free.monthly_price: .*2 decimal places"),
        (
            ("texts_per_month: 1000", "text_per_month: 1"),
            r":7: plans.free.text_per_month: unknown key; accepted here: description, ",
        ),
        (("burst: 10", "burst: 10\n    name: x"), r":7: plans.free.name: unknown key; a plan is named by the key"),
        (("EUR", "Euro"), r":1: currency: String should match"),
        (("default_plan: free", "default_plan: gold"), r":2: default_plan: no plan 'gold'; there are: free"),
        (("    burst: 10\n", ""), r":4: plans.free.burst: required, but not given"),
        (("  free:", "  Free:"), r"plans.yaml:4: plans.Free"),
        (("monthly_price: 0", "monthly_price: 0\n    loops: [nope]"), r":10: plans.free.loops.0: .* no loop 'nope'"),
    ],
)
def test_a_problem_is_told_with_its_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_plans(write(tmp_path, GOOD.replace(*change)), ["toy"])


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plans\.yaml: cannot be read"):
        load_plans(tmp_path / "plans.yaml")


def test_a_changed_file_is_read_again_and_a_broken_one_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path, GOOD)
    plans = PlanFile(path)
    path.write_text(GOOD.replace("burst: 10", "burst: 20"), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert plans.read().find("free").burst == 20
    path.write_text("plans: [", encoding="utf-8")
    with caplog.at_level(logging.ERROR):
        assert plans.read().find("free").burst == 20
        assert plans.read().find("free").burst == 20
    assert len(caplog.records) == 1
