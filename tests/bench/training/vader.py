"""VADER (Hutto & Gilbert 2014), the rules that the embedded corpora's own paper compares with people."""

from collections.abc import Iterable

import numpy as np
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

LABELS = ("negative", "neutral", "positive")


def vader_answers(texts: Iterable[str]) -> list[int]:
    """Return class numbers in LABELS by its documented thresholds: compound >= 0.05 positive, <= -0.05 negative."""
    analyzer = SentimentIntensityAnalyzer()
    compound = np.array([analyzer.polarity_scores(text)["compound"] for text in texts])
    answers: list[int] = (1 + (compound >= 0.05).astype(int) - (compound <= -0.05).astype(int)).tolist()
    return answers
