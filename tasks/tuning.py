"""Shell of the tuning stage: searches for a better recipe, by validation rows alone."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from prefect import get_run_logger, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from configs.load import find_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.errors import DataError
from tasks.core.retrain_plan import code_version
from tasks.core.search import Bases, fixed_for_today, study_key
from tasks.lanes import open_lanes
from tasks.search_run import Search, SearchPlan, Standing
from tasks.stores.model_registry import ModelRegistry, open_registry
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.stores.studies import Study
from tasks.training_rows import Start, find_start, gather_material


@dataclass(frozen=True)
class Searched:
    """A search that came to its end; its trials are in the study."""

    study: str
    run_id: str
    stop_reason: str | None  # None: all trials were made


@contextmanager
def only_tuning(loop: str) -> Iterator[None]:
    """Hold the loop's tuning lock: what stands as running in its studies was then left by a killed search.

    A retrain may run meanwhile: its checkpoints lie in other folders.
    """
    folder = Settings().root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{loop}.tuning.lock", timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"another search for '{loop}' runs with this home; wait for its end") from error


def open_study(config: Loop, key: str, settings: Settings) -> Study:
    """Return a loop's study; a new one begins with today's recipe."""
    file = settings.root / "tuning" / f"{config.name}.db"
    tuning = config.tuning
    fixed = fixed_for_today(tuning.space, config.training)
    return Study(file, key, tuning.space, fixed, config.training.seed, tuning.prune)


def read_bases(config: Loop, loop: str, changes: Sequence[str]) -> Bases:
    """Return the recipe of today under each preset that the space may choose; `loop` is its name or path."""
    searched = config.tuning.space.get("preset")
    names = [str(name) if name is not None else None for name in (searched.choices if searched else None) or []]
    others = {
        name: find_loop(loop, Settings().loops_dir, [*changes, f"training.preset={json.dumps(name)}"]).training
        for name in names
    }
    return {**others, config.training.preset: config.training}


@task(name="search", persist_result=False, cache_policy=NO_CACHE)
def search_recipes(config: Loop, loop: str, changes: Sequence[str], snapshot: Snapshot) -> Searched:
    """Try recipes until the trials or the minutes are used up; a search that was killed or stopped goes on.

    Raises DataError when trials keep failing, and TransientError when the registry is away; trials are kept.
    """
    settings, log = Settings(), get_run_logger()
    registry = open_registry(settings)
    start = _find_start(config, snapshot, registry, settings)
    bases = read_bases(config, loop, changes)
    tuning = config.tuning
    key = study_key(
        snapshot.fingerprint,
        start.version if start else None,
        tuning.space,
        tuning.seeds,
        bases,
        config.training,
        code_version(),
    )
    study = open_study(config, key, settings)
    interrupted = study.redo_interrupted()
    _log_beginning(log, key, len(study.trials()) - 1, len(interrupted))
    for trial in interrupted:
        if "run_id" in trial.facts and registry.resume_run(trial.facts["run_id"]):
            registry.finish_run(trial.facts["run_id"], killed=True)
    place = settings.ray_storage if settings.ray_address and settings.ray_storage else settings.root / "checkpoints"
    folder = place.absolute() / config.name / f"tuning-{key}"
    run_id = _open_run(study, config, key, snapshot, registry)
    start_folder = _write_rows(config, snapshot, start, registry, settings, folder)
    cache = None if settings.ray_address else settings.root / "cache" / "encoded"
    plan = SearchPlan(config, bases, folder, start_folder, cache, run_id)
    search = Search(plan, study, registry, log)
    board = _Board(settings.root / "tuning" / f"{config.name}.progress.json", config.name)
    try:
        with open_lanes(settings, folder) as lanes:
            log.info("%d of %d trials at a time", len(lanes), tuning.trials)
            search.run(lanes, board.show)
    except BaseException:
        registry.finish_run(run_id, failed=True)
        raise
    finally:
        board.close()
        _clean(folder)
    if search.has_given_up:
        registry.finish_run(run_id, failed=True)
        raise DataError(f"{search.stop_reason}\nThe trials are kept; mend the cause and run: evertune tune {loop}")
    return Searched(key, run_id, search.stop_reason)


def _log_beginning(log: Any, key: str, n_known: int, n_interrupted: int) -> None:
    if n_known or n_interrupted:
        log.info("study %s goes on: %d trials known, %d taken up again", key, n_known, n_interrupted)
    else:
        log.info("study %s is new; its first trial is today's recipe", key)


def _find_start(config: Loop, snapshot: Snapshot, registry: ModelRegistry, settings: Settings) -> Start | None:
    if config.training.origin != "champion":
        return None
    champion = registry.find(config.name, "champion")
    tags = registry.tags_by_version(config.name)
    return find_start(config, snapshot, champion, tags, SnapshotStore(settings.snapshots))


def _write_rows(
    config: Loop, snapshot: Snapshot, start: Start | None, registry: ModelRegistry, settings: Settings, folder: Path
) -> Path | None:
    """Write the rows that all trials learn and are judged by; return the weights they start from."""
    folder.mkdir(parents=True, exist_ok=True)
    material = gather_material(config, snapshot, start, registry, settings)
    if isinstance(material.train, Path):
        shutil.copyfile(material.train, folder / "train.parquet")
    else:
        material.train.reset_index(drop=True).to_parquet(folder / "train.parquet")
    validation = SnapshotStore(settings.snapshots).read_split(snapshot, "validation")
    validation.reset_index(drop=True).to_parquet(folder / "validation.parquet")
    return material.start


def _open_run(study: Study, config: Loop, key: str, snapshot: Snapshot, registry: ModelRegistry) -> str:
    """Return the MLflow run of the study: the one of earlier calls, or a new one."""
    known = study.facts.get("run_id")
    if known is not None and registry.resume_run(known):
        return str(known)
    tuning = config.tuning
    params = {f"space.{name}": found.model_dump_json(exclude_none=True) for name, found in tuning.space.items()}
    tags = {"kind": "tuning", "study": key, "snapshot": snapshot.fingerprint, "code_version": code_version()}
    run_id = registry.start_run(config.name, f"tuning {key}", {**params, "seeds": tuning.seeds}, tags)
    registry.log_config(run_id, config.model_dump(mode="json"))
    registry.log_dataset(run_id, config.name, snapshot.fingerprint, snapshot.url, snapshot.counts)
    study.note("run_id", run_id)
    return run_id


def _clean(folder: Path) -> None:
    """Remove rows and logs; folders of trials that will go on stay, and upkeep deletes them after a week."""
    for file in folder.glob("*.*"):
        if file.is_file():
            file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder, ignore_errors=True)


class _Board:
    """Shows how far a search is: on the Prefect run page, and in a file that the command line draws a bar from."""

    def __init__(self, file: Path, loop: str) -> None:
        self._file = file
        self._last: Standing | None = None
        self._artifact = create_progress_artifact(progress=0.0, description=f"Search for a better recipe of {loop}")

    def show(self, standing: Standing) -> None:
        """Take a new standing."""
        partial = self._file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(standing)), encoding="utf-8")
        partial.replace(self._file)
        if self._last is None or int(100 * standing.share) != int(100 * self._last.share):
            update_progress_artifact(self._artifact, progress=100 * standing.share)  # type: ignore[arg-type]
            self._last = standing

    def close(self) -> None:
        """Take the file away."""
        self._file.unlink(missing_ok=True)
