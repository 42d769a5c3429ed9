"""What people who label are asked next, when their votes become a label, and how far they agree."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt

from configs.serving_schema import Labelling
from tasks.core.usefulness import order_by_use

RESAMPLES = 1000
MIN_SHARED = 5  # texts; kappa of fewer says nothing
Outcome = Literal["open", "agreed", "disputed"]
Picked = Literal["audit", "unsure", "review"]


@dataclass(frozen=True)
class Candidate:
    """A logged text that waits for a label; `scores` are all probabilities, `votes` what others said of it so far.

    `is_doubted`: it has a label, of which a second person should be sure.
    """

    prediction_id: str
    text: str
    scores: tuple[float, ...]
    votes: tuple[str, ...] = ()
    is_doubted: bool = False


@dataclass(frozen=True)
class Question:
    """A text for a labeller, why it was picked, and how many others voted on it already.

    audit: drawn by chance, so what is measured on these is true of all texts. unsure: the less sure the model is of its
    answer, and the less its words are like those of texts that were labelled or are asked about before, the sooner it
    is asked about, as such a label teaches most. review: it has a label that nobody confirmed.
    """

    prediction_id: str
    picked: Picked
    num_votes: int = 0


@dataclass(frozen=True)
class Verdict:
    """What the votes on a text come to; `label` where they agree."""

    outcome: Outcome
    label: str | None
    reason: str


@dataclass(frozen=True)
class Pair:
    """How far two labellers agree on the texts that both labelled; kappa None for too few, or where chance agrees."""

    first: str
    second: str
    n: int
    agreement: float
    kappa: float | None


@dataclass(frozen=True)
class Agreement:
    """How far all labellers agree on the `n` texts with two votes or more; the interval resamples texts (95 %)."""

    n: int
    agreement: float | None
    kappa: float | None
    low: float | None
    high: float | None
    pairs: tuple[Pair, ...]


def order_queue(
    candidates: Sequence[Candidate], rules: Labelling, known: Sequence[str] = (), review_share: float = 0.2
) -> list[Question]:
    """Return what to ask, the most useful first; equal texts are asked once.

    Texts that others began come first: one more vote makes a label of them. Then come a random `audit_share`, a
    `review_share` of doubted labels and, in the other places, the texts that teach most beside those `known` already.
    Which texts are audited depends on their id alone, so neither their scores nor who asks can choose them; of equal
    texts the one that is drawn first is asked, else their number would decide.
    """
    begun = sorted((one for one in candidates if one.votes), key=lambda one: (-len(one.votes), _rank(one)))
    fresh = _once_per_text(sorted((one for one in candidates if not one.votes), key=_rank))
    audit = [one for one in fresh if _is_audited(one, rules)]
    review = [one for one in fresh if one.is_doubted and not _is_audited(one, rules)]
    unsure = [one for one in fresh if not one.is_doubted and not _is_audited(one, rules)]
    order = order_by_use([one.text for one in unsure], [1 - _margin(one) for one in unsure], known)
    review_share = min(review_share, 1 - rules.audit_share) if review else 0.0
    turns = [
        (iter(audit), len(audit), rules.audit_share),
        (iter(review), len(review), review_share),
        (iter([unsure[place] for place in order]), len(unsure), 1 - rules.audit_share - review_share),
    ]
    places = _interleave([num for _, num, _ in turns], [share for _, _, share in turns])
    ordered = [*begun, *(next(turns[turn][0]) for turn in places)]
    return [
        Question(one.prediction_id, why_picked(one.prediction_id, rules, is_doubted=one.is_doubted), len(one.votes))
        for one in _once_per_text(ordered)
    ]


def why_picked(prediction_id: str, rules: Labelling, *, is_doubted: bool = False) -> Picked:
    """Say why a text is asked about: it belongs to the share drawn by chance, its label is doubted, or neither."""
    if _draw(prediction_id) < rules.audit_share:
        return "audit"
    return "review" if is_doubted else "unsure"


def judge_votes(votes: Sequence[str], rules: Labelling) -> Verdict:
    """Say whether the votes on a text make a label: so many equal ones, and more than for any other label."""
    counts = Counter(votes).most_common()
    if not counts:
        return Verdict("open", None, "no vote yet")
    label, most = counts[0]
    runner_up = counts[1][1] if len(counts) > 1 else 0
    if most >= rules.votes and most > runner_up:
        return Verdict("agreed", label, f"{most} of {len(votes)} votes; {rules.votes} needed")
    if len(votes) >= rules.max_votes:
        return Verdict("disputed", None, f"{len(votes)} votes without {rules.votes} that agree")
    return Verdict("open", None, f"{most} of {rules.votes} equal votes")


def has_support(label: str, votes: Sequence[str], rules: Labelling) -> bool:
    """Say whether a label that was agreed before stays, whatever else was said since: enough votes stand behind it."""
    return votes.count(label) >= rules.votes


def normalise(text: str) -> str:
    """Return what equal texts have in common."""
    return " ".join(text.casefold().split())


def measure_agreement(votes: Sequence[tuple[str, str, str]], seed: int = 0) -> Agreement:
    """Return the agreement in votes of (prediction id, labeller, label).

    Over all labellers: Fleiss' kappa (1971) in the form for unequal numbers of votes per text, which is the original
    where they are equal. For each two: Cohen's kappa (1960).
    """
    by_text: dict[str, dict[str, str]] = {}
    for prediction_id, labeller, label in votes:
        by_text.setdefault(prediction_id, {})[labeller] = label
    shared = [said for said in by_text.values() if len(said) > 1]
    labels = sorted({label for said in shared for label in said.values()})
    counts_NC = np.array([[list(said.values()).count(label) for label in labels] for said in shared], dtype=np.float64)
    pairs = _measure_pairs(shared)
    if not shared:
        return Agreement(0, None, None, None, None, pairs)
    # Texts with the same counts are alike: how often each kind is drawn says all, and there are few kinds.
    kinds_KC, times_K = np.unique(counts_NC, axis=0, return_counts=True)
    drawn_RK = np.random.default_rng(seed).multinomial(len(shared), times_K / len(shared), RESAMPLES)
    agreements, whole = _fleiss(kinds_KC, times_K[None])
    kappas = _fleiss(kinds_KC, drawn_RK)[1]
    agreement, kappa, known = float(agreements[0]), float(whole[0]), kappas[~np.isnan(kappas)]
    if len(shared) < MIN_SHARED or not len(known):
        return Agreement(len(shared), agreement, None, None, None, pairs)
    low, high = np.quantile(known, [0.025, 0.975])
    return Agreement(len(shared), agreement, _known(kappa), float(low), float(high), pairs)


def _measure_pairs(shared: Sequence[dict[str, str]]) -> tuple[Pair, ...]:
    names = sorted({labeller for said in shared for labeller in said})
    pairs = []
    for first, second in combinations(names, 2):
        both = [(said[first], said[second]) for said in shared if first in said and second in said]
        if both:
            agreement, kappa = cohen_kappa([one for one, _ in both], [other for _, other in both])
            pairs.append(Pair(first, second, len(both), agreement, kappa if len(both) >= MIN_SHARED else None))
    return tuple(pairs)


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> tuple[float, float | None]:
    """Return the share of equal labels and Cohen's kappa of two labellers, None where both say one label only."""
    n = len(first)
    observed = sum(one == other for one, other in zip(first, second, strict=True)) / n
    says, says_other = Counter(first), Counter(second)
    by_chance = sum(says[label] * says_other[label] for label in says) / n**2
    return observed, None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)


