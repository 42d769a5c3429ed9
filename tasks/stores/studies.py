"""The trials of a loop's searches, kept by Optuna in one SQLite file per loop; nothing else in the house knows Optuna.

A search holds its loop's lock, so a trial that stands as running in the file was left by a killed or stopped search.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.core.search import Space, should_redo, suggest

logger = logging.getLogger(__name__)
State = Literal["running", "complete", "pruned", "failed", "waiting"]
STARTUP_TRIALS = 5  # complete trials before the median rule ends any
WARMUP_TENTHS = 10  # tenths of an epoch that every trial gets
MIN_FOR_IMPORTANCE = 4  # complete trials
BUSY_SECONDS = 60  # that a reader may hold the file


@dataclass(frozen=True)
class Trial:
    """One trial as the file holds it; `facts` are the texts and numbers that the search gave it."""

    number: int
    state: State
    value: float | None
    facts: dict[str, Any]
    seconds: float | None

    @property
    def is_today(self) -> bool:
        """Return whether this is the loop's own configuration."""
        return bool(self.facts.get("today"))


class Study:
    """One search; `today` holds the values of the loop's own configuration, as far as the space holds them."""

    def __init__(self, file: Path, key: str, space: Space, fixed: Mapping[str, Any], seed: int, prune: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._space = space
        self._fixed = dict(fixed)
        self._seed = seed
        self._answers = file.parent / f"{file.stem}.answers" / key
        self._live: dict[int, optuna.Trial] = {}
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{file}", engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}}
        )
        median = optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_TENTHS)
        self._study = optuna.create_study(
            storage=storage,
            study_name=key,
            direction="maximize",
            load_if_exists=True,
            pruner=median if prune else optuna.pruners.NopPruner(),
        )
        if not self._study.get_trials(deepcopy=False):
            self._study.enqueue_trial(self._fixed, user_attrs={"today": True})

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is kept with the study."""
        return dict(self._study.user_attrs)

    def note(self, name: str, value: Any) -> None:
        """Keep something with the study."""
        self._study.set_user_attr(name, value)

    def redo_interrupted(self) -> list[Trial]:
        """Queue again what was running when a search was killed or stopped; return those trials.

        One that was killed too often is failed: it may be what kills the machine. Today's recipe is queued again where
        it failed in an earlier search: without its value no gain can be judged.
        """
        if not any(trial.is_today and trial.state in ("complete", "running", "waiting") for trial in self.trials()):
            self._study.enqueue_trial(self._fixed, user_attrs={"today": True})
        left = [trial for trial in self._study.get_trials() if trial.state == TrialState.RUNNING]
        for trial in left:
            attempts = int(trial.user_attrs.get("attempts", 1))
            stopped = bool(trial.user_attrs.get("stopped"))  # by a person or the clock: that says nothing against it
            if stopped or should_redo(attempts):
                kept = {name: trial.user_attrs[name] for name in ("today", "folder") if name in trial.user_attrs}
                kept["attempts"] = attempts + (not stopped)
                self._tell(trial.number, TrialState.FAIL, redone=True)
                self._study.enqueue_trial(trial.params or self._fixed, user_attrs=kept)
            else:
                self._tell(trial.number, TrialState.FAIL, reason=f"its process was killed {attempts} times")
        return [_as_trial(trial) for trial in left]

    def ask(self) -> tuple[int, dict[str, Any] | None, str]:
        """Start the next trial; return its number, its suggestion (None: today's configuration) and its folder's name.

        The sampler is seeded by how many came before, so a search that was resumed suggests what one in one go would.
        """
        asked = sum(trial.state != "waiting" for trial in self.trials())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.sampler = optuna.samplers.TPESampler(seed=self._seed + asked)
        trial = self._study.ask()
        self._live[trial.number] = trial
        is_today = bool(trial.user_attrs.get("today"))
        suggestion = suggest(trial, self._space, self._fixed if is_today else None)
        folder = str(trial.user_attrs.get("folder", trial.number))
        trial.set_user_attr("folder", folder)
        return trial.number, None if is_today else suggestion, folder

    def describe(self, number: int, facts: Mapping[str, Any]) -> None:
        """Keep facts with a running trial."""
        for name, value in facts.items():
            self._live[number].set_user_attr(name, value)

    def report(self, number: int, place: int, value: float) -> bool:
        """Take an evaluation; return whether the trial falls behind the others and should end."""
        trial = self._live[number]
        if place in self._study.get_trials(deepcopy=False)[number].intermediate_values:
            return False  # a trial that goes on after a kill measures its last step again
        trial.report(value, place)
        return bool(trial.should_prune())

    def complete(self, number: int, value: float, predicted: npt.NDArray[np.int64]) -> None:
        """End a trial with its value and its answers to the validation rows."""
        self._answers.mkdir(parents=True, exist_ok=True)
        np.save(self._answers / f"{number}.npy", predicted.astype(np.int16), allow_pickle=False)
        self._study.tell(number, value)
        self._live.pop(number, None)

    def prune(self, number: int) -> None:
        """End a trial that falls behind."""
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that could not be finished."""
        self._tell(number, TrialState.FAIL, reason=reason)

    def leave(self, number: int) -> None:
        """Let go of a trial that the search was stopped in: the next one takes it up."""
        self._live.pop(number).set_user_attr("stopped", True)

    def trials(self) -> list[Trial]:
        """Return the trials in order; without those that were queued again."""
        return [
            _as_trial(trial) for trial in self._study.get_trials(deepcopy=False) if not trial.user_attrs.get("redone")
        ]

    def answers(self, number: int) -> npt.NDArray[np.int64] | None:
        """Return a complete trial's classes of the validation rows [S, N], or None where the file is gone."""
        file = self._answers / f"{number}.npy"
        return np.load(file, allow_pickle=False).astype(np.int64) if file.is_file() else None

    def importance(self) -> dict[str, float]:
        """Return how much of the trials' spread each key explains, largest first; {} for too few trials."""
        complete = [trial for trial in self.trials() if trial.state == "complete"]
        if len(complete) < MIN_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(self._study)
            except (ValueError, RuntimeError) as error:  # a key with one value, or trials of unlike keys
                logger.info("no parameter importance: %s", error)
                return {}
        return {name: float(share) for name, share in found.items()}

    def draw(self, folder: Path) -> list[Path]:
        """Write pictures of the search as PNG and return them: values by trial, by key, and their curves."""
        import matplotlib.pyplot as plt
        from optuna.visualization import matplotlib as pictures

        kinds = {
            "history": pictures.plot_optimization_history,
            "keys": pictures.plot_slice,
            "curves": pictures.plot_intermediate_values,
        }
        files = []
        for name, draw in kinds.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                drawn = draw(self._study)
            figure = np.ravel(np.asarray(drawn, dtype=object))[0].get_figure()
            files.append(folder / f"{name}.png")
            figure.savefig(files[-1], dpi=110, bbox_inches="tight")
            plt.close(figure)
        return files

    def _tell(self, number: int, state: TrialState, **facts: Any) -> None:
        trial = self._live.pop(number, None)
        if trial is None:
            frozen = self._study.get_trials(deepcopy=False)[number]
            trial = optuna.Trial(self._study, frozen._trial_id)
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        self._study.tell(number, state=state)


def _as_trial(frozen: FrozenTrial) -> Trial:
    states: dict[TrialState, State] = {
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.WAITING: "waiting",
    }
    duration = frozen.duration.total_seconds() if frozen.duration is not None else None
    return Trial(frozen.number, states[frozen.state], frozen.value, dict(frozen.user_attrs), duration)
