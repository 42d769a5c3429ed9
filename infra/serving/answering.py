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
class Part:
    """What one version answered of a batch, as the log's thread makes rows of it: the engine's has better to do."""

    version: str
    stage: str
    asked: list[Asked]
    answers: list[Answered]
    n_tokens: list[int]
    at: datetime
    clock: float  # on the clock of `Asked.arrived`

    def rows(self, loop: str) -> list[LoggedPrediction]:
        """Return what the log keeps, texts redacted."""
        return [
            LoggedPrediction(
                prediction_id=one.prediction_id,
                at=self.at,
                loop=loop,
                version=self.version,
                stage=self.stage,
                text=redact(one.text),
                group=one.group,
                label=answer.label,
                score=answer.score,
                scores=answer.scores,
                n_tokens=n_tokens,
                truncated=answer.truncated,
                latency_ms=round(1000 * (self.clock - one.arrived), 3),
                key_id=one.key_id,
                request_id=one.request_id,
            )
            for one, answer, n_tokens in zip(self.asked, self.answers, self.n_tokens, strict=True)
        ]


@dataclass(frozen=True)
class Kept:
    """What the log must keep of a batch before it is answered, and what is asked beside after that."""

    parts: tuple[Part, ...]
    beside: tuple[Beside, ...] = ()


def answer_batch(
    loop: Loop, served: Served, candidate: Candidate | None, asked: list[Asked], mark: Mark | None
) -> tuple[list[Answered], Kept]:
    """Return one answer per text, and what to keep of them."""
    if candidate is None:
        part = _answer(loop, served, "stable", asked, mark)
        return part.answers, Kept((part,))
    return _answer_staged(loop, served, candidate, asked, mark)


def _answer_staged(
    loop: Loop, served: Served, candidate: Candidate, asked: list[Asked], mark: Mark | None
) -> tuple[list[Answered], Kept]:
    """Answer the canary's part with the candidate and the rest with the champion; its failures are the champion's."""
    routes = [candidate.route(one) for one in asked]
    chosen = [one for one, way in zip(asked, routes, strict=True) if way == "canary"]
    parts: list[Part] = []
    failed: set[str] = set()
    if chosen:
        try:
            parts.append(_answer(loop, candidate.served, "canary", chosen, mark))
        except Exception as error:  # noqa: BLE001 - whatever it raises, the champion answers, and it is counted
            failed = {one.prediction_id for one in chosen}
            logger.error("%s: version %s could not answer %d texts, version %s did: %s", loop.name,
                         candidate.served.version, len(chosen), served.version, type(error).__name__)  # fmt: skip
    if failed or len(chosen) < len(asked):
        rest = [one for one, way in zip(asked, routes, strict=True) if way != "canary" or one.prediction_id in failed]
        parts.append(_answer(loop, served, "stable", rest, mark))
    beside = tuple(
        Beside(one, candidate, served, by_candidate=way == "shadow", has_failed=one.prediction_id in failed)
        for one, way in zip(asked, routes, strict=True)
        if way != "champion"
    )
    given = {answer.prediction_id: answer for part in parts for answer in part.answers}
    return [given[one.prediction_id] for one in asked], Kept(tuple(parts), beside)


def _answer(loop: Loop, served: Served, stage: str, asked: list[Asked], mark: Mark | None) -> Part:
    prediction = served.predictor.predict([one.text for one in asked], loop.serving.max_batch, mark)
    labels, version = served.predictor.labels, served.version
    answers = [
        Answered(
            one.prediction_id,
            version,
            label,
            round(max(values), 6),
            {name: round(value, 6) for name, value in zip(labels, values, strict=True)},
            truncated,
        )
        for one, label, values, truncated in zip(
            asked,
            prediction.answers,
            prediction.probabilities.tolist(),  # one call, where each number alone would be one
            prediction.truncated.tolist(),
            strict=True,
        )
    ]
    return Part(version, stage, asked, answers, prediction.n_tokens.tolist(), datetime.now(UTC), time.monotonic())
