"""Which automations a channel gets, and that each failure has one that hears it."""

from pathlib import Path
from typing import Any, get_args

import pytest

from configs.load import load_loop
from configs.schema import Channel
from flows.automations import plan_alerts
from flows.deployments import plan_deployments
from tasks.alerts import Kind

YAML = Path("configs/loops/product-sentiment.yaml")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (["drift"], [{"evertune.drift"}]),
        (["drift", "failed"], [{"evertune.drift"}, {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}]),
        (["failed"], [{"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}]),
    ],
)
def test_a_channel_hears_the_events_that_it_names(events: Any, expected: list[set[str]]) -> None:
    alerts = plan_alerts("toy", Channel(name="ops", url_from="OPS_URL", events=events))
    assert [alert.trigger.expect for alert in alerts] == expected


def test_a_channel_hears_every_event_that_is_emitted() -> None:
    own, _ = plan_alerts("toy", Channel(name="ops", url_from="OPS_URL"))
    assert own.trigger.expect == {f"evertune.{kind}" for kind in get_args(Kind)}


def test_every_deployments_failure_is_heard_by_each_loop_that_it_serves() -> None:
    loops = [load_loop(YAML), load_loop(YAML, ["name=other"])]
    plans = plan_deployments(loops)
    for loop in loops:
        _, failed = plan_alerts(loop.name, Channel(name="ops", url_from="OPS_URL"))
        related: Any = failed.trigger.match_related
        wanted = related.root if hasattr(related, "root") else related
        tag = wanted["prefect.resource.id"].removeprefix("prefect.tag.")
        heard = {plan.flow.name for plan in plans if tag in plan.tags}
        assert heard == {"retrain", "tune", "monitor", "release", "rollback", "score", "upkeep"}
