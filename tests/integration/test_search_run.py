"""A search with real stores and lanes of a few lines: what it does when trials fall behind, fail, or are cut short."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import mlflow
import pytest

from configs.schema import Loop, SearchRange
from tasks.core.errors import TransientError
from tasks.core.search import Bases, fixed_for_today
from tasks.core.trials import Job, Outcome, Report, Tell, TrialFailedError, TrialStoppedError
from tasks.search_run import Search, SearchPlan, Standing
from tasks.stores.model_registry import ModelRegistry
from tasks.stores.studies import Study
from tests.support.loops import make_loop

SPACE = {"learning_rate": SearchRange(low=1e-5, high=1e-2, log=True), "batch_size": SearchRange(choices=[8, 16])}
log = logging.getLogger("test")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    folder = tmp_path_factory.mktemp("mlflow")
    return ModelRegistry(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")


def loop(trials: int, **tuning: Any) -> Loop:
    document = make_loop().model_dump(by_alias=True, exclude={"behaviour"})
    return Loop.model_validate({**document, "tuning": {"trials": trials, "space": SPACE, **tuning}})


def open_study(folder: Path, config: Loop) -> Study:
    fixed = fixed_for_today(config.tuning.space, config.training)
    return Study(folder / "tuning" / "tiny-loop.db", "key", config.tuning.space, fixed, 13, config.tuning.prune)


def open_search(folder: Path, registry: ModelRegistry, config: Loop) -> tuple[Search, Study]:
    study = open_study(folder, config)
    run_id = registry.start_run(config.name, "tuning", {}, {})
    bases: Bases = {None: config.training}
    return Search(SearchPlan(config, bases, folder / "trials", None, None, run_id), study, registry, log), study


def learn(job: Job, tell: Tell, value: float | None = None, evaluations: int = 6) -> Outcome:
    """Reach a value that the learning rate decides, step by step; this is all that a lane has to do."""
    reached = value if value is not None else min(0.9, job.training.learning_rate * 100)
    (Path(job.folder)).mkdir(parents=True, exist_ok=True)
    for step in range(1, evaluations + 1):
        measured = {"epoch": step / 2, "eval_macro_f1": reached * step / evaluations}
        if not tell(Report(0, step, evaluations, 0.0, measured)):
            raise TrialStoppedError
    return Outcome([reached], [[0, 1, 1]], "cpu")


def show(_standing: Standing) -> None:
    pass


def test_trials_and_what_mlflow_keeps_of_them(tmp_path: Path, registry: ModelRegistry) -> None:
    search, study = open_search(tmp_path, registry, loop(5))
    standings: list[Standing] = []
    search.run([learn], standings.append)
    trials = study.trials()
    assert [trial.state for trial in trials] == ["complete"] * 5
    assert [trial.is_today for trial in trials] == [True] + [False] * 4
    assert trials[0].facts["changes"] == {}
    assert standings[-1].share == 1.0
    assert standings[-1].best == max(trial.value or 0 for trial in trials)
    client = mlflow.MlflowClient(registry._uri)
    runs = [client.get_run(trial.facts["run_id"]) for trial in trials]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert [run.info.run_name for run in runs] == ["today", *(f"trial {number}" for number in range(1, 5))]
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {search._plan.run_id}
    assert runs[0].data.metrics["validation_macro_f1"] == pytest.approx(trials[0].value)
    assert len(client.get_metric_history(runs[0].info.run_id, "eval_macro_f1")) == 6
    assert not list((tmp_path / "trials").iterdir())


def test_a_search_goes_on_where_it_was_cut_and_suggests_the_same(tmp_path: Path, registry: ModelRegistry) -> None:
    in_one_go, whole = open_search(tmp_path / "a", registry, loop(6, prune=False))
    in_one_go.run([learn], show)
    first, _ = open_search(tmp_path / "b", registry, loop(3, prune=False))
    first.run([learn], show)
    second, study = open_search(tmp_path / "b", registry, loop(6, prune=False))
    second.run([learn], show)
    assert [trial.facts["changes"] for trial in study.trials()] == [trial.facts["changes"] for trial in whole.trials()]
    third, study = open_search(tmp_path / "b", registry, loop(6, prune=False))
    third.run([learn], show)
    assert len(study.trials()) == 6


def test_trials_that_fall_behind_are_ended_but_never_todays(tmp_path: Path, registry: ModelRegistry) -> None:
    def lane(job: Job, tell: Tell) -> Outcome:
        return learn(job, tell, 0.1 if job.number in (0, 6) else 0.8 + job.number / 1000)

    search, study = open_search(tmp_path, registry, loop(7))
    search.run([lane], show)
    assert [trial.state for trial in study.trials()] == ["complete"] * 6 + ["pruned"]
    run = mlflow.MlflowClient(registry._uri).get_run(study.trials()[6].facts["run_id"])
    assert (run.info.status, run.data.tags["state"]) == ("KILLED", "pruned")
    assert search.standing().best_trial == 5


def test_a_failed_trial_is_recorded_and_three_in_a_row_end_the_search(tmp_path: Path, registry: ModelRegistry) -> None:
    def lane(job: Job, tell: Tell) -> Outcome:
        if job.number in (1, 2, 4, 5, 6):
            raise TrialFailedError("OutOfMemoryError: 2 GiB more were needed")
        return learn(job, tell)

    search, study = open_search(tmp_path, registry, loop(20))
    search.run([lane], show)
    states = [trial.state for trial in study.trials()]
    assert states == ["complete", "failed", "failed", "complete", "failed", "failed", "failed"]
    assert search.has_given_up
    assert search.stop_reason == "3 trials in a row failed, the last one: OutOfMemoryError: 2 GiB more were needed"
    assert study.trials()[1].facts["reason"] == "OutOfMemoryError: 2 GiB more were needed"
    run = mlflow.MlflowClient(registry._uri).get_run(study.trials()[1].facts["run_id"])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("how", ["Ctrl-C", "minutes"])
def test_a_search_that_is_stopped_keeps_what_it_knows_and_takes_the_trial_up_again(
    how: str, tmp_path: Path, registry: ModelRegistry
) -> None:
    config = loop(4, minutes=None if how == "Ctrl-C" else 60)
    search, study = open_search(tmp_path, registry, config)
    interrupted, started = False, threading.Event()

    def lane(job: Job, tell: Tell) -> Outcome:
        if job.number == 2:
            started.set()
        if job.number == 2 and how == "minutes":
            search._deadline = 0.0
        while job.number == 2 and how == "Ctrl-C" and search.stop_reason is None:
            tell(Report(0, 1, 6, 0.0, {}))
        return learn(job, tell)

    def press(standing: Standing) -> None:
        nonlocal interrupted
        if how == "Ctrl-C" and started.is_set() and not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    search.run([lane], press)
    assert search.stop_reason == ("stopped by Ctrl-C" if how == "Ctrl-C" else "60 minutes are over")
    assert [trial.state for trial in study.trials()] == ["complete", "complete", "running"]
    left = study.trials()[2].facts
    assert Path(tmp_path / "trials" / f"trial-{left['folder']}").is_dir()

    study = open_study(tmp_path, config)
    assert [trial.number for trial in study.redo_interrupted()] == [2]
    seen: list[Job] = []

    def watched(job: Job, tell: Tell) -> Outcome:
        seen.append(job)
        return learn(job, tell)

    again, study = open_search(tmp_path, registry, config)
    again.run([watched], show)
    assert [trial.state for trial in study.trials()] == ["complete"] * 4
    assert seen[0].folder.endswith(f"trial-{left['folder']}")  # its checkpoints are there
    assert study.trials()[2].facts["changes"] == left["changes"]


def test_a_trial_that_kills_its_process_twice_is_failed(tmp_path: Path, registry: ModelRegistry) -> None:
    config = loop(3)
    study = open_study(tmp_path, config)
    for attempt in (1, 2):
        number, suggestion, folder = study.ask()  # and the process is gone
        assert (suggestion, folder) == (None, "0")
        study = open_study(tmp_path, config)
        assert [trial.number for trial in study.redo_interrupted()] == [number]
        assert number == attempt - 1
    assert [(trial.state, trial.facts.get("reason")) for trial in study.trials()] == [
        ("failed", "its process was killed 2 times")
    ]
    search, study = open_search(tmp_path, registry, config)
    search.run([learn], show)
    assert [trial.state for trial in study.trials()] == ["failed", "complete", "complete"]


def test_the_same_recipe_is_not_trained_twice(tmp_path: Path, registry: ModelRegistry) -> None:
    space = {"batch_size": SearchRange(choices=[8, 16])}
    document = make_loop().model_dump(by_alias=True, exclude={"behaviour"})
    config = Loop.model_validate({**document, "tuning": {"trials": 6, "space": space}})
    search, study = open_search(tmp_path, registry, config)
    trained: list[int] = []

    def lane(job: Job, tell: Tell) -> Outcome:
        trained.append(job.training.batch_size)
        return learn(job, tell, job.training.batch_size / 100)

    search.run([lane], show)
    assert sorted(trained) == [8, 16]
    assert [trial.state for trial in study.trials()] == ["complete"] * 6
    assert {trial.value for trial in study.trials()} == {0.08, 0.16}


def test_an_unreachable_store_ends_the_search_and_loses_no_trial(tmp_path: Path, registry: ModelRegistry) -> None:
    def lane(job: Job, tell: Tell) -> Outcome:
        if job.number == 1:
            raise TransientError("MLflow could not log metrics: gone")
        return learn(job, tell)

    config = loop(4)
    search, study = open_search(tmp_path, registry, config)
    with pytest.raises(TransientError, match="gone"):
        search.run([lane], show)
    assert [trial.state for trial in study.trials()] == ["complete", "running"]
    assert [trial.number for trial in open_study(tmp_path, config).redo_interrupted()] == [1]


def test_todays_recipe_that_failed_is_tried_again_by_the_next_search(tmp_path: Path, registry: ModelRegistry) -> None:
    def lane(job: Job, tell: Tell) -> Outcome:
        if job.number == 0:
            raise TrialFailedError("OutOfMemoryError: 2 GiB more were needed")
        return learn(job, tell)

    first, _ = open_search(tmp_path, registry, loop(2))
    first.run([lane], show)
    for _ in range(2):  # two searches that end before their first trial queue it once
        assert open_study(tmp_path, loop(2)).redo_interrupted() == []
    second, study = open_search(tmp_path, registry, loop(4))
    second.run([learn], show)
    found = [(trial.state, trial.is_today) for trial in study.trials()]
    assert found == [("failed", True), ("complete", False), ("complete", True), ("complete", False)]


def test_a_search_does_not_spin_while_it_waits_for_the_lanes_beside_a_failed_one(
    tmp_path: Path, registry: ModelRegistry
) -> None:
    search, _ = open_search(tmp_path, registry, loop(4))
    looks: list[Standing] = []
    failed, slow = Future[None](), Future[None]()
    failed.set_exception(TransientError("MLflow could not log metrics: gone"))
    threading.Timer(0.7, slow.set_result, [None]).start()
    with pytest.raises(TransientError, match="gone"):
        search._wait([failed, slow], looks.append)
    assert search.stop_reason == "a trial could not be kept"
    assert len(looks) <= 4  # a look every half second, and the last one


def test_lanes_share_one_study(tmp_path: Path, registry: ModelRegistry) -> None:
    search, study = open_search(tmp_path, registry, loop(6))
    lanes: list[Callable[[Job, Tell], Outcome]] = [learn, learn, learn]
    search.run(lanes, show)
    assert len(study.trials()) == 6
    assert study.importance().keys() <= SPACE.keys()
    assert sorted(path.name for path in study.draw(tmp_path)) == ["curves.png", "history.png", "keys.png"]
