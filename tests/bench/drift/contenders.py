"""Who judges the windows: our tests as the monitor runs them, Evidently's default for texts, and alibi-detect's MMD.

A contender answers each window with a score, the larger the more it looks like drift, and with whether it fires as it
is set by default. The others know no groups, so their own thresholds promise nothing here: compared are also the
windows that pass the quantile of the score on null windows of that size which gives everyone the same false-alarm rate.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from configs.schema import Monitoring
from tasks.core.permutations import Floats, can_fire
from tasks.core.readers import Readers
from tasks.core.window_drift import run_tests
from tests.bench.drift.corpora import Corpus

Answer = tuple[float, bool]
Judge = Callable[[Corpus, Corpus, int], Answer]  # reference, current, seed


def list_contenders(rules: Monitoring, rivals: Path | None) -> Mapping[str, Judge | None]:
    """Return the judges; None for a library that is not there."""
    if rivals is not None:
        sys.path.append(str(rivals.absolute()))  # behind what is pinned
    return {"evertune": partial(_judge_ours, rules), "evidently": _open_evidently(), "alibi": _open_alibi()}


def _judge_ours(rules: Monitoring, reference: Corpus, current: Corpus, seed: int) -> Answer:
    groups = [len(set(side.groups)) for side in (reference, current)]
    if not can_fire(num_reference_groups=groups[0], num_current_groups=groups[1], alpha=rules.alpha):
        return 0.0, False
    tests = run_tests(
        current=_as_frame(current),
        reference=_as_frame(reference),
        rules=rules,
        readers=Readers(_refuse, represent=_refuse),
        seed=seed,
    )
    return 1 - min(test.p_value for test in tests), any(test.fires for test in tests)


def _as_frame(side: Corpus) -> pd.DataFrame:
    return side.rows.assign(embedding=list(side.embeddings), representation=list(side.representations))


def _refuse(_texts: Sequence[str]) -> Floats:
    raise AssertionError("the bench brings its vectors along")


def _open_evidently() -> Judge | None:
    try:
        from evidently.legacy.utils.data_drift_utils import calculate_text_drift_score
    except ImportError:
        return None

    def judge(reference: Corpus, current: Corpus, _seed: int) -> Answer:
        """Run the domain classifier that `ValueDrift` of a text column runs by default."""
        is_small = len(reference.rows) <= 1000  # beyond, it is not compared with random classifiers
        score, fires = calculate_text_drift_score(reference.rows["text"], current.rows["text"], bootstrap=is_small)
        return float(score), bool(fires)

    return judge


def _open_alibi() -> Judge | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from alibi_detect.cd import MMDDrift
    except ImportError:
        return None

    def judge(reference: Corpus, current: Corpus, seed: int) -> Answer:
        """Run it as it comes: 100 permutations of rows, p-value 0.05, on the same frozen vectors as ours."""
        import torch

        torch.manual_seed(seed)
        found = MMDDrift(reference.embeddings, backend="pytorch", device="cpu").predict(current.embeddings)["data"]
        return float(found["distance"]), bool(found["is_drift"])

    return judge
