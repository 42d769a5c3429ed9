"""Every answered text with what was said about it; labels that come back later join by prediction id."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    ScalarSelect,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from tasks.core.errors import DataError
from tasks.stores.database import RowInsert, as_repeatable, as_writer, reading, writing
from tasks.stores.schema import doubts, feedback, further_feedback, labels, past_usage, predictions, shadow_predictions

FeedbackOutcome = Literal["recorded", "repeated", "conflict", "unknown"]
WINDOW_COLUMNS = (
    "prediction_id",
    "at",
    "version",
    "text",
    "group",
    "label",
    "score",
    "n_tokens",
    "truncated",
    "key_id",
)
LABELLING = "labelling"  # the key id of feedback that came from votes on the labelling page
SKIPPED = ""  # kept in place of a label where somebody could not say
GIVEN = "given"  # how a label came that a customer sent
USAGE_COLUMNS = ["key_id", "loop", "day", "requests", "texts"]


@dataclass(frozen=True)
class LoggedPrediction:
    """One answered text as it is kept; `text` is already redacted."""

    prediction_id: str
    at: datetime
    loop: str
    version: str
    stage: str
    text: str
    group: str | None
    label: str
    score: float
    scores: dict[str, float]
    n_tokens: int
    truncated: bool
    latency_ms: float
    key_id: str
    request_id: str | None = None  # prediction id of the call's first text; None: this text was a call of its own


class PredictionLog:
    """Predictions and their feedback in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = as_writer(engine)
        self._insert = RowInsert(predictions, engine)

    def append(self, rows: Sequence[LoggedPrediction]) -> None:
        """Keep all rows or none, committed when this returns; raises TransientError when it cannot."""
        if not rows:
            return
        values = [vars(row) | {"request_id": row.request_id or row.prediction_id} for row in rows]
        with writing(self._writer) as connection:
            self._insert(connection, values)

    def read_window(
        self, loop: str, *, max_rows: int, since: datetime | None = None, until: datetime | None = None
    ) -> pd.DataFrame:
        """Return the newest rows with since <= at < until, oldest first, and the label that feedback gave, if any.

        Columns: prediction_id, at, version, text, group (the prediction id where the caller named none), label, score,
        `p_<label>` per class, n_tokens, truncated, key_id, gold and gold_at (None and NaT without feedback), and
        picked: how the label came (given by a customer, else asked), None without one; asked: why people were asked.
        """
        query = (
            select(
                predictions,
                feedback.c.label.label("gold"),
                feedback.c.at.label("gold_at"),
                case((feedback.c.key_id.is_not(None), why_asked())).label("asked"),
                case((feedback.c.key_id == LABELLING, why_asked()), (feedback.c.key_id.is_not(None), GIVEN)).label(
                    "picked"
                ),
            )
            .select_from(predictions.outerjoin(feedback, feedback.c.prediction_id == predictions.c.prediction_id))
            .where(predictions.c.loop == loop, *_between(predictions.c.at, since, until))
            .order_by(predictions.c.at.desc(), predictions.c.prediction_id.desc())
            .limit(max_rows)
        )
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return _window_frame(rows[::-1])

    def read_prediction(self, prediction_id: str) -> LoggedPrediction | None:
        """Return one kept row, or None when there is none of this id."""
        with reading(self._engine) as connection:
            row = connection.execute(_by_id(prediction_id)).mappings().one_or_none()
        return None if row is None else LoggedPrediction(**row)

    def read_predictions(self, prediction_ids: Sequence[str]) -> dict[str, LoggedPrediction]:
        """Return the kept rows of these ids; one that was never answered, or erased, is not there."""
        query = select(predictions).where(predictions.c.prediction_id.in_(list(prediction_ids)))
        with reading(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
        return {row["prediction_id"]: LoggedPrediction(**row) for row in rows}

    def record_feedback(
        self, prediction_id: str, label: str, labeller: str | None, at: datetime, key_id: str
    ) -> FeedbackOutcome:
        """Keep the true label of a prediction.

        `repeated`: this very label was there. `conflict`: another label was, and stays here; what is trained on weighs
        both (`tasks/core/feedback_trust.py`). `unknown`: no such prediction.
        """
        try:
            with writing(self._engine) as connection:
                return _record_feedback(connection, prediction_id, label, labeller, at, key_id)
        except IntegrityError:  # another process recorded between our look and our write
            with writing(self._engine) as connection:
                return _record_feedback(connection, prediction_id, label, labeller, at, key_id)

    def labelled_rows(self, loop: str) -> pd.DataFrame:
        """Return rows to train on: every prediction with feedback, its label being the feedback's, oldest first.

        Columns: row_id, text, label, group, source, observed_at, rating. Equal texts without a group share one.
        """
        query = (
            select(predictions, feedback.c.label.label("gold"))
            .join(feedback, feedback.c.prediction_id == predictions.c.prediction_id)
            .where(predictions.c.loop == loop)
            .order_by(predictions.c.at, predictions.c.prediction_id)
        )
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return _row_frame(rows)

    def count_labels(self, loop: str, since: datetime | None = None, among: Sequence[str] | None = None) -> int:
        """Return how many labels came back, counting from a time of feedback on; `among`: only these labels."""
        query = select(func.count()).where(feedback.c.loop == loop, *_between(feedback.c.at, since, None))
        query = query if among is None else query.where(feedback.c.label.in_(list(among)))
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def labelled_ids(self, loop: str, since: datetime | None = None) -> set[str]:
        """Return the predictions of which somebody gave a label, counting from a time on."""
        found: set[str] = set()
        with reading(self._engine) as connection:
            for table in (feedback, further_feedback, labels):
                query = select(table.c.prediction_id).where(table.c.loop == loop, *_between(table.c.at, since, None))
                if table is labels:
                    query = query.where(labels.c.undone_at.is_(None), labels.c.label != SKIPPED)
                found.update(connection.execute(query).scalars())
        return found

    def erase(self, *, prediction_id: str | None = None, key_id: str | None = None, group: str | None = None) -> int:
        """Delete the predictions that fit every given criterion, with their feedback; return how many went.

        What they counted for stays in `usage`. Raises DataError without any criterion.
        """
        wanted = {"prediction_id": prediction_id, "key_id": key_id, "group": group}
        return self._delete(_criterion(wanted))

    def find_ids(
        self, *, prediction_id: str | None = None, key_id: str | None = None, group: str | None = None
    ) -> dict[str, list[str]]:
        """Return the prediction ids that `erase` would delete, per loop."""
        criterion = _criterion({"prediction_id": prediction_id, "key_id": key_id, "group": group})
        found: dict[str, list[str]] = {}
        with reading(self._engine) as connection:
            for loop, known in connection.execute(
                select(predictions.c.loop, predictions.c.prediction_id).where(criterion)
            ):
                found.setdefault(loop, []).append(known)
        return found

    def purge(self, before: datetime, loop: str | None = None, labelled: bool = False) -> int:
        """Delete predictions older than a time, of one loop or all; return how many. Usage stays.

        Either those without feedback or, `labelled`, those with it: labels are training rows, and some of them frozen
        test rows, so they have a time of their own.
        """
        with_feedback = predictions.c.prediction_id.in_(select(feedback.c.prediction_id))
        older = and_(predictions.c.at < before, with_feedback if labelled else ~with_feedback)
        return self._delete(older if loop is None else and_(older, predictions.c.loop == loop))

    def usage(self, key_id: str | None, since: datetime, until: datetime) -> pd.DataFrame:
        """Return requests and texts per key, loop and UTC day of since <= day < until; key_id None means every key."""
        with reading(as_repeatable(self._engine)) as connection:
            rows = list(connection.execute(_usage_query(and_(*_between(predictions.c.at, since, until)), key_id)))
            rows += list(connection.execute(_past_usage_query(key_id, since, until)))
        frame = pd.DataFrame([(*row[:2], str(row[2]), *row[3:]) for row in rows], columns=USAGE_COLUMNS)
        summed = frame.groupby(USAGE_COLUMNS[:3], as_index=False)[USAGE_COLUMNS[3:]].sum()
        return summed.sort_values(["day", "key_id", "loop"], ignore_index=True)

    def _delete(self, criterion: ColumnElement[bool]) -> int:
        with writing(as_repeatable(self._engine)) as connection:
            counted = [dict(row) for row in connection.execute(_usage_query(criterion, None)).mappings()]
            if not counted:
                return 0
            connection.execute(insert(past_usage), [row | {"day": str(row["day"])} for row in counted])
            doomed = select(predictions.c.prediction_id).where(criterion)
            for table in (feedback, further_feedback, doubts, labels, shadow_predictions):
                connection.execute(delete(table).where(table.c.prediction_id.in_(doomed)))
            connection.execute(delete(predictions).where(criterion))
        return sum(row["texts"] for row in counted)


def why_asked() -> ScalarSelect[Any]:
    """Return why people were asked about a prediction of the query around it: audit if any vote says so."""
    asked = and_(labels.c.prediction_id == predictions.c.prediction_id, labels.c.undone_at.is_(None))
    return select(func.min(labels.c.picked)).where(asked).correlate(predictions).scalar_subquery()


def _criterion(wanted: dict[str, str | None]) -> ColumnElement[bool]:
    criteria = [predictions.c[name] == value for name, value in wanted.items() if value is not None]
    if not criteria:
        raise DataError("erase: name a prediction_id, a key_id or a group; nothing was erased")
    return and_(*criteria)


def _between(column: ColumnElement[Any], since: datetime | None, until: datetime | None) -> list[ColumnElement[bool]]:
    criteria = [] if since is None else [column >= since]
    return criteria if until is None else [*criteria, column < until]


def _by_id(prediction_id: str) -> Select[Any]:
    return select(predictions).where(predictions.c.prediction_id == prediction_id)


def _record_feedback(
    connection: Connection, prediction_id: str, label: str, labeller: str | None, at: datetime, key_id: str
) -> FeedbackOutcome:
    predicted = connection.execute(_by_id(prediction_id)).mappings().one_or_none()
    if predicted is None:
        return "unknown"
    known = feedback.c.prediction_id == prediction_id
    kept = connection.execute(select(feedback.c.label, feedback.c.key_id, feedback.c.labeller).where(known)).first()
    if kept is not None:
        first = str(kept[0]) if (kept[1], kept[2]) == (key_id, labeller) else None
        _write_further(connection, prediction_id, predicted["loop"], label, labeller, at, key_id, first)
        if kept[0] == label and kept[1] == LABELLING:  # confirmed: no undo of a vote takes it back now
            connection.execute(update(feedback).where(known).values(labeller=labeller, key_id=key_id))
        return "repeated" if kept[0] == label else "conflict"
    values = {"prediction_id": prediction_id, "loop": predicted["loop"], "label": label, "labeller": labeller}
    connection.execute(insert(feedback), [values | {"at": at, "key_id": key_id}])
    return "recorded"


def _write_further(
    connection: Connection, prediction_id: str, loop: str, label: str, labeller: str | None, at: datetime, key_id: str,
    first: str | None,
) -> None:  # fmt: skip
    """Keep what somebody said besides; saying again what they said last, or `first`, adds nothing."""
    values = {"prediction_id": prediction_id, "loop": loop, "label": label, "labeller": labeller, "key_id": key_id}
    last = select(further_feedback.c.label).where(
        further_feedback.c.prediction_id == prediction_id,
        further_feedback.c.key_id == key_id,
        further_feedback.c.labeller.is_not_distinct_from(labeller),
    )
    newest = connection.execute(last.order_by(further_feedback.c.id.desc()).limit(1)).scalar_one_or_none()
    if (newest or first) != label:
        connection.execute(insert(further_feedback), [values | {"at": at}])


def _usage_query(criterion: ColumnElement[bool], key_id: str | None) -> Select[Any]:
    columns = predictions.c
    day = func.date(columns.at)
    requests = func.sum(case((columns.request_id == columns.prediction_id, 1), else_=0))
    query = select(
        columns.key_id, columns.loop, day.label("day"), requests.label("requests"), func.count().label("texts")
    )
    query = query.where(criterion).group_by(columns.key_id, columns.loop, day)
    return query if key_id is None else query.where(columns.key_id == key_id)


def _past_usage_query(key_id: str | None, since: datetime, until: datetime) -> Select[Any]:
    columns = past_usage.c
    query = select(columns.key_id, columns.loop, columns.day, columns.requests, columns.texts)
    first, last = (moment.astimezone(UTC).date().isoformat() for moment in (since, until - timedelta(microseconds=1)))
    query = query.where(columns.day.between(first, last))
    return query if key_id is None else query.where(columns.key_id == key_id)


def _window_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*WINDOW_COLUMNS])
    labels = sorted({label for row in rows for label in row["scores"]})
    for label in labels:
        frame[f"p_{label}"] = pd.Series([row["scores"].get(label) for row in rows], dtype="float64")
    frame["group"] = [row["group"] or row["prediction_id"] for row in rows]
    frame["gold"] = pd.Series([row["gold"] for row in rows], dtype=object)
    for name in ("picked", "asked"):
        frame[name] = pd.Series([row[name] for row in rows], dtype=object)
    for name, values in {"at": [row["at"] for row in rows], "gold_at": [row["gold_at"] for row in rows]}.items():
        frame[name] = pd.Series(values, dtype="datetime64[us, UTC]")
    return frame.astype({"score": "float64", "n_tokens": "int64", "truncated": "bool"})


def _row_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "row_id": [f"feedback:{row['prediction_id']}" for row in rows],
        "text": [row["text"] for row in rows],
        "label": [row["gold"] for row in rows],
        "group": [row["group"] or _group_of_text(row["text"]) for row in rows],
        "source": ["feedback"] * len(rows),
    }
    frame = pd.DataFrame({name: pd.Series(values, dtype="str") for name, values in columns.items()})
    frame["observed_at"] = pd.Series([row["at"] for row in rows], dtype="datetime64[us, UTC]")
    frame["rating"] = pd.Series([float("nan")] * len(rows), dtype="float64")
    return frame


def _group_of_text(text: str) -> str:
    normalised = " ".join(text.casefold().split())
    return f"text:{hashlib.sha256(normalised.encode()).hexdigest()[:16]}"
