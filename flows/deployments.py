"""Registers each loop with Prefect: deployments with forms and schedules, and a process work pool to run them.

Registering again changes what the YAML changed and keeps what a person paused in the UI.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.annotations import freeze
from prefect.workers.process import ProcessWorker

from configs import schema
from configs.settings import WORK_POOL
from flows.approve import approve
from flows.monitor import monitor
from flows.release import release, rollback
from flows.retrain import retrain
from flows.score import score
from flows.tune import tune
from flows.upkeep import upkeep

OWNER_TAG = "evertune"  # on everything that this module registers
SCHEDULE_SLUG = "from-yaml"
ENQUEUE, CANCEL_NEW = ConcurrencyLimitStrategy.ENQUEUE, ConcurrencyLimitStrategy.CANCEL_NEW


@dataclass(frozen=True)
class Plan:
    """One deployment as it should be."""

    flow: Flow[..., Any]
    name: str
    description: str
    collision: ConcurrencyLimitStrategy | None  # None: any number of runs at once
    parameters: dict[str, Any]
    tags: tuple[str, ...]
    schedule: schema.Schedule | None = None
    scheduled_parameters: tuple[tuple[str, Any], ...] = ()

    @property
    def full_name(self) -> str:
        """Return the name that `run_deployment` takes."""
        return f"{self.flow.name}/{self.name}"


def loop_tag(loop: str) -> str:
    """Return the tag on all flow runs of a loop's deployments."""
    return f"loop:{loop}"


def plan_deployments(loops: Sequence[schema.Loop]) -> list[Plan]:
    """Return the deployments that a set of loops needs."""
    plans = [plan for loop in loops for plan in _plan_loop(loop)]
    description = (
        "Delete predictions, reports and checkpoints that are past their time; write the statements of ended months. "
        "Every night, for all loops."
    )
    nightly = schema.Schedule(cron="30 3 * * *")
    tags = (OWNER_TAG, *(loop_tag(loop.name) for loop in loops))  # it works for all, so its failure alerts all
    return [*plans, Plan(upkeep, "evertune", description, CANCEL_NEW, {}, tags, nightly)]


def register(loops: Sequence[schema.Loop], prune: bool, report: Callable[[str], None]) -> None:
    """Create or update every deployment; with `prune`, delete those of loops whose YAML is gone."""
    plans = plan_deployments(loops)
    with get_client(sync_client=True) as client:
        for plan in plans:
            _apply(client, plan)
        if prune:
            _delete_others(client, {plan.full_name for plan in plans}, report)


def register_work_pool(working_dir: Path) -> None:
    """Create the pool whose worker runs flows as processes of this interpreter."""
    template = ProcessWorker.get_default_base_job_template()
    properties = template["variables"]["properties"]
    properties["command"]["default"] = f"{sys.executable} -m prefect.engine"  # 3 s faster than the default
    properties["working_dir"]["default"] = str(working_dir)
    properties["stream_output"]["default"] = False  # a flow run then outlives a killed worker
    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template)
        client.create_work_pool(pool, overwrite=True)


