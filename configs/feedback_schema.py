"""The part of a loop's YAML file that says what labels are worth that come back through the API."""

from typing import Annotated

from pydantic import Field

from configs.sections import Section


class Feedback(Section):
    """Whose labels count as reviewed, whose are a fair sample, and when a source's labels are held back.

    A label that no reviewer confirmed may train a model, but never judges one: it stays out of the test rows.
    """

    reviewed_keys: list[str] = []  # ids of API keys through which your own people label; "*": every key
    complete_keys: list[str] = []  # keys that label all their texts or random ones; others label what looked wrong
    min_agreement: Annotated[float, Field(gt=0, lt=1)] = 0.6  # with reviewers; who surely agrees less is held back
    max_contradicted: Annotated[float, Field(gt=0, le=1)] = 0.2  # share of sure answers, beyond what others contradict
    review_share: Annotated[float, Field(ge=0, lt=1)] = 0.2  # of the labelling queue: labels that need a second person
