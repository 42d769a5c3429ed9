"""A transformers pipeline as MLflow's documentation serves one's own code: models from code, `mlflow models serve`."""

from typing import Any

import mlflow
import pandas as pd
from transformers import pipeline

from tests.bench.serving.rivals.model import load


class Pipeline(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no usable type information
    """Labels with their scores."""

    def load_context(self, context: Any) -> None:
        """Load the checkpoint."""
        tokenizer, model = load()
        self._classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Answer the rows of a request."""
        return self._classify(list(model_input["text"]), truncation=True)


mlflow.models.set_model(Pipeline())
