import json
from pathlib import Path

import numpy as np
import pytest

from tasks.core.predictor import UNKNOWN, Predictor, read_manifest, write_manifest
from tasks.core.unknown import fit_scope, fit_scope_limit
from tasks.stores.served_model import ServedModel
from tests.support.tiny_bundle import limit_scope, write_tiny_bundle


@pytest.mark.parametrize(
    ("n", "share", "refused"),
    [
        (58, 0.05, None),
        (59, 0.05, 0),
        (93, 0.05, 1),
        (1000, 0.05, 38),
        (1000, 0.2, 178),
        (5, 0.4, None),
        (0, 0.1, None),
    ],
)
def test_so_many_of_the_least_close_are_refused(n: int, share: float, refused: int | None) -> None:
    limit = fit_scope_limit(np.random.default_rng(0).permutation(np.arange(n) / max(n, 1)), share)
    assert (None if limit is None else limit.refused) == refused


@pytest.mark.parametrize("n", [80, 360])
def test_the_share_refused_of_texts_in_scope_stays_below_the_limit_19_times_in_20(n: int) -> None:
    random = np.random.default_rng(1)
    scores = random.random((2000, n))  # uniform: the chance to score below a limit is the limit itself
    limits = [fit_scope_limit(row, 0.1) for row in scores]
    too_many = np.mean([limit is not None and limit.min_closeness > 0.1 for limit in limits])
    assert too_many < 0.065
    assert (
        np.mean([limit is not None and limit.min_closeness > 0.02 for limit in limits]) > 0.8
    )  # and is no empty promise


def test_closeness_counts_in_the_rows_own_spread() -> None:
    random = np.random.default_rng(2)
    spread = np.array([10.0, 0.1, 1.0])  # the second direction hardly varies: a step there leads far away
    rows = random.normal(size=(900, 3)) * spread
    gold = np.repeat([0, 2], 450)
    rows[gold == 2] += [100, 0, 0]
    scope = fit_scope(rows, gold)
    near, far, between = scope.closeness(np.array([[110.0, 0, 0], [100.0, 10.0, 0], [50.0, 0, 0]]))
    assert near > -2
    assert far < 5 * near  # as long a step in another direction
    assert between < near


def test_one_row_and_constant_vectors_have_a_scope() -> None:
    for rows in (np.zeros((1, 4)), np.ones((5, 4))):
        assert np.isfinite(fit_scope(rows, np.zeros(len(rows), dtype=np.int64)).closeness(np.ones((2, 4)))).all()


def test_equal_scores_are_all_known() -> None:
    limit = fit_scope_limit(np.ones(500), 0.05)
    assert limit is not None
    assert (limit.min_closeness, limit.refused) == (1.0, 0)


def test_a_text_below_the_limit_is_unknown_and_keeps_its_probabilities(tmp_path: Path) -> None:
    folder = limit_scope(write_tiny_bundle(tmp_path / "bundle"), 0.8)
    predictor = Predictor.load(folder, 1)
    answered = predictor.predict(["good", "nothing", "bad"])
    assert answered.answers == ["positive", UNKNOWN, "negative"]
    assert answered.unknown.tolist() == [False, True, False]
    assert answered.probabilities[1].tolist() == [0.5, 0.5]
    assert predictor.all_answers == ("negative", "positive", UNKNOWN)
    assert predictor.predict([]).answers == []


def test_a_bundle_without_a_limit_knows_every_text(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    fields = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
    del fields["min_closeness"]  # as it was written before there was one
    (folder / "predictor.json").write_text(json.dumps(fields), encoding="utf-8")
    assert read_manifest(folder).min_closeness is None
    predictor = Predictor.load(folder, 1)
    assert predictor.predict(["good", "nothing"]).unknown.tolist() == [False, False]
    assert predictor.all_answers == ("negative", "positive")
    write_manifest(folder, read_manifest(folder))
    assert Predictor.load(folder, 1).labels == ("negative", "positive")


def test_the_mlflow_model_answers_unknown(tmp_path: Path) -> None:
    import pandas as pd

    model = ServedModel()
    model.predictor = Predictor.load(limit_scope(write_tiny_bundle(tmp_path / "bundle"), 0.8), 1)
    table = model.predict(None, pd.DataFrame({"text": ["good", "nothing"]}))
    assert table["label"].tolist() == ["positive", UNKNOWN]
    assert table.columns.tolist() == ["label", "score", "p_negative", "p_positive"]
    assert table["score"].tolist() == [pytest.approx(table["p_positive"][0]), 0.5]
