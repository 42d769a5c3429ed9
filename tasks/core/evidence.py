"""What a person looks at to believe a version: reference table, plots, model card, the hardest errors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core.metrics import Scores, confusion_matrix
from tasks.core.promotion import GateDecision

Floats = npt.NDArray[np.floating]
LOGGED_DECIMALS = 6  # as the prediction service answers and logs


def build_reference(
    test: pd.DataFrame,
    probabilities: Floats,
    n_tokens: npt.NDArray[np.int64],
    embeddings: Floats,
    labels: Sequence[str],
) -> pd.DataFrame:
    """Return what drift is measured against: one row per test row, with scores and embedding but without its text."""
    reference = pd.DataFrame(
        {
            "row_id": test["row_id"].to_numpy(),
            "group": test["group"].to_numpy(),
            "label": test["label"].to_numpy(),
            "predicted": np.asarray(labels, dtype=object)[probabilities.argmax(1)],
            "score": as_logged(probabilities.max(1)),
            "n_chars": test["text"].str.len().to_numpy(),
            "n_words": test["text"].str.split().str.len().to_numpy(),
            "n_tokens": n_tokens,
        }
    )
    for position, label in enumerate(labels):
        reference[f"p_{label}"] = as_logged(probabilities[:, position])
    reference["embedding"] = list(embeddings)
    return reference


def as_logged(probabilities: Floats) -> Floats:
    """Return probabilities as exact as the prediction log keeps them.

    With more digits than the log, a confident model's ties at 0 and 1 would be broken on one side only, and
    Kolmogorov–Smirnov would find drift in every window.
    """
    return np.round(probabilities.astype(np.float64), LOGGED_DECIMALS)


def list_hardest_errors(
    test: pd.DataFrame, probabilities: Floats, labels: Sequence[str], limit: int = 50
) -> pd.DataFrame:
    """Return the test rows that the model got wrong with the highest score."""
    scores = probabilities.max(1)
    wrong = np.flatnonzero(np.asarray(labels, dtype=object)[probabilities.argmax(1)] != test["label"].to_numpy())
    worst = wrong[np.argsort(-scores[wrong], kind="stable")][:limit]
    predicted = [labels[position] for position in probabilities[worst].argmax(1)]
    rows = test.iloc[worst][["row_id", "label", "source", "text"]]
    return rows.assign(predicted=predicted, score=scores[worst].round(4)).reset_index(drop=True)


def plot_confusion(gold: npt.NDArray[np.int64], probabilities: Floats, labels: Sequence[str], path: Path) -> None:
    """Write the confusion matrix as a picture: counts, shaded by the share of each true class."""
    counts = confusion_matrix(gold, probabilities.argmax(1), len(labels))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axes = _figure()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), count in np.ndenumerate(counts):
        shade = "white" if shares[true, predicted] > 0.5 else "black"
        axes.text(predicted, true, f"{count}\n{shares[true, predicted]:.0%}", ha="center", va="center", color=shade)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion on {len(gold)} frozen test rows")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    figure.savefig(path)


def plot_reliability(
    gold: npt.NDArray[np.int64], probabilities: Floats, ece: float, path: Path, bins: int = 10
) -> None:
    """Write the reliability diagram (Guo et al. 2017): accuracy by score, beside the diagonal it should follow."""
    scores, correct = probabilities.max(1), probabilities.argmax(1) == gold
    places = np.minimum((scores * bins).astype(int), bins - 1)
    filled = np.unique(places)
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    means = [scores[places == place].mean() for place in filled]
    axes.plot(means, [correct[places == place].mean() for place in filled], marker="o", label="this model")
    axes.set(xlabel="score", ylabel="accuracy", title=f"Reliability (ECE {ece:.3f})", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path)


def write_model_card(
    loop: str,
    description: str,
    scores: Scores,
    champion: Scores | None,
    decision: GateDecision,
    facts: Mapping[str, Any],
) -> str:
    """Return the version's description: what it is, how good on what, how the gate judged it, and how it was made."""
    lines = [
        f"# {loop}",
        "",
        description,
        "",
        "| on the frozen test rows | this version | champion then |",
        "|---|---|---|",
    ]
    lines += [_card_row(name, scores, champion) for name in ("accuracy", "macro_f1", "ece")]
    lines += [f"| n | {scores.n} | {champion.n if champion else '–'} |", ""]
    verdict = "promoted" if decision.promote else "not promoted"
    lines += [f"**Gate: {verdict}**", "", *[f"- {reason}" for reason in decision.reasons], ""]
    lines += ["| fact | value |", "|---|---|", *[f"| {name} | {value} |" for name, value in facts.items()]]
    return "\n".join(lines)


def _card_row(name: str, scores: Scores, champion: Scores | None) -> str:
    cells = []
    for side in (scores, champion):
        if side is None:
            cells.append("–")
            continue
        low_high = asdict(side).get(f"{name}_ci")
        cells.append(f"{getattr(side, name):.3f}" + (f" [{low_high[0]:.3f}, {low_high[1]:.3f}]" if low_high else ""))
    return f"| {name.replace('_', '-')} | {' | '.join(cells)} |"


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it would choose a display

    figure = Figure(figsize=(5, 4.5), dpi=120, layout="constrained")
    return figure, figure.subplots()
