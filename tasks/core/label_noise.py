"""Training rows whose label looks wrong: confident learning (Northcutt et al. 2021, arXiv:1911.00068) by cleanlab.

Each row is judged by a model that saw no row of its group.

Shapes: N rows, C classes.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.schema import Augmentation, Training
from tasks.core.errors import DataError

Floats = npt.NDArray[np.floating]
Judge = Callable[[pd.DataFrame, pd.DataFrame], Floats]  # (known rows, judged rows) to the judged rows' probabilities
EPOCHS = 1.0
NUM_WATCHED = 64  # judged rows that the trainer evaluates on; with one evaluation there is nothing to choose
SUSPECT_COLUMNS = ["row_id", "label", "suggested", "score", "source", "text"]


def judge_out_of_fold(rows: pd.DataFrame, labels: Sequence[str], folds: int, seed: int, judge: Judge) -> Floats:
    """Return each row's class probabilities [N, C] by a model that learned the other folds; groups stay whole.

    Raises DataError when a label is in too few groups: some fold could not learn it.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_groups = rows.groupby("label")["group"].nunique().reindex(list(labels), fill_value=0)
    if num_groups.min() < 2 or rows["group"].nunique() < folds:
        raise DataError(
            f"label noise: {folds} folds need as many groups, and two of every label; the training rows have "
            f"{rows['group'].nunique()}, and {num_groups.to_dict()}. Set training.label_noise.suspect_weight to 1"
        )
    probabilities_NC = np.zeros((len(rows), len(labels)))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for known, judged in splitter.split(rows, rows["label"], rows["group"]):
        probabilities_NC[judged] = judge(rows.iloc[known], rows.iloc[judged])
    return probabilities_NC


def fine_tuned_judge(labels: Sequence[str], training: Training, base_model: str, scratch: Path) -> Judge:
    """Return a judge that learns the known rows for one epoch at most: later ones learn wrong labels by heart."""
    from tasks.core.export import checkpoint_logits
    from tasks.core.fine_tuning import fine_tune
    from tasks.core.predictor import softmax

    changes = {"epochs": min(EPOCHS, training.epochs), "evaluations_per_epoch": 1, "early_stopping_patience": None}
    recipe = training.model_copy(update={**changes, "augmentation": Augmentation()})

    def judge(known: pd.DataFrame, judged: pd.DataFrame) -> Floats:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            tuned = fine_tune(known, judged.head(NUM_WATCHED), labels, recipe, base_model, Path(folder), _say_nothing)
        return softmax(checkpoint_logits(tuned.classifier, tuned.tokenizer, judged["text"].tolist()))

    return judge


def _say_nothing(_progress: object) -> None:
    """Report no progress: a fold is a part of a run."""


def find_suspects(rows: pd.DataFrame, probabilities_NC: Floats, labels: Sequence[str]) -> pd.DataFrame:
    """Return the rows whose label looks wrong, the worst first: SUSPECT_COLUMNS.

    `probabilities_NC` come from models that did not see the row, columns in the order of `labels`. `score` is
    cleanlab's normalised margin: 0 where all speaks for another label, 0.5 where the given one and the likeliest other
    tie. No more rows are listed than confident learning counts wrong ones.
    """
    from cleanlab.filter import find_label_issues  # late: it takes seconds to import
    from cleanlab.rank import get_label_quality_scores

    gold_N = rows["label"].map(list(labels).index).to_numpy()
    scores_N = get_label_quality_scores(gold_N, probabilities_NC, method="normalized_margin")
    is_wrong = find_label_issues(gold_N, probabilities_NC, filter_by="low_normalized_margin", n_jobs=1)
    is_wrong &= probabilities_NC.argmax(1) != gold_N
    order = np.flatnonzero(is_wrong)[np.argsort(scores_N[is_wrong], kind="stable")]
    found = rows.iloc[order]
    suggested = [labels[position] for position in probabilities_NC[order].argmax(1)]
    score = scores_N[order].round(4)
    return found.assign(suggested=suggested, score=score)[SUSPECT_COLUMNS].reset_index(drop=True)
