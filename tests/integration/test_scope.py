"""Closeness travels in the exported graph and tells texts that the loop knows nothing about."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from configs.schema import Unknown
from tasks.core.classifier import Classifier, ClassifierShape
from tasks.core.export import export_bundle, sentence_vectors
from tasks.core.unknown import fit_scope
from tests.support.tiny_base import make_rows, write_tiny_base

LABELS = ("negative", "positive")


def test_the_graph_answers_closeness_and_other_texts_are_unknown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = write_tiny_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(1)
    classifier = Classifier(AutoModel.from_pretrained(base), ClassifierShape(LABELS, "mean", 64, False)).eval()
    train, validation, test = make_rows(300, seed=1), make_rows(120, seed=2), make_rows(200, seed=3)
    gold = (validation["label"] == "positive").to_numpy(dtype=np.int64)
    texts = validation["text"].tolist()
    asked = {"unknown": Unknown(max_refused_share=0.1), "train": train}
    predictor = export_bundle(classifier, tokenizer, "toy", texts, gold, tmp_path / "bundle", **asked)
    inside = predictor.predict(test["text"].tolist())
    outside = predictor.predict(["the the the the the the", "phone " * 30, "camera", "is is it it"])
    assert inside.unknown.mean() <= 0.12
    assert outside.answers == ["unknown"] * 4
    scope = fit_scope(
        sentence_vectors(classifier, tokenizer, train["text"].tolist()),
        (train["label"] == "positive").to_numpy(dtype=np.int64),
    )
    expected = scope.closeness(sentence_vectors(classifier, tokenizer, texts))
    np.testing.assert_allclose(predictor.measure_closeness(texts), expected, rtol=2e-3, atol=0.05)
    plain = export_bundle(classifier, tokenizer, "toy", texts, gold, tmp_path / "plain")
    np.testing.assert_allclose(plain.predict(texts).probabilities, predictor.predict(texts).probabilities, atol=1e-5)
    assert [case.text for case in plain.cases] == texts[:32]
    with caplog.at_level(logging.WARNING):
        asked |= {"case_texts": []}
        few = export_bundle(classifier, tokenizer, "toy", texts[:10], gold[:10], tmp_path / "few", **asked)
    assert few.cases == ()
    assert few.manifest.min_closeness is None
    assert "10 validation rows are too few" in caplog.text
