"""Which engine serves a version: each answers the validation rows, and the fastest faithful one wins.

`bundle/engines.json` keeps what was measured; `predictor.json` names the choice.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from configs.schema import Gate, Release, Serving
from tasks.core.engines import ENGINES, FILES, REFERENCE, explain_absence
from tasks.core.errors import DataError
from tasks.core.metrics import confusion_matrix, macro_f1
from tasks.core.predictor import Prediction, Predictor, read_manifest, write_manifest, write_whole

logger = logging.getLogger(__name__)
TABLE = "engines.json"
MAX_TEXTS = 1000  # that every engine answers; the first ones
NUM_SINGLE = 12  # texts that are timed alone
NUM_BATCHES = 3  # batches that are timed
ROUNDS = 3  # engines take turns, and each text's or batch's shortest time counts: the machine does other work too
FIT_BATCH = 16  # texts of the batch that the cost of a call is told from
MIN_CALL_TOKENS = 1.0
Clock = Callable[[], float]


@dataclass(frozen=True)
class EngineLimits:
    """How far an engine's answers may be from those of onnx-fp32 on the same rows."""

    min_agreement: float  # share of rows with the same answer
    max_difference: float  # of any row's probabilities
    max_macro_f1_loss: float


@dataclass(frozen=True)
class Trial:
    """What one engine was measured to do: a row of the table. None: not measured."""

    engine: str
    why_not: str = ""  # empty: it may serve
    is_chosen: bool = False
    agreement: float | None = None
    largest_difference: float | None = None
    macro_f1: float | None = None
    single_texts_per_second: float | None = None  # one text per call
    batch_texts_per_second: float | None = None  # full batches in order of arrival
    batch_size: int | None = None
    call_tokens: float | None = None  # what a call costs, in tokens
    size_mb: float | None = None

    @property
    def passes(self) -> bool:
        """Return whether the engine may serve."""
        return not self.why_not


def engine_limits(gate: Gate, release: Release, serving: Serving) -> EngineLimits:
    """Return the loop's limits: an engine beyond them would make the gate or the service refuse the version."""
    difference = min(gate.max_parity_difference, release.max_case_difference)
    return EngineLimits(gate.min_parity, difference, serving.engine_max_macro_f1_loss)


def list_candidates(asked: str, share_weights: bool) -> list[str]:
    """Return the engines to measure: the reference first, and those that the loop allows."""
    if asked == REFERENCE or share_weights:
        return [REFERENCE]
    return list(ENGINES) if asked == "auto" else [REFERENCE, asked]


def judge(
    trial: Trial, ours: Prediction, reference: Prediction, gold: npt.NDArray[np.int64], limits: EngineLimits
) -> Trial:
    """Return the trial with its agreement, difference and macro-F1, and why the engine must not serve."""
    agreement = float(np.mean([a == b for a, b in zip(ours.answers, reference.answers, strict=True)]))
    difference = float(np.abs(ours.probabilities - reference.probabilities).max())
    f1, reference_f1 = (_macro_f1(side, gold) for side in (ours, reference))
    problems = []
    if agreement < limits.min_agreement:
        problems.append(f"agrees on {agreement:.2%} of {len(gold)} rows, {limits.min_agreement:.2%} needed")
    if difference > limits.max_difference:
        problems.append(f"differs by up to {difference:.4f}, {limits.max_difference:.4f} allowed")
    if reference_f1 - f1 > limits.max_macro_f1_loss:
        problems.append(f"loses {reference_f1 - f1:.4f} macro-F1, {limits.max_macro_f1_loss:.4f} allowed")
    return replace(trial, why_not="; ".join(problems), agreement=agreement, largest_difference=difference, macro_f1=f1)


def choose(trials: Sequence[Trial], asked: str) -> list[Trial]:
    """Return the trials with one of them chosen: the one asked for if it passes, else the one fastest in full batches.

    Where the engine that was asked for does not pass, it is the reference.
    """
    able = [trial for trial in trials if trial.passes and asked in ("auto", trial.engine, REFERENCE)]
    wanted = [trial for trial in able if trial.engine == asked]
    if asked == "auto":
        wanted = sorted(able, key=lambda trial: -(trial.batch_texts_per_second or 0.0))
    chosen = wanted[0].engine if wanted else REFERENCE
    return [replace(trial, is_chosen=trial.engine == chosen) for trial in trials]


def measure_engines(
    folder: Path,
    asked: str,
    texts: Sequence[str],
    gold: npt.NDArray[np.int64],
    limits: EngineLimits,
    threads: int,
    batch_size: int,
    make: Mapping[str, Callable[[], None]],
    clock: Clock = time.perf_counter,
) -> list[Trial]:
    """Measure the candidates of a bundle that onnx-fp32 answers, let it serve the choice, and keep the table with it.

    `make` writes what an engine needs beyond the bundle's files. What the engines that were not chosen needed is
    deleted. A candidate that fails in any way is a row that says why, never an error.
    """
    texts, gold = list(texts)[:MAX_TEXTS], gold[:MAX_TEXTS]
    manifest = read_manifest(folder)
    trials: dict[str, Trial] = {}
    predictors: dict[str, Predictor] = {}
    answers: dict[str, Prediction] = {}
    for name in list_candidates(asked, manifest.shares_weights):
        try:
            predictor = _load(folder, name, threads, make)
            call_tokens = measure_call(predictor, texts, batch_size, clock)
            predictor = predictor.reading(call_tokens=call_tokens)
            answers[name] = predictor.predict(texts, batch_size)
        except Exception as error:  # an engine raises what it likes, and another one will do
            if name == REFERENCE:
                raise
            trials[name] = Trial(name, f"{'' if isinstance(error, DataError) else f'{type(error).__name__}: '}{error}")
            continue
        trial = Trial(name, batch_size=batch_size, call_tokens=call_tokens, size_mb=_size_mb(folder / FILES[name]))
        predictors[name] = predictor
        trials[name] = judge(trial, answers[name], answers[REFERENCE], gold, limits)
    for name, (single, batch) in _time(predictors, texts, batch_size, clock).items():
        trials[name] = replace(trials[name], single_texts_per_second=single, batch_texts_per_second=batch)
    table = choose(list(trials.values()), asked)
    use_choice(folder, table)
    return table


