"""The part of a loop's YAML file that says how its traffic is watched."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.schedule import Schedule
from configs.sections import Section

Effect = Annotated[float, Field(ge=0, le=1)]


class Window(Section):
    """The current window: the newest logged texts, or a sample of all that came in the last hours."""

    by: Literal["count", "time"] = "count"
    max_rows: Annotated[int, Field(ge=20, le=1_000_000)] = 1000  # by time: of more, so many from all over the hours
    min_rows: Annotated[int, Field(ge=10)] = 50  # fewer: no verdict
    max_age_hours: Annotated[float, Field(gt=0)] | None = None  # by time: how long the window is

    @model_validator(mode="after")
    def _time_is_told(self) -> "Window":
        if self.by == "time" and self.max_age_hours is None:
            raise ValueError("by: time needs max_age_hours, how long the window is, for example 24")
        return self


class MinEffects(Section):
    """How far apart both sides must lie for a test to fire: 0 the same, 1 nothing in common.

    On a large window a trivial shift is significant as well. Where a window is small, the test itself asks for more.
    """

    outputs: Effect = 0.1  # distance between the distributions of a class's probabilities
    embeddings: Effect = 0.1  # 2 AUC - 1 of telling texts of both sides apart; about the share of texts that is new
    representation: Effect = 0.1  # the same, by the champion's sentence vectors
    length: Effect = 0.1  # distance between the distributions of words per text
    pieces: Effect = 0.1  # the same of tokens per word
    unknown_tokens: Effect = 0.05  # the same of a text's share of tokens that the tokenizer does not know
    wordless: Effect = 0.05  # difference in the share of texts without letter or digit
    copies: Effect = 0.1  # difference in the share of texts that are there more than once
    language: Effect = 0.05  # largest difference in the share of a language


class Monitoring(Section):
    """The drift rule: k of the last n windows and the newest, each at a stated false-alarm rate."""

    schedule: Schedule
    window: Window = Window()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.01  # false-alarm rate per window over all tests together
    permutations: Annotated[int, Field(ge=199, le=100_000)] = 999
    max_tested_rows: Annotated[int, Field(ge=50, le=5000)] = 1000  # per side, by group; costs grow squared
    min_effects: MinEffects = MinEffects()
    k: Annotated[int, Field(ge=1)] = 2
    n: Annotated[int, Field(ge=1)] = 3
    season_weeks: Annotated[int, Field(ge=0, le=12)] = 4  # what recurs on a weekday is no drift; 0: not looked at

    @model_validator(mode="after")
    def _k_of_n(self) -> "Monitoring":
        if self.k > self.n:
            raise ValueError(f"k must not exceed n (got k={self.k}, n={self.n})")
        if (self.permutations + 1) * self.alpha < 1:
            raise ValueError(f"permutations must be at least {1 / self.alpha - 1:.0f} for alpha {self.alpha:g}")
        return self
