"""The bundle as an MLflow model: logged as code, not as a pickle, so that plain MLflow loads it anywhere."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from tasks.core.predictor import Predictor


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow ships no usable type information
    """Takes a column `text`; answers with `label`, `score` and `p_<label>` per class; the label may be `unknown`."""

    def load_context(self, context: Any) -> None:
        """Load the bundle that was logged beside this code."""
        self.predictor = Predictor.load(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answer one row per text."""
        answered = self.predictor.predict([str(text) for text in model_input["text"]])
        columns: dict[str, Any] = {"label": answered.answers, "score": answered.probabilities.max(1)}
        columns |= {f"p_{label}": answered.probabilities[:, place] for place, label in enumerate(answered.labels)}
        return pd.DataFrame(columns)


mlflow.models.set_model(ServedModel())