def use_choice(folder: Path, table: Sequence[Trial]) -> None:
    """Let a bundle serve with the chosen trial's engine: table first, then the choice, then what is not needed goes.

    Whoever reads the bundle meanwhile, or after a kill, finds it whole.
    """
    (chosen,) = (trial for trial in table if trial.is_chosen)
    write_whole(folder / TABLE, json.dumps([asdict(trial) for trial in table], ensure_ascii=False, indent=1))
    manifest = replace(read_manifest(folder), engine=chosen.engine, call_tokens=chosen.call_tokens)
    write_manifest(folder, manifest)
    for name in set(FILES.values()) - {FILES[REFERENCE], FILES[chosen.engine]}:
        _remove(folder / name)
    _log(table)


def refuse_choice(table: Sequence[Trial], why: str) -> list[Trial]:
    """Return the table with the reference chosen in the place of an engine that turned out not to pass."""
    return [
        replace(trial, is_chosen=trial.engine == REFERENCE, why_not=why if trial.is_chosen else trial.why_not)
        for trial in table
    ]


def read_table(folder: Path) -> list[Trial]:
    """Return what was measured when the bundle was made; nothing for one that is older than engines."""
    path = folder / TABLE
    return [Trial(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def measure_call(predictor: Predictor, texts: Sequence[str], batch_size: int, clock: Clock) -> float:
    """Return what a call of the engine costs, in tokens: from single texts and one batch, as a straight line.

    Endless where a whole batch takes no longer than a single text.
    """
    unsplit = predictor.reading(call_tokens=None, long_texts="truncate")
    single = list(texts[:NUM_SINGLE])
    batch = list(texts[: min(batch_size, FIT_BATCH)])
    if len(batch) < 2:
        return MIN_CALL_TOKENS
    step = predictor.engine.token_step
    lengths = [-(-int(n) // step) * step for n in unsplit.predict(single, batch_size).n_tokens]
    longest = -(-int(unsplit.predict(batch, batch_size).n_tokens.max()) // step) * step
    alone = float(np.mean([_shortest(unsplit, [text], batch_size, clock) for text in single]))
    together = _shortest(unsplit, batch, batch_size, clock)
    num_alone, num_together = float(np.mean(lengths)), longest * len(batch)
    per_token = (together - alone) / (num_together - num_alone) if num_together > num_alone else 0.0
    if per_token <= 0:
        return float(batch_size * predictor.manifest.max_tokens)
    return max(MIN_CALL_TOKENS, alone / per_token - num_alone)


def _time(
    predictors: Mapping[str, Predictor], texts: Sequence[str], batch_size: int, clock: Clock
) -> dict[str, tuple[float, float]]:
    """Return texts per second of every engine, alone and in full batches; the engines take turns."""
    single = [[text] for text in texts[:NUM_SINGLE]]
    starts = range(0, min(len(texts), NUM_BATCHES * batch_size), batch_size)
    batches = [list(texts[start : start + batch_size]) for start in starts]
    seconds = {name: np.full((ROUNDS, len(single) + len(batches)), np.inf) for name in predictors}
    for round_number in range(ROUNDS):
        for name, predictor in predictors.items():
            for place, asked in enumerate(single + batches):
                started = clock()
                predictor.predict(asked, batch_size)
                seconds[name][round_number, place] = max(clock() - started, 1e-9)
    found = {}
    for name, measured in seconds.items():
        best = measured.min(0)
        num_batched = sum(map(len, batches))
        found[name] = len(single) / float(best[: len(single)].sum()), num_batched / float(best[len(single) :].sum())
    return found


def _shortest(predictor: Predictor, texts: list[str], batch_size: int, clock: Clock) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = clock()
        predictor.predict(texts, batch_size)
        seconds.append(clock() - started)
    return min(seconds)


def _load(folder: Path, name: str, threads: int, make: Mapping[str, Callable[[], None]]) -> Predictor:
    absent = explain_absence(name)
    if absent is not None:
        raise DataError(absent)
    if name in make:
        make[name]()
    return Predictor.load(folder, threads, engine=name)


def _macro_f1(prediction: Prediction, gold: npt.NDArray[np.int64]) -> float:
    counts = confusion_matrix(gold, prediction.probabilities.argmax(1), len(prediction.labels))
    return float(macro_f1(counts))


def _size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _log(table: Sequence[Trial]) -> None:
    for trial in table:
        speed = f"{trial.batch_texts_per_second:.0f} texts/s" if trial.batch_texts_per_second else "not timed"
        verdict = "serves" if trial.is_chosen else trial.why_not or "slower"
        logger.info("engine %s: %s; %s", trial.engine, speed, verdict)
