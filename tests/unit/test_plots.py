from pathlib import Path

import numpy as np
import pytest

from tasks.core.plots import plot_confusion, plot_precision_recall, plot_reliability, plot_slices
from tasks.core.slices import Cut, score_slices


@pytest.mark.parametrize("num_classes", [2, 3, 40])
def test_plots_are_pictures(num_classes: int, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = [f"label {number}" for number in range(num_classes)]
    gold = random.integers(0, num_classes, 300)
    ours, theirs = (random.dirichlet(np.ones(num_classes), 300) for _ in range(2))
    cuts = [Cut("half", "", np.arange(300) < 150), Cut("none", "", np.zeros(300, dtype=np.bool_))]
    slices = score_slices(cuts, gold, ours, theirs, [str(row) for row in range(300)], 200, 0.95)
    plot_confusion(gold, ours, labels, tmp_path / "confusion.png")
    plot_reliability(gold, [("before", ours, 0.2), ("after", theirs, 0.1)], tmp_path / "reliability.png")
    plot_precision_recall(gold, ours, labels, tmp_path / "precision_recall.png")
    plot_slices(slices, 0.4, tmp_path / "slices.png")
    pictures = sorted(tmp_path.iterdir())
    assert len(pictures) == 4
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000


def test_a_class_without_a_row_does_not_stop_the_plot(tmp_path: Path) -> None:
    gold, ours = np.array([0, 1, 0, 1]), np.random.default_rng(0).dirichlet(np.ones(3), 4)
    plot_precision_recall(gold, ours, ["a", "b", "never"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path: Path) -> None:
    labels = ["$5 to $10", "a_{$x^$", r"\$ \frac", "long" * 100]
    random = np.random.default_rng(1)
    gold, ours = random.integers(0, 4, 60), random.dirichlet(np.ones(4), 60)
    cuts = [Cut(f"price={label}", "", np.arange(60) < 40) for label in labels]
    slices = score_slices(cuts, gold, ours, None, [str(row) for row in range(60)], 200, 0.95)
    plot_confusion(gold, ours, labels, tmp_path / "confusion.png")
    plot_precision_recall(gold, ours, labels, tmp_path / "precision_recall.png")
    plot_slices(slices, 0.4, tmp_path / "slices.png")
    assert len(list(tmp_path.iterdir())) == 3
