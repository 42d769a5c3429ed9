"""Whose labels can be believed: sources are compared with reviewers, and with what others say of sure answers.

A *source* is an API key, and within it each labeller that the caller names. A *reviewer* is a person on the labelling
page, or a key that the loop's file names. What a source says of a text that a reviewer labelled too shows how far it
can be believed. Where no reviewer has been, it is compared with all others: how many of the sure answers that it got it
calls wrong. A customer who only sends labels of wrong answers passes, one who calls right answers wrong does not.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import log
from typing import Literal

from scipy.stats import beta, fisher_exact

from configs.feedback_schema import Feedback
from configs.serving_schema import Labelling
from tasks.core.labelling import judge_votes

Standing = Literal["reviewer", "vouched", "new", "held back"]
Outcome = Literal["reviewed", "alone", "agreed", "contested", "held back"]

PEOPLE = "labelling/"  # begins the source of a vote on the labelling page
SURE = 0.9  # score of an answer that is seldom wrong
MIN_CONTRADICTED = 10  # sure answers; fewer may be bad luck
MIN_BASELINE = 30  # sure answers whose truth is known, or that others got
ERROR = 1e-3  # chance, over all sources, that an honest one is held back for its contradictions
CERTAINTY = 0.95  # that a source agrees less than it must
MIN_VOUCHED = 5  # texts that a reviewer labelled too
PRIOR = {True: (9.0, 1.0), False: (4.0, 1.0)}  # right and wrong labels that a reviewer, a customer starts with


@dataclass(frozen=True)
class Statement:
    """One label of one text, as somebody gave it; `text` is normalised, `source` a key, or PEOPLE and a person."""

    prediction_id: str
    text: str
    source: str
    labeller: str | None
    label: str
    at: datetime
    is_review: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Return the source, and the labeller within it where one was named: both must be believed."""
        return (self.source,) if self.labeller is None else (self.source, f"{self.source}/{self.labeller}")


@dataclass(frozen=True)
class Exposure:
    """How many sure answers a source got, and how many of them it called wrong."""

    num_sure: int
    num_contradicted: int


@dataclass(frozen=True)
class Trust:
    """What is known of a source: how often reviewers agreed with it, what its word weighs, and where it stands."""

    name: str
    standing: Standing
    reason: str
    num_labels: int
    num_compared: int
    num_agreed: int
    weight: float


@dataclass(frozen=True)
class Settled:
    """What the statements on a prediction come to; `label` None: none that may be used."""

    prediction_id: str
    label: str | None
    outcome: Outcome
    is_given: bool = False  # by a customer who is believed

    @property
    def is_reviewed(self) -> bool:
        """Say whether a reviewer stands behind the label."""
        return self.outcome == "reviewed"


def judge_sources(
    statements: Sequence[Statement],
    exposures: Mapping[str, Exposure],
    baseline: Exposure,
    rules: Feedback,
    num_labels: int,
) -> dict[str, Trust]:
    """Return each source's standing by its name.

    `exposures` are those of customers' keys, `baseline` counts sure answers that reviewers drew by chance and labelled,
    `num_labels` those of the loop. Reviewers are compared with each other.
    """
    reviews: dict[str, dict[str, str]] = defaultdict(dict)
    for one in _in_order(statements):
        if one.is_review:
            reviews[one.text][one.names[-1]] = one.label
    said, agreed, compared = Counter[str](), Counter[str](), Counter[str]()
    reviewers = {name for one in statements if one.is_review for name in one.names}
    for one in _last_words(statements):
        others = Counter(label for name, label in reviews.get(one.text, {}).items() if name not in one.names)
        said.update(one.names)
        if others:
            compared.update(one.names)
            agreed.update(one.names if others[one.label] == max(others.values()) else ())
    tests = max(1, len(exposures))
    contradicts = {
        name: reason
        for name, own in exposures.items()
        if (reason := _find_contradictions(own, _rest(name, exposures), baseline, rules, ERROR / tests))
    }
    return {
        name: _judge(
            name, said[name], compared[name], agreed[name], contradicts.get(name), name in reviewers, rules, num_labels
        )
        for name in said
    }


