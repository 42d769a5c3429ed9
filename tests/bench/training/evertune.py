"""One fine-tuning run of ours, timed from its call, and its answers through the export that would be served."""

import tempfile
import time
from pathlib import Path

from configs.schema import Training
from tasks.core.base_models import resolve_base_model
from tasks.core.export import export_bundle
from tasks.core.fine_tuning import fine_tune
from tasks.core.metrics import expected_calibration_error
from tasks.core.trainer import Progress
from tests.bench.training.problems import Problem
from tests.bench.training.units import Record


def run_evertune(problem: Problem, training: Training) -> Record:
    """Return answers on the test rows, their calibration error, and the curve `timeline`: [seconds, macro-F1] pairs.

    Seconds count from the call, so they include loading the base model, tokenising, choosing the precision, every
    evaluation and every checkpoint written. They end before the export, which has its own. `cpu_timeline` has seconds
    of all threads on the processor, which what else runs on the machine hardly changes.
    """
    base_model = resolve_base_model(training.base_model)
    timeline: list[tuple[float, float]] = []
    cpu_timeline: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        started, cpu_started = time.perf_counter(), time.process_time()

        def note(progress: Progress) -> None:
            if "eval_macro_f1" in progress.metrics:
                timeline.append((time.perf_counter() - started, progress.metrics["eval_macro_f1"]))
                cpu_timeline.append((time.process_time() - cpu_started, progress.metrics["eval_macro_f1"]))

        tuned = fine_tune(
            problem.train, problem.validation, problem.labels, training, base_model, Path(folder) / "run", note
        )
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        predictor = export_bundle(
            tuned.classifier,
            tuned.tokenizer,
            problem.name,
            problem.validation["text"].tolist(),
            problem.numbers(problem.validation),
            Path(folder) / "bundle",
        )
        export_seconds = time.perf_counter() - started - seconds
        probabilities = predictor.predict(problem.test["text"].tolist()).probabilities
    return {
        "answers": probabilities.argmax(1).tolist(),
        "ece": expected_calibration_error(problem.gold, probabilities),
        "validation_macro_f1": tuned.validation_macro_f1,
        "seconds": seconds,
        "export_seconds": export_seconds,
        "timeline": timeline,
        "cpu_seconds": cpu_seconds,
        "cpu_timeline": cpu_timeline,
        "steps": tuned.steps,
        "precision": tuned.precision,
    }
