"""The pictures of a version: confusion, reliability, precision and recall, slices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.metrics import average_precision, confusion_matrix, precision_recall
from tasks.core.slices import SliceScores

Floats = npt.NDArray[np.floating]
MAX_NUMBERED = 12  # classes whose counts still fit into the cells
MAX_CURVES = 10  # classes of a precision-recall plot: those with the lowest average precision
MAX_SHOWN = 30  # characters of a name


def plot_confusion(gold: npt.NDArray[np.int64], probabilities: Floats, labels: Sequence[str], path: Path) -> None:
    """Write the confusion matrix as a picture: counts, shaded by the share of each true class."""
    counts = confusion_matrix(gold, probabilities.argmax(1), len(labels))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.5, 1.2 + 0.18 * len(labels))
    figure, axes = _figure(side + 0.5, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (true, predicted), count in np.ndenumerate(counts) if len(labels) <= MAX_NUMBERED else ():
        shade = "white" if shares[true, predicted] > 0.5 else "black"
        axes.text(predicted, true, f"{count}\n{shares[true, predicted]:.0%}", ha="center", va="center", color=shade)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion on {len(gold)} frozen test rows")
    small = {} if len(labels) <= MAX_NUMBERED else {"fontsize": 6}
    names = [_as_plain(label) for label in labels]
    axes.set_xticks(range(len(names)), names, rotation=0 if len(labels) <= 4 else 90, **small)
    axes.set_yticks(range(len(names)), names, **small)
    figure.savefig(path)


def plot_reliability(
    gold: npt.NDArray[np.int64], sides: Sequence[tuple[str, Floats, float]], path: Path, bins: int = 10
) -> None:
    """Write the reliability diagram (Guo et al. 2017): accuracy by score, beside the diagonal it should follow.

    `sides` holds name, probabilities and ECE of what is compared: before and after temperature scaling.
    """
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="perfect")
    for name, probabilities, ece in sides:
        scores, correct = probabilities.max(1), probabilities.argmax(1) == gold
        places = np.minimum((scores * bins).astype(int), bins - 1)
        filled = np.unique(places)
        means = [scores[places == place].mean() for place in filled]
        shares = [correct[places == place].mean() for place in filled]
        axes.plot(means, shares, marker="o", label=f"{name}: ECE {ece:.3f}")
    axes.set(xlabel="score", ylabel="accuracy", title=f"Reliability on {len(gold)} test rows", xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path)


def plot_precision_recall(
    gold: npt.NDArray[np.int64], probabilities: Floats, labels: Sequence[str], path: Path
) -> None:
    """Write precision by recall, each class against the rest; of many classes the worst."""
    areas = np.array([average_precision(gold == place, probabilities[:, place]) for place in range(len(labels))])
    is_wide = len(labels) > 5  # the legend stands beside the curves instead of below them
    figure, axes = _figure(9 if is_wide else 6.5, 4.5)
    for place in np.argsort(areas)[:MAX_CURVES]:  # NaN, a class without rows, sorts last
        precision, recall = precision_recall(gold == place, probabilities[:, place])
        share = float((gold == place).mean())
        name = f"{_as_plain(labels[place])}: AP {areas[place]:.3f}, share {share:.2f}"
        axes.step(np.append(0, recall), np.append(precision[:1], precision), where="pre", label=name)
    shown = f", the {MAX_CURVES} worst of {len(labels)}" if len(labels) > MAX_CURVES else ""
    title = f"Each class against the rest{shown}; mean AP {float(np.nanmean(areas)):.3f}"
    axes.set(xlabel="recall", ylabel="precision", title=title, xlim=(0, 1), ylim=(0, 1.02))
    if is_wide:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    else:
        axes.legend(fontsize=8, loc="lower left")
    figure.savefig(path)


def plot_slices(slices: Sequence[SliceScores], accuracy: float, path: Path) -> None:
    """Write each slice's accuracy with its interval, the champion's beside it; the line is the accuracy of all rows."""
    shown = [one for one in slices if one.accuracy is not None and one.accuracy_ci is not None]
    figure, axes = _figure(7, 1.6 + 0.34 * len(shown))
    for place, one in enumerate(reversed(shown)):
        assert one.accuracy is not None
        assert one.accuracy_ci is not None
        axes.plot(one.accuracy_ci, [place, place], color="tab:blue", linewidth=2)
        axes.plot(one.accuracy, place, "o", color="tab:blue", label="this version" if place == 0 else None)
        if one.champion_accuracy is not None:
            axes.plot(one.champion_accuracy, place, "|", color="tab:red", markersize=14, markeredgewidth=2,
                      label="champion then" if place == 0 else None)  # fmt: skip
    axes.axvline(accuracy, color="grey", linestyle="--", label="all test rows")
    axes.set_yticks(range(len(shown)), [f"{_as_plain(one.name)} ({one.n})" for one in reversed(shown)])
    axes.set(xlabel="accuracy, 95 % interval over groups", title="Slices (test rows)", ylim=(-0.6, len(shown) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    figure.savefig(path)


def _as_plain(name: str) -> str:
    """Return a name, which may hold anything, as matplotlib shows it: dollars would begin a formula."""
    shown = name if len(name) <= MAX_SHOWN else f"{name[: MAX_SHOWN - 1]}…"
    return shown.replace("$", r"\$")


def _figure(width: float = 5, height: float = 4.5) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it would choose a display

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.subplots()
