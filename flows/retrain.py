"""From today's data to a judged, registered and, where the gate says so, served model."""

from typing import Any, Literal

from prefect import flow
from pydantic import BaseModel, Field

from configs.load import find_loop_file
from configs.settings import Settings
from tasks.conclusion import conclude_skipped, conclude_trained, promote_challenger
from tasks.data import read_loop, take_snapshot
from tasks.deciding import weigh_schedule
from tasks.evaluation import evaluate_challenger
from tasks.registry import register_challenger
from tasks.training import fine_tune_challenger, only_retrain, plan_training


class RetrainChanges(BaseModel):
    """What this one retrain does differently from the loop's YAML; empty fields keep the YAML's value."""

    base_model: str | None = Field(None, description="package:NAME, a folder, or a hub id")
    method: Literal["full", "lora"] | None = Field(None, description="Train all weights, or a low-rank update")
    epochs: float | None = Field(None, gt=0, le=100, description="Passes over the training rows")
    learning_rate: float | None = Field(None, gt=0, lt=1, description="Peak learning rate of the encoder")
    batch_size: int | None = Field(None, ge=1, le=4096, description="Rows per step")
    seed: int | None = Field(None, description="Seed of order and initial weights")
    set: list[str] = Field([], description="Any other key of the YAML, as key=value: gate.min_macro_f1=0.7")

    def as_settings(self) -> list[str]:
        """Return the changes as key=value, as the command line takes them."""
        named = self.model_dump(exclude={"set"}, exclude_none=True)
        return [f"training.{key}={value}" for key, value in named.items()] + self.set


@flow(name="retrain", persist_result=True, result_serializer="json")
def retrain(
    loop: str,
    changes: RetrainChanges = RetrainChanges(),  # noqa: B008 - a frozen default that Prefect shows in its form
    started_by: Literal["schedule", "drift", "accuracy", "labels", "erasure", "person"] = "person",
    force: bool = False,
) -> dict[str, Any]:
    """Take a snapshot of the data, fine-tune, judge against the champion, register, and release what wins.

    Args:
        loop: Name of the loop, a file of the loops folder without .yaml.
        changes: What this retrain does differently from the YAML.
        started_by: What asked for this retrain; the ledger keeps it.
        force: Train even if data, configuration and code are those of the champion.
    """
    settings = Settings()
    config = read_loop(loop, changes.as_settings())
    taken = take_snapshot(config, find_loop_file(loop, settings.loops_dir).parent, settings)
    with only_retrain(config.name):
        plan = weigh_schedule(config, taken.snapshot, plan_training(config, taken.snapshot, force), started_by)
        if plan.why_not:
            return conclude_skipped(config, taken, plan, started_by)
        challenger = fine_tune_challenger(config, taken.snapshot, plan)
        evaluation = evaluate_challenger(config, taken.snapshot, challenger)
        registered = register_challenger(config, taken.snapshot, challenger, evaluation)
        promotion = promote_challenger(config, registered, evaluation)
    return conclude_trained(config, taken, challenger, evaluation, registered, promotion, started_by)