def _plan_loop(loop: schema.Loop) -> list[Plan]:
    """Return a loop's deployments: six with limit 1, and where people approve, one without a limit.

    Retrains, releases, searches and files to score wait for each other: what a person or drift asked for must not get
    lost, and a queued nightly retrain ends at once when nothing is new. A monitor run that comes too late has nothing
    to add. A run that waits for days for an answer must not keep a newer one from asking.
    """
    asked = [_plan_approval(loop)] if loop.release.approval == "required" else []
    fixed = {"loop": freeze(loop.name)}  # shown in the form, but a run cannot be pointed at another loop
    tags = (OWNER_TAG, loop_tag(loop.name))
    by_schedule = (("loop", loop.name), ("started_by", "schedule"))
    return [
        Plan(
            retrain,
            loop.name,
            f"{loop.description}\n\nSnapshot, fine-tune, judge against the champion, register, release what wins. "
            f"The same from a terminal: `evertune retrain {loop.name} --set training.epochs=1`",
            ENQUEUE,
            fixed,
            (*tags, "retrain"),
            loop.retraining.schedule,
            by_schedule,
        ),
        Plan(
            monitor,
            loop.name,
            "Compare the newest logged texts with the champion's test rows, report, alert, and start a retrain where "
            f"the rules say so. The same from a terminal: `evertune monitor {loop.name}`",
            CANCEL_NEW,
            fixed,
            (*tags, "monitor"),
            loop.monitoring.schedule,
        ),
        Plan(
            release,
            loop.name,
            "Make the service answer with a registered version, after its checks; the old one serves on if they fail. "
            f"The same from a terminal: `evertune release {loop.name} VERSION`",
            ENQUEUE,
            fixed,
            (*tags, "release"),
        ),
        Plan(
            rollback,
            loop.name,
            "Go back to the version that served before, or to a version of your choice. "
            f"The same from a terminal: `evertune rollback {loop.name}`",
            ENQUEUE,
            fixed,
            (*tags, "rollback"),
        ),
        Plan(
            score,
            loop.name,
            "Label every row of a csv, jsonl or parquet file with the champion; the result is written beside it. "
            f"The same from a terminal: `evertune score {loop.name} FILE`",
            ENQUEUE,
            fixed,
            (*tags, "score"),
        ),
        Plan(
            tune,
            loop.name,
            "Try recipes from `tuning.space` on validation rows, and show the best one as a change of the loop's YAML. "
            f"The same from a terminal: `evertune tune {loop.name} --trials {loop.tuning.trials}`",
            ENQUEUE,
            fixed,
            (*tags, "tune"),
        ),
        *asked,
    ]


def _plan_approval(loop: schema.Loop) -> Plan:
    description = (
        "Ask a person whether a version that the gate lets through may serve. Retrains start it; the answer is given "
        f"behind Resume on the page of the run that waits. The same from a terminal: `evertune approve {loop.name}`"
    )
    return Plan(
        approve, loop.name, description, None, {"loop": freeze(loop.name)}, (OWNER_TAG, loop_tag(loop.name), "approve")
    )


def _apply(client: SyncPrefectClient, plan: Plan) -> None:
    existing = _find(client, plan.full_name)
    deployment = plan.flow.to_deployment(
        name=plan.name,
        work_pool_name=WORK_POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        description=plan.description,
        tags=list(plan.tags),
        parameters=dict(plan.parameters),
        concurrency_limit=(
            ConcurrencyLimitConfig(limit=1, collision_strategy=plan.collision) if plan.collision else None
        ),
        paused=existing.paused if existing else False,
        schedules=_schedules(plan, existing),
    )
    if isinstance(deployment, RunnerDeployment):  # as it is where no event loop runs
        deployment.apply()
    if existing and plan.schedule is None:
        _delete_schedule(client, existing)


def _schedules(plan: Plan, existing: DeploymentResponse | None) -> list[Any]:
    """Return the schedule of the YAML, active unless a person paused it."""
    if plan.schedule is None:
        return []
    former = [entry.active for entry in existing.schedules if entry.slug == SCHEDULE_SLUG] if existing else []
    return [
        Cron(
            plan.schedule.cron,
            timezone=plan.schedule.timezone,
            slug=SCHEDULE_SLUG,
            active=all(former),
            parameters=dict(plan.scheduled_parameters),
        )
    ]


def _find(client: SyncPrefectClient, full_name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None


def _delete_schedule(client: SyncPrefectClient, existing: DeploymentResponse) -> None:
    """Delete the YAML's former schedule: applying an empty list would leave it."""
    for schedule in existing.schedules:
        if schedule.slug == SCHEDULE_SLUG:
            client.delete_deployment_schedule(existing.id, schedule.id)


def _delete_others(client: SyncPrefectClient, wanted: set[str], report: Callable[[str], None]) -> None:
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[OWNER_TAG]))
    for deployment in client.read_deployments(deployment_filter=ours, limit=200):
        full_name = f"{client.read_flow(deployment.flow_id).name}/{deployment.name}"
        if full_name not in wanted:
            client.delete_deployment(deployment.id)
            report(f"deployment {full_name} deleted: its loop's YAML is gone")
