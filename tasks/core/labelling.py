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

RESAMPLES = 1000
MIN_SHARED = 5  # texts; kappa of fewer says nothing
Outcome = Literal["open", "agreed", "disputed"]
Picked = Literal["audit", "unsure"]


@dataclass(frozen=True)
class Candidate:
    """A logged text without feedback; `scores` are all probabilities, `votes` what others said of it so far."""

    prediction_id: str
    text: str
    scores: tuple[float, ...]
    votes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """A text for a labeller, why it was picked, and how many others voted on it already.

    audit: drawn by chance, so what is measured on these is true of all texts. unsure: the less sure the model is of its
    answer, the sooner it is asked about, as such a label teaches most.
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


def order_queue(candidates: Sequence[Candidate], rules: Labelling) -> list[Question]:
    """Return what to ask, the most useful first; equal texts are asked once.

    Texts that others began come first: one more vote makes a label of them. Then come a random `audit_share` and, in
    the other places, the texts whose two likeliest labels are closest. Which texts are audited depends on their id
    alone, so neither their scores nor who asks can choose them.
    """
    begun = sorted(
        (one for one in candidates if one.votes), key=lambda one: (-len(one.votes), _draw(one.prediction_id))
    )
    fresh = [one for one in candidates if not one.votes]
    audit = iter(sorted((one for one in fresh if _is_audited(one, rules)), key=lambda one: _draw(one.prediction_id)))
    unsure = iter(sorted((one for one in fresh if not _is_audited(one, rules)), key=_margin))
    num_audit = sum(_is_audited(one, rules) for one in fresh)
    places = _interleave(num_audit, len(fresh) - num_audit, rules.audit_share)
    ordered = [*begun, *(next(audit) if audited else next(unsure) for audited in places)]
    return [
        Question(one.prediction_id, why_picked(one.prediction_id, rules), len(one.votes))
        for one in _once_per_text(ordered)
    ]


def why_picked(prediction_id: str, rules: Labelling) -> Picked:
    """Say why a text is asked about: it belongs to the share drawn by chance, or it does not."""
    return "audit" if _draw(prediction_id) < rules.audit_share else "unsure"


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


def _margin(candidate: Candidate) -> float:
    ordered = sorted(candidate.scores, reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else 0.0


def _interleave(num_audit: int, num_unsure: int, share: float) -> list[bool]:
    """Return which places go to audited texts: the share of them from the first place on, as long as there are any."""
    places: list[bool] = []
    while num_audit + num_unsure:
        wanted = int((len(places) + 1) * share + 0.5) > sum(places)
        audited = num_audit > 0 and (wanted or num_unsure == 0)
        num_audit, num_unsure = num_audit - audited, num_unsure - (not audited)
        places.append(audited)
    return places


def _once_per_text(candidates: Sequence[Candidate]) -> list[Candidate]:
    seen: set[str] = set()
    kept = []
    for one in candidates:
        normalised = normalise(one.text)
        if normalised not in seen:
            seen.add(normalised)
            kept.append(one)
    return kept