def _fleiss(
    kinds_KC: npt.NDArray[np.float64], times_RK: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean agreement within texts and kappa (nan where only one label occurs), each [R].

    `kinds_KC` are counts of labels (C) per kind of text (K), `times_RK` how many texts of each kind there are.
    """
    votes_K = kinds_KC.sum(1)
    observed_K = (kinds_KC * (kinds_KC - 1)).sum(1) / (votes_K * (votes_K - 1))
    observed_R: npt.NDArray[np.float64] = times_RK @ observed_K / times_RK.sum(1)
    shares_RC = times_RK @ kinds_KC / (times_RK @ votes_K)[:, None]
    by_chance_R = (shares_RC**2).sum(1)
    by_chance_R[by_chance_R >= 1 - 1e-12] = np.nan
    return observed_R, (observed_R - by_chance_R) / (1 - by_chance_R)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _draw(prediction_id: str) -> float:
    """Return a number from 0 to 1 that is the same whenever and by whomever it is asked for."""
    return int.from_bytes(hashlib.sha256(f"audit:{prediction_id}".encode()).digest()[:6]) / 2**48


def _is_audited(candidate: Candidate, rules: Labelling) -> bool:
    return why_picked(candidate.prediction_id, rules) == "audit"


def _rank(candidate: Candidate) -> float:
    return _draw(candidate.prediction_id)


def _margin(candidate: Candidate) -> float:
    ordered = sorted(candidate.scores, reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else 0.0


def _interleave(numbers: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Return whose turn each place is, so that each has its share from the first place on, as long as it has any left.

    A turn goes to the one that is furthest behind its share; the first of them where several are.
    """
    left, given, turns = list(numbers), [0] * len(numbers), list[int]()
    while any(left):
        behind = [
            share * (len(turns) + 1) - done if remaining else -np.inf
            for share, done, remaining in zip(shares, given, left, strict=True)
        ]
        turn = int(np.argmax(behind))
        left[turn], given[turn] = left[turn] - 1, given[turn] + 1
        turns.append(turn)
    return turns


def _once_per_text(candidates: Sequence[Candidate]) -> list[Candidate]:
    seen: set[str] = set()
    kept = []
    for one in candidates:
        normalised = normalise(one.text)
        if normalised not in seen:
            seen.add(normalised)
            kept.append(one)
    return kept
