"""Answers one micro-batch: by the version that serves, and where a release is in canary, some of it by the new one.

Nothing here waits for a database or for the version that is only asked beside: what it shall be asked is handed on.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from configs.schema import Loop
from configs.serving_schema import StageName
from tasks.core.predictor import Predictor, Stage
from tasks.core.redaction import redact
from tasks.core.staging import Route, route
from tasks.stores.prediction_log import LoggedPrediction
from tasks.stores.releases import StagedRelease

if TYPE_CHECKING:  # MLflow takes a second to import, and answering does not need it
    from tasks.stores.model_registry import ModelVersion

logger = logging.getLogger(__name__)
Mark = Callable[[Stage], None]


@dataclass(frozen=True)
class Served:
    """A version that answers."""

    version: str
    predictor: Predictor
    since: datetime


@dataclass(frozen=True)
class Asked:
    """One text on its way to the engine."""

    text: str
    group: str | None
    key_id: str
    request_id: str | None
    prediction_id: str
    arrived: float


@dataclass(frozen=True)
class Answered:
    """One text's answer, already in the prediction log."""

    prediction_id: str
    version: str
    label: str
    score: float
    scores: dict[str, float]
    truncated: bool


@dataclass(frozen=True)
class Candidate:
    """A version on its way to serve everyone: loaded, checked, and in a stage."""

    release: StagedRelease
    version: "ModelVersion"
    served: Served
    checks: dict[str, float]
    stage: StageName
    share: float

    def route(self, one: Asked) -> Route:
        """Return who answers a text."""
        return route(self.stage, self.share, self.release.release_id, one.group, one.key_id, one.prediction_id)


@dataclass(frozen=True)
class Beside:
    """A logged text that the other version shall be asked as well; `has_failed`: the candidate could not answer it."""

    asked: Asked
    candidate: Candidate
    champion: Served
    by_candidate: bool
    has_failed: bool = False


@dataclass(frozen=True)
class Kept:
    """What the log must keep of a batch before it is answered, and what is asked beside after that."""

    rows: list[LoggedPrediction]
    beside: tuple[Beside, ...] = ()


def answer_batch(
    loop: Loop, served: Served, candidate: Candidate | None, asked: list[Asked], mark: Mark | None
) -> tuple[list[Answered], Kept]:
    """Return one answer per text, and what to keep of them."""
    if candidate is None:
        answers, rows = _answer(loop, served, "stable", asked, mark)
        return answers, Kept(rows)
    return _answer_staged(loop, served, candidate, asked, mark)


def _answer_staged(
    loop: Loop, served: Served, candidate: Candidate, asked: list[Asked], mark: Mark | None
) -> tuple[list[Answered], Kept]:
    """Answer the canary's part with the candidate and the rest with the champion; its failures are the champion's."""
    routes = [candidate.route(one) for one in asked]
    chosen = [one for one, way in zip(asked, routes, strict=True) if way == "canary"]
    given: dict[str, tuple[Answered, LoggedPrediction]] = {}
    failed: set[str] = set()
    if chosen:
        try:
            found = _answer(loop, candidate.served, "canary", chosen, mark)
            given |= {row.prediction_id: (answer, row) for answer, row in zip(*found, strict=True)}
        except Exception as error:  # noqa: BLE001 - whatever it raises, the champion answers, and it is counted
            failed = {one.prediction_id for one in chosen}
            logger.error("%s: version %s could not answer %d texts, version %s did: %s", loop.name,
                         candidate.served.version, len(chosen), served.version, type(error).__name__)  # fmt: skip
    rest = [one for one in asked if one.prediction_id not in given]
    if rest:
        found = _answer(loop, served, "stable", rest, mark)
        given |= {row.prediction_id: (answer, row) for answer, row in zip(*found, strict=True)}
    beside = tuple(
        Beside(one, candidate, served, by_candidate=way == "shadow", has_failed=one.prediction_id in failed)
        for one, way in zip(asked, routes, strict=True)
        if way != "champion"
    )
    both = [given[one.prediction_id] for one in asked]
    return [answer for answer, _ in both], Kept([row for _, row in both], beside)


def _answer(
    loop: Loop, served: Served, stage: str, asked: list[Asked], mark: Mark | None
) -> tuple[list[Answered], list[LoggedPrediction]]:
    prediction = served.predictor.predict([one.text for one in asked], loop.serving.max_batch, mark)
    labels = served.predictor.labels
    said = prediction.answers
    now, clock = datetime.now(UTC), time.monotonic()
    answers, rows = [], []
    for position, one in enumerate(asked):
        values = prediction.probabilities[position]
        scores = {label: round(float(value), 6) for label, value in zip(labels, values, strict=True)}
        label, score = said[position], round(float(values.max()), 6)
        truncated = bool(prediction.truncated[position])
        answers.append(Answered(one.prediction_id, served.version, label, score, scores, truncated))
        rows.append(
            LoggedPrediction(
                prediction_id=one.prediction_id,
                at=now,
                loop=loop.name,
                version=served.version,
                stage=stage,
                text=redact(one.text),
                group=one.group,
                label=label,
                score=score,
                scores=scores,
                n_tokens=int(prediction.n_tokens[position]),
                truncated=truncated,
                latency_ms=round(1000 * (clock - one.arrived), 3),
                key_id=one.key_id,
                request_id=one.request_id,
            )
        )
    return answers, rows
