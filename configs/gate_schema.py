"""How a challenger is judged: the sections `gate`, `slices`, `behaviour` and `unknown`."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections import Name, Section, Share


class Gate(Section):
    """The rules a challenger must pass to become champion. All of them hold, or it stays a challenger."""

    min_macro_f1: Annotated[float, Field(gt=0, lt=1)]
    max_accuracy_loss: Annotated[float, Field(ge=0, lt=1)] = 0.01  # non-inferiority margin of the paired bootstrap
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    min_test_rows: Annotated[int, Field(ge=1)] = 100
    min_accuracy_gain: Annotated[float, Field(ge=0, lt=1)] | None = None  # superiority: the bootstrap must show more
    max_slice_loss: Annotated[float, Field(ge=0, lt=1)] = 0.05  # accuracy; see core/promotion.py: judge_slices
    min_slice_rows: Annotated[int, Field(ge=1)] = 50  # a smaller slice is shown, not judged
    min_newest_rows: Annotated[int, Field(ge=1)] = 300  # fewer newest rows are judged as any other slice
    max_ece: Annotated[float, Field(gt=0, lt=1)] | None = None  # expected calibration error on the test rows
    min_parity: Annotated[float, Field(gt=0, le=1)] = 0.995  # share of test rows where export and checkpoint agree
    max_parity_difference: Annotated[float, Field(gt=0, lt=1)] = 0.02  # largest difference of a probability
    max_latency_ms: Annotated[float, Field(gt=0)] | None = None  # median of single texts through the export, here
    max_size_mb: Annotated[float, Field(gt=0)] | None = None  # of the export


class Slice(Section):
    """A part of the rows that is scored, and judged by the gate, by itself. Exactly one rule besides the name."""

    name: Name
    column: str | None = None  # `source`, or one of data.sources[].columns.attributes: one slice per value
    words: tuple[int, int] | None = None  # fewest and most words of a text
    pattern: str | None = None  # regular expression that a text matches somewhere
    newest: Share | None = None  # the newest share of groups; undated ones are the oldest and never count

    @model_validator(mode="after")
    def _one_rule(self) -> "Slice":
        rules = [rule for rule in ("column", "words", "pattern", "newest") if getattr(self, rule) is not None]
        if len(rules) != 1:
            raise ValueError(f"a slice has one of column, words, pattern, newest (got {rules or 'none'})")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(f"pattern: not a regular expression: {error}") from error
        if self.words is not None and not 0 <= self.words[0] <= self.words[1]:
            raise ValueError(f"words: fewest and most words, for example [1, 8] (got {list(self.words)})")
        return self


class Case(Section):
    """One behavioural case (CheckList; Ribeiro et al. 2020, arXiv:2005.04118).

    must: `text` has `label`. invariance: every text of `variants` has the label that the model gives `text`.
    direction: the probability of `label` is higher for `text` than for every text of `variants`, by `margin`.
    """

    kind: Literal["must", "invariance", "direction"]
    text: str
    label: str | None = None
    variants: list[str] = []
    margin: Share = 0.0
    why: str = ""

    @model_validator(mode="after")
    def _complete(self) -> "Case":
        if self.kind in ("must", "direction") and self.label is None:
            raise ValueError(f"a case of kind {self.kind} needs a label")
        if self.kind in ("invariance", "direction") and not self.variants:
            raise ValueError(f"a case of kind {self.kind} needs variants")
        return self


class Behaviour(Section):
    """What `NAME.cases.yaml` beside the loop's file holds; the gate asks the challenger every case."""

    min_passed_share: dict[
        Literal["must", "invariance", "direction"], Annotated[float, Field(ge=0, le=1)]
    ] = {}  # else 1
    cases: list[Case] = []


class Unknown(Section):
    """Answer `unknown` to texts outside the loop's scope: those far from the training rows."""

    max_refused_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # of validation rows, which are in scope
