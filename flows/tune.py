"""Searches for a better recipe, judged by validation rows; test rows are never read."""

from typing import Any

from prefect import flow
from pydantic import BaseModel, Field

from configs.edit import refuse_temporary
from configs.load import find_loop_file
from configs.settings import Settings
from tasks.data import read_loop, take_snapshot
from tasks.tuning import only_tuning, search_recipes
from tasks.tuning_result import conclude_search


class TuneChanges(BaseModel):
    """What this search does differently from the loop's YAML; empty fields keep the YAML's value."""

    trials: int | None = Field(None, ge=1, description="Trials of the study, those of earlier searches included")
    minutes: float | None = Field(None, gt=0, description="Time for this search; what runs then is taken up next time")
    set: list[str] = Field([], description="Any key of the YAML, as key=value: tuning.seeds=3")

    def as_settings(self) -> list[str]:
        """Return the changes as key=value, as the command line takes them."""
        named = self.model_dump(exclude={"set"}, exclude_none=True)
        return self.set + [f"tuning.{key}={value}" for key, value in named.items()]


@flow(name="tune", persist_result=True, result_serializer="json")
def tune(
    loop: str,
    changes: TuneChanges = TuneChanges(),  # noqa: B008 - a frozen default that Prefect shows in its form
    write: bool = False,
) -> dict[str, Any]:
    """Try recipes from `tuning.space`, say what the best one gains on validation rows, and show it as a change.

    Args:
        loop: Name of the loop, a file of the loops folder without .yaml.
        changes: What this search does differently from the YAML.
        write: Write the best recipe into the loop's file, if its gain is more than chance gives; not with training keys
            among the changes, which are meant for one run.
    """
    if write:
        refuse_temporary(changes.set)
    settings = Settings()
    config = read_loop(loop, changes.as_settings())
    taken = take_snapshot(config, find_loop_file(loop, settings.loops_dir).parent, settings)
    with only_tuning(config.name):
        searched = search_recipes(config, loop, changes.as_settings(), taken.snapshot)
        return conclude_search(config, loop, taken.snapshot, searched, write)
