"""How sure a classifier may sound: one number that its logits are divided by."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

TEMPERATURE_BOUNDS = (float(np.log(0.5)), float(np.log(12)))  # rows without an error would have it run off to 0


def fit_temperature(logits: npt.NDArray[np.floating], gold: npt.NDArray[np.int64]) -> float:
    """Return the temperature that minimises the negative log-likelihood of held-out rows (Guo et al. 2017)."""
    logits64 = logits.astype(np.float64)

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = logits64 / np.exp(log_temperature)
        log_sums = np.logaddexp.reduce(scaled, axis=1)
        return float((log_sums - scaled[np.arange(len(gold)), gold]).mean())

    best = minimize_scalar(negative_log_likelihood, bounds=TEMPERATURE_BOUNDS, method="bounded")
    return float(np.exp(best.x))
