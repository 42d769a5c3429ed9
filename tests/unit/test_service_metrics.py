"""What Prometheus is told of a version that serves or is on its way: one series per loop, and none that is stale."""

from dataclasses import replace
from datetime import UTC, datetime

from infra.serving.metrics import Metrics
from tasks.stores.releases import StagedRelease

NOW = datetime(2026, 11, 24, tzinfo=UTC)
SHADOW = StagedRelease("r1", "toy", "7", "6", "shadow", "ann", "better", "release", NOW, NOW, None, "", {})


def series(metrics: Metrics, name: str) -> set[str]:
    lines = metrics.render().decode().splitlines()
    return {line.removeprefix(name) for line in lines if line.startswith(name + "{")}


def test_a_release_has_one_series_until_it_ends() -> None:
    metrics, other = Metrics(), replace(SHADOW, loop="intents", version="2", stage="canary")
    metrics.show_release("toy", None)
    assert series(metrics, "evertune_release_stage") == set()
    metrics.show_release("toy", SHADOW)
    metrics.show_release("intents", other)
    metrics.show_release("toy", replace(SHADOW, stage="canary"))
    theirs = '{loop="intents",stage="canary",version="2"} 1.0'
    assert series(metrics, "evertune_release_stage") == {theirs, '{loop="toy",stage="canary",version="7"} 1.0'}
    metrics.show_release("toy", None)
    assert series(metrics, "evertune_release_stage") == {theirs}


def test_a_swap_leaves_the_new_version_alone() -> None:
    metrics = Metrics()
    for loop, version in (("toy", "6"), ("intents", "2"), ("toy", "7")):
        metrics.show_version(loop, version)
    assert series(metrics, "evertune_served_version") == {
        '{loop="intents",version="2"} 1.0',
        '{loop="toy",version="7"} 1.0',
    }