def settle(
    statements: Sequence[Statement], trust: Mapping[str, Trust], decided: Mapping[str, str], rules: Labelling
) -> list[Settled]:
    """Return what may be used of each prediction that somebody labelled.

    A label that reviewers agree on, or the operator `decided`, counts for every copy of its text. Else the heavier side
    wins among sources that are not held back; where sides weigh the same, none does. A later word of the same source
    takes the place of its earlier one.
    """
    believed = [one for one in statements if all(trust[name].standing != "held back" for name in one.names)]
    by_text = defaultdict[str, list[Statement]](list)
    last_words = _last_words(believed)
    for one in last_words:
        by_text[one.text].append(one)
    reviewed = _find_reviewed(believed, last_words, decided, rules)
    given = {one.prediction_id for one in believed if not one.source.startswith(PEOPLE)}
    outcomes = {text: _settle_text(by_text[text], reviewed[text], trust) for text in {one.text for one in statements}}
    text_of = {one.prediction_id: one.text for one in statements}
    return [Settled(known, *outcomes[text], is_given=known in given) for known, text in text_of.items()]


def list_doubts(settled: Iterable[Settled], statements: Sequence[Statement], trust: Mapping[str, Trust],
                in_test: Iterable[str]) -> dict[str, str]:  # fmt: skip
    """Return why a second person should look at which predictions, one per text.

    Those that are contested, that a source held back sent, that would be test rows (`in_test`), and some of each new
    source, so that it can be vouched for.
    """
    by_prediction = {one.prediction_id: one for one in statements if not one.is_review}
    in_test, doubts, seen = set(in_test), {}, set[str]()
    looked_at: Counter[str] = Counter()
    for one in sorted(settled, key=lambda one: (one.outcome != "contested", one.prediction_id)):
        statement = by_prediction.get(one.prediction_id)
        if statement is None or one.is_reviewed or statement.text in seen:
            continue
        is_new = any(trust[name].standing == "new" for name in statement.names if name in trust)
        reason = {"contested": "contested", "held back": "held back"}.get(one.outcome)
        reason = reason or ("test row" if one.prediction_id in in_test else None)
        if reason is None and is_new and looked_at[statement.names[-1]] < 2 * MIN_VOUCHED:
            reason = "new source"
            looked_at[statement.names[-1]] += 1
        if reason is not None:
            seen.add(statement.text)
            doubts[one.prediction_id] = reason
    return doubts


def _in_order(statements: Sequence[Statement]) -> list[Statement]:
    return sorted(statements, key=lambda one: (one.at, one.prediction_id))


def _last_words(statements: Sequence[Statement]) -> list[Statement]:
    """Return one word of each source on each text: what it said last, or of most of the copies."""
    last = {(one.prediction_id, one.names): one for one in _in_order(statements)}
    words: dict[tuple[str, tuple[str, ...]], list[Statement]] = defaultdict(list)
    for one in last.values():
        words[one.text, one.names].append(one)
    return [said[0] if len(said) == 1 else _most_frequent(said) for said in words.values()]


def _most_frequent(said: Sequence[Statement]) -> Statement:
    """Return the newest of those with the most frequent label; of labels as frequent, the one said last."""
    times = Counter(one.label for one in said)
    return max(_in_order(said), key=lambda one: (times[one.label], one.at, one.prediction_id))


def _rest(name: str, exposures: Mapping[str, Exposure]) -> Exposure:
    others = [one for other, one in exposures.items() if other != name]
    return Exposure(sum(one.num_sure for one in others), sum(one.num_contradicted for one in others))


