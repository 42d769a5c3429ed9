"""A search while it runs: hands trials to the lanes, takes in what they tell, and knows when it is over."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import Loop
from tasks.core.base_models import resolve_base_model
from tasks.core.errors import DataError
from tasks.core.search import (
    Bases,
    apply_suggestion,
    find_changes,
    place_report,
    recipe_key,
    should_give_up,
)
from tasks.core.trials import Job, Outcome, Report, RunTrial, TrialFailedError, TrialStoppedError
from tasks.stores.model_registry import ModelRegistry
from tasks.stores.studies import Study

CURVES = {"loss", "eval_loss", "eval_macro_f1", "eval_accuracy"}
SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class SearchPlan:
    """What a search needs beside its study; `folder` holds the rows and the trials' own folders."""

    config: Loop
    bases: Bases
    folder: Path
    start: Path | None
    cache: Path | None  # of encoded rows
    run_id: str  # MLflow's, of the search; each trial has one below it


@dataclass(frozen=True)
class Standing:
    """How far a search is; `share` counts the running trials by their steps."""

    finished: int
    trials: int
    share: float
    best: float | None
    best_trial: int | None
    seconds_left: float | None


class Search:
    """One call's part of a study. Lanes are threads; every public method may be called from any of them."""

    def __init__(self, plan: SearchPlan, study: Study, registry: ModelRegistry, log: Any) -> None:
        self._plan, self._study, self._registry, self._log = plan, study, registry, log
        self._tuning = plan.config.tuning
        self._lock = threading.RLock()
        self._started = time.monotonic()
        minutes = self._tuning.minutes
        self._deadline = None if minutes is None else self._started + 60 * minutes
        self._running: dict[int, float] = {}  # share of its steps, by trial
        self._runs: dict[int, str] = {}
        self._pruned: set[int] = set()
        self._failures = 0
        self._first_share = self.standing().share
        self.stop_reason: str | None = None
        self.has_given_up = False  # trials kept failing

    def run(self, lanes: Sequence[RunTrial], show: Callable[[Standing], None]) -> None:
        """Run trials in all lanes until the budget is used up; Ctrl-C ends the search, not the caller."""
        with ThreadPoolExecutor(len(lanes), thread_name_prefix="lane") as pool:
            futures = [pool.submit(self._work, lane) for lane in lanes]
            try:
                self._wait(futures, show)
            except KeyboardInterrupt:
                self.stop("stopped by Ctrl-C")
                self._log.info("stopping; what is known so far comes next")
                self._wait(futures, show)
            except BaseException:
                self.stop("ended from outside")
                raise

    def stop(self, reason: str) -> None:
        """Have every lane let go of its trial; the next search takes those up."""
        with self._lock:
            self.stop_reason = self.stop_reason or reason

    def standing(self) -> Standing:
        """Return how far the search is."""
        with self._lock:
            trials = self._study.trials()
            ended = [trial for trial in trials if trial.state in ("complete", "pruned", "failed")]
            values = [(trial.value, -trial.number) for trial in ended if trial.state == "complete"]
            best = max(((value, rank) for value, rank in values if value is not None), default=None)
            share = min(1.0, (len(ended) + sum(self._running.values())) / self._tuning.trials)
            return Standing(
                len(ended),
                self._tuning.trials,
                share,
                best[0] if best else None,
                -best[1] if best else None,
                self._seconds_left(share),
            )

    def _seconds_left(self, share: float) -> float | None:
        now = time.monotonic()
        done = share - getattr(self, "_first_share", share)
        guess = (now - self._started) * (1 - share) / done if done > 0 else None
        if self._deadline is None:
            return guess
        return max(0.0, min(self._deadline - now, guess if guess is not None else float("inf")))

    def _wait(self, futures: list["Future[None]"], show: Callable[[Standing], None]) -> None:
        running = set(futures)
        while running:  # only those: beside one that failed, `wait` would return at once, again and again
            done, running = wait(running, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                self.stop("a trial could not be kept")
            show(self.standing())
        for future in futures:
            future.result()
        show(self.standing())

    def _work(self, lane: RunTrial) -> None:
        while (job := self._next_job()) is not None:
            try:
                outcome = lane(job, partial(self._take_report, job))
            except TrialStoppedError:
                self._end_stopped(job)
            except TrialFailedError as error:
                self._fail(job.number, str(error), job)
            else:
                self._complete(job, outcome)

    def _next_job(self) -> Job | None:
        with self._lock:
            while not self._is_over():
                number, suggestion, folder = self._study.ask()
                self._running[number] = 0.0
                job = self._prepare(number, suggestion, folder)
                if job is not None:
                    return job
        return None

    def _is_over(self) -> bool:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop(f"{self._tuning.minutes:g} minutes are over")
        started = sum(trial.state != "waiting" for trial in self._study.trials())
        return self.stop_reason is not None or started >= self._tuning.trials

    def _prepare(self, number: int, suggestion: Mapping[str, Any] | None, folder: str) -> Job | None:
        """Return the job of a trial, or None where it needs none: it ended at once."""
        today = self._plan.config.training
        try:
            training = today if suggestion is None else apply_suggestion(self._plan.bases, suggestion, today)
            base_model = resolve_base_model(training.base_model)
        except DataError as error:
            self._study.describe(number, {"changes": dict(suggestion or {})})
            self._fail(number, str(error))
            return None
        changes, recipe = find_changes(today, training), recipe_key(training)
        known = [trial for trial in self._study.trials() if trial.state == "complete"]
        same = [trial for trial in known if trial.facts.get("recipe") == recipe]
        facts = {"changes": changes, "recipe": recipe, "training": training.model_dump_json(by_alias=True)}
        self._study.describe(number, facts)
        answers = self._study.answers(same[0].number) if same else None
        if same and answers is not None and same[0].value is not None:
            self._log.info("trial %d is trial %d again", number, same[0].number)
            self._study.complete(number, same[0].value, answers)
            self._running.pop(number)
            return None
        name = "today" if suggestion is None else f"trial {number}"
        params = {f"training.{key}": value for key, value in training.model_dump(mode="json", by_alias=True).items()}
        self._runs[number] = self._registry.start_run(
            self._plan.config.name, name, params, {"kind": "trial", "trial": str(number)}, self._plan.run_id
        )
        self._study.describe(number, {"run_id": self._runs[number]})
        return Job(
            number,
            training,
            base_model,
            tuple(self._plan.config.labels),
            self._tuning.seeds,
            str(self._plan.folder / "train.parquet"),
            str(self._plan.folder / "validation.parquet"),
            str(self._plan.folder / f"trial-{folder}"),
            str(self._plan.start) if self._plan.start else None,
            str(self._plan.cache) if self._plan.cache else None,
        )

    def _take_report(self, job: Job, report: Report) -> bool:
        with self._lock:
            self._running[job.number] = (report.seed + report.step / max(1, report.num_steps)) / job.seeds
            curves = {name: value for name, value in report.metrics.items() if name in CURVES}
            if curves:
                suffix = f"_seed_{report.seed}" if job.seeds > 1 else ""
                named = {f"{name}{suffix}": value for name, value in curves.items()}
                self._registry.log_metrics(self._runs[job.number], named, report.step, int(time.time() * 1000))
            if self.stop_reason or (self._deadline is not None and time.monotonic() >= self._deadline):
                return False
            if "eval_macro_f1" in report.metrics:
                place = place_report(report.seed, report.metrics.get("epoch", 0.0))
                is_behind = self._study.report(job.number, place, report.metrics["eval_macro_f1"])
                if is_behind and job.training != self._plan.config.training:  # today's recipe is needed whole
                    self._pruned.add(job.number)
                    return False
            return True

    def _complete(self, job: Job, outcome: Outcome) -> None:
        with self._lock:
            self._failures = 0
            self._study.complete(job.number, outcome.value, np.array(outcome.predicted))
            spread = {f"validation_macro_f1_seed_{seed}": value for seed, value in enumerate(outcome.values)}
            self._end(job, "complete", {"validation_macro_f1": outcome.value, **(spread if job.seeds > 1 else {})})

    def _end_stopped(self, job: Job) -> None:
        with self._lock:
            if job.number in self._pruned:
                self._failures = 0
                self._study.prune(job.number)
                self._end(job, "pruned")
            else:
                self._study.leave(job.number)
                self._end(job, "stopped", keep=True)

    def _fail(self, number: int, reason: str, job: Job | None = None) -> None:
        with self._lock:
            self._failures += 1
            self._study.fail(number, reason)
            self._log.warning("trial %d failed: %s", number, reason)
            if job is not None:
                self._end(job, "failed")
            self._running.pop(number, None)
            if should_give_up(self._failures):
                self.has_given_up = True
                self.stop(f"{self._failures} trials in a row failed, the last one: {reason}")

    def _end(self, job: Job, state: str, metrics: Mapping[str, float] | None = None, keep: bool = False) -> None:
        """Close a trial's MLflow run, say how it ended, and remove its folder unless it will go on."""
        self._running.pop(job.number, None)
        run_id = self._runs.pop(job.number)
        if metrics:
            self._registry.log_metrics(run_id, metrics, 0, int(time.time() * 1000))
        self._registry.tag_run(run_id, {"state": state})
        self._registry.finish_run(run_id, failed=state == "failed", killed=state in ("pruned", "stopped"))
        if not keep:
            shutil.rmtree(job.folder, ignore_errors=True)
        if state == "failed":
            return
        standing = self.standing()
        changes = find_changes(self._plan.config.training, job.training)
        shown = ", ".join(f"{key} {value}" for key, value in changes.items()) or "today's recipe"
        value = f"macro-F1 {metrics['validation_macro_f1']:.4f}" if metrics else state
        best = "none yet" if standing.best is None else f"{standing.best:.4f} (trial {standing.best_trial})"
        left = f", about {_clock(standing.seconds_left)} left" if standing.seconds_left else ""
        self._log.info(
            "trial %d (%d of %d): %s, best %s: %s%s",
            job.number, standing.finished, standing.trials, value, best, shown, left,
        )  # fmt: skip


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
