"""Shell that ends a search: judges the best trial, shows the change of the loop's file, and makes it where asked."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from configs.edit import change_training, read_text, replace_file, show_difference
from configs.load import find_loop, find_loop_file
from configs.schema import Loop, Training
from configs.settings import Settings
from tasks.core.gain import Gain, choose_recipe, judge_gain
from tasks.core.search import find_file_changes
from tasks.core.search_report import render_page
from tasks.stores.model_registry import open_registry
from tasks.stores.snapshots import Snapshot, SnapshotStore
from tasks.stores.studies import Study, Trial
from tasks.tuning import Searched, open_study, read_bases


@task(name="conclude search", persist_result=False, cache_policy=NO_CACHE)
def conclude_search(config: Loop, loop: str, snapshot: Snapshot, searched: Searched, write: bool) -> dict[str, Any]:
    """Return what the search found, and keep it in MLflow and on the run page.

    With `write`, the best recipe goes into the loop's file when its gain is more than chance would give.
    """
    settings, log = Settings(), get_run_logger()
    study = open_study(config, searched.study, settings)
    trials = study.trials()
    ended = [trial for trial in trials if trial.state in ("complete", "pruned", "failed")]
    complete = [trial for trial in ended if trial.value is not None and trial.state == "complete"]
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    today = next((trial for trial in complete if trial.is_today), None)
    gain = _judge(config, snapshot, study, complete, today, best, settings)
    numbers = best.number if best else None, today.number if today else None
    choice = choose_recipe(*numbers, gain, len(ended), config.gate.confidence)
    path = find_loop_file(loop, settings.loops_dir)
    before = read_text(path)
    changes = _file_changes(config, loop, best)
    after = change_training(before, changes, path) if changes else before
    written = write and choice.change and after != before
    if written:
        replace_file(path, after)
        log.info("%s: changed as the search found", path)
    record = {
        "loop": config.name,
        "study": searched.study,
        "snapshot": snapshot.fingerprint,
        "validation_rows": snapshot.validation,
        "seeds": config.tuning.seeds,
        "stopped": searched.stop_reason,
        "today": today.value if today else None,
        "best": {"trial": best.number, "macro_f1": best.value, "changes": changes} if best else None,
        "gain": vars(gain) if gain else None,
        "better": choice.change,
        "reason": choice.reason,
        "trials": [_row(trial) for trial in trials],
        "importance": study.importance(),
        "file": str(path),
        "diff": show_difference(before, after, path.name),
        "written": written,
        "training_run": searched.run_id,
    }
    _publish(record, study, settings)
    return record


def _judge(
    config: Loop,
    snapshot: Snapshot,
    study: Study,
    complete: Sequence[Trial],
    today: Trial | None,
    best: Trial | None,
    settings: Settings,
) -> Gain | None:
    """Return the gain over today's recipe, or None where there is nothing to compare."""
    if today is None or best is None or today.number == best.number:
        return None
    found = {trial.number: study.answers(trial.number) for trial in complete}
    predicted = {number: answers for number, answers in found.items() if answers is not None}
    if not {today.number, best.number} <= set(predicted):
        return None
    rows = SnapshotStore(settings.snapshots).read_split(snapshot, "validation")
    gold = rows["label"].map(config.labels.index).to_numpy(dtype="int64")
    groups = rows["group"].astype(str).tolist()
    return judge_gain(gold, groups, predicted, today.number, best.number, len(config.labels))


def _file_changes(config: Loop, loop: str, best: Trial | None) -> dict[str, Any]:
    """Return what the loop's file, which knows no `--set`, must say to give the best trial's recipe."""
    if best is None or "training" not in best.facts:
        return {}
    as_written = find_loop(loop, Settings().loops_dir)
    bases = read_bases(as_written.model_copy(update={"tuning": config.tuning}), loop, [])
    return find_file_changes(bases, as_written.training, Training.model_validate_json(best.facts["training"]))


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": "stopped" if trial.state == "running" else trial.state,
        "value": trial.value if trial.state == "complete" else None,
        "today": trial.is_today,
        "changes": trial.facts.get("changes", {}),
        "reason": trial.facts.get("reason"),
        "seconds": trial.seconds,
    }


def _publish(record: dict[str, Any], study: Study, settings: Settings) -> None:
    """Put values, pictures and the change into MLflow, and the page on the flow run."""
    registry, run_id = open_registry(settings), record["training_run"]
    metrics = {"today_macro_f1": record["today"]}
    if record["best"]:
        metrics["best_macro_f1"] = record["best"]["macro_f1"]
    if record["gain"]:
        metrics |= {name: record["gain"][name] for name in ("gain", "standard_error", "chance")}
    known = {name: value for name, value in metrics.items() if value is not None}
    if known:
        registry.log_metrics(run_id, known, 0, int(time.time() * 1000))
    registry.tag_run(run_id, {"reason": record["reason"][:5000], "written": str(record["written"]).lower()})
    page = render_page(record)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "search.md").write_text(page, encoding="utf-8")
        (folder / "best.diff").write_text(record["diff"], encoding="utf-8")
        for file in sorted([*folder.iterdir(), *(study.draw(folder) if record["best"] else [])]):
            registry.attach(run_id, file, "search")
    registry.finish_run(run_id, killed=record["stopped"] is not None)
    create_markdown_artifact(
        key=f"{record['loop']}-tuning", description=f"Search for a better recipe of {record['loop']}", markdown=page
    )
