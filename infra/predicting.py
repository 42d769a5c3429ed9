"""Predictions for the command line: from the service while it runs, else from the champion's bundle."""

from typing import Any

from configs.schema import Loop
from configs.settings import Settings
from infra.credentials import read_first_key
from infra.service_client import ServiceClient, key_from_environment
from tasks.core.errors import DataError
from tasks.core.scorable import find_flaw


def predict_texts(config: Loop, texts: list[str], settings: Settings) -> dict[str, Any]:
    """Return the answer in the service's shape; raises DataError for a text that cannot be answered."""
    for number, text in enumerate(texts, start=1):
        flaw = find_flaw(text, config.serving.max_chars)
        if flaw:
            raise DataError(f"text {number}: {flaw}")
    service = ServiceClient(settings)
    if service.is_up():
        secret = key_from_environment() or read_first_key(settings)
        if secret:
            return service.predict(config.name, texts, secret)
    return _predict_here(config, texts)


def _predict_here(config: Loop, texts: list[str]) -> dict[str, Any]:
    from tasks.scoring import load_champion

    version, predictor = load_champion(config.name)
    answered = predictor.predict(texts)
    predictions = []
    rows = zip(answered.answers, answered.probabilities, answered.truncated, strict=True)
    for label, probabilities, truncated in rows:
        scores = {name: float(p) for name, p in zip(predictor.labels, probabilities, strict=True)}
        answer = {"prediction_id": None, "label": label, "score": max(scores.values()), "scores": scores}
        predictions.append(answer | {"truncated": bool(truncated)})
    return {"loop": config.name, "version": version, "predictions": predictions}
