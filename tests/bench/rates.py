"""How often something happened in a bench, with the interval that the number of tries allows."""

from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class Rate:
    """How many of the windows fired."""

    fired: int
    windows: int

    def as_list(self) -> list[float]:
        """Return rate, low and high of the 95 % Clopper–Pearson interval, and the number of windows."""
        missed = self.windows - self.fired
        low = float(beta.ppf(0.025, self.fired, missed + 1)) if self.fired else 0.0
        high = float(beta.ppf(0.975, self.fired + 1, missed)) if missed else 1.0
        return [self.fired / self.windows, low, high, self.windows]