def _find_contradictions(
    own: Exposure, others: Exposure, baseline: Exposure, rules: Feedback, error: float
) -> str | None:
    """Say that a source calls too many sure answers wrong, or None; the truth that reviewers drew goes before others.

    All sure answers that it got count, labelled or not: who only sends labels of wrong answers contradicts no more of
    them than are wrong.
    """
    known = baseline if baseline.num_sure >= MIN_BASELINE else others
    if known.num_sure < MIN_BASELINE or own.num_contradicted < MIN_CONTRADICTED:
        return None
    share, usual = own.num_contradicted / own.num_sure, known.num_contradicted / known.num_sure
    table = [[one.num_contradicted, one.num_sure - one.num_contradicted] for one in (own, known)]
    if share - usual <= rules.max_contradicted or fisher_exact(table, alternative="greater").pvalue > error:
        return None
    return f"it calls {share:.0%} of the sure answers that it got wrong, where {usual:.0%} are to be expected"


def _judge(
    name: str, num_labels: int, compared: int, agreed: int, contradicts: str | None, is_reviewer: bool, rules: Feedback,
    num_classes: int,
) -> Trust:  # fmt: skip
    right, wrong = PRIOR[is_reviewer]
    believed = (right + agreed) / (right + wrong + compared)
    weight = max(0.0, log(believed * max(num_classes - 1, 1) / (1 - believed)))
    too_low = float(beta.cdf(rules.min_agreement, 1 + agreed, 1 + compared - agreed))
    standing: Standing
    if compared and too_low > CERTAINTY:
        standing, reason = "held back", f"reviewers agree on {agreed} of {compared} texts"
    elif is_reviewer:
        standing, reason = "reviewer", "labels for the loop"
    elif compared >= MIN_VOUCHED and too_low < 0.5:
        standing, reason = "vouched", f"reviewers agree on {agreed} of {compared} texts"
    elif contradicts is not None:
        standing, reason = "held back", contradicts
    else:
        standing, reason = "new", f"{compared} of its texts were reviewed, {MIN_VOUCHED} are needed"
    return Trust(name, standing, reason, num_labels, compared, agreed, 0.0 if standing == "held back" else weight)


def _find_reviewed(
    believed: Sequence[Statement], last_words: Sequence[Statement], decided: Mapping[str, str], rules: Labelling
) -> defaultdict[str, list[str]]:
    """Return, by text, the labels that reviewers stand behind: keys by their last word, people by agreement."""
    votes: dict[str, list[str]] = defaultdict(list)
    found: defaultdict[str, list[str]] = defaultdict(list)
    text_of = {one.prediction_id: one.text for one in believed}
    for one in believed:
        if one.source.startswith(PEOPLE):
            votes[one.prediction_id].append(one.label)
    for one in last_words:
        if one.is_review and not one.source.startswith(PEOPLE):
            found[one.text].append(one.label)
    for prediction_id, text in text_of.items():
        agreed = decided.get(prediction_id) or judge_votes(votes[prediction_id], rules).label
        if agreed is not None:
            found[text].append(agreed)
    return found


def _settle_text(
    believed: Sequence[Statement], reviewed: Sequence[str], trust: Mapping[str, Trust]
) -> tuple[str | None, Outcome]:
    if reviewed:
        label = _heaviest(Counter(reviewed))
        return label, "contested" if label is None else "reviewed"
    customers = [one for one in believed if not one.source.startswith(PEOPLE)]
    if not customers:
        return None, "contested" if believed else "held back"
    weights: dict[str, float] = defaultdict(float)
    for one in believed:
        weights[one.label] += trust[one.names[-1]].weight
    label = _heaviest(weights)
    if label is None:
        return None, "contested"
    return label, "alone" if len(believed) == 1 else "agreed"


def _heaviest(weights: Mapping[str, float]) -> str | None:
    ordered = sorted(weights.values(), reverse=True)
    if len(ordered) > 1 and ordered[0] - ordered[1] < 1e-9:
        return None
    return max(weights, key=lambda label: weights[label])
