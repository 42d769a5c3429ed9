"""What people say on the labelling page; where their votes agree, the label joins the prediction log's feedback."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, and_, delete, func, insert, select, update

from configs.serving_schema import Labelling
from tasks.core.errors import DataError
from tasks.core.labelling import Candidate, Verdict, has_support, judge_votes, normalise, why_picked
from tasks.stores.database import reading, writing
from tasks.stores.prediction_log import LABELLING, SKIPPED
from tasks.stores.schema import doubts, feedback, further_feedback, labels, predictions

DECIDED = "decided"  # kept in place of why it was picked: the last word on a dispute is nobody's vote
MAX_NAMES = 200  # characters of the labellers' names in a feedback row


@dataclass(frozen=True)
class Said:
    """What a labeller said of a text, with what the model had answered; `label` None: skipped."""

    prediction_id: str
    labeller: str
    label: str | None
    text: str
    answered: str
    at: datetime


@dataclass(frozen=True)
class Dispute:
    """A text on which people do not agree."""

    prediction_id: str
    text: str
    votes: tuple[tuple[str, str], ...]  # labeller, label


@dataclass(frozen=True)
class Waiting:
    """Texts that wait for a person's label; `is_all`: no older ones were left out."""

    candidates: list[Candidate]
    is_all: bool
    known: tuple[str, ...] = ()  # texts that got their label lately


class Labels:
    """The labels in a database of `open_database`. Thread-safe; what it writes is committed when it returns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def candidates(self, loop: str, labeller: str, rules: Labelling, limit: int) -> Waiting:
        """Return the newest texts of a loop that wait for a label which this labeller has not given yet.

        A text equal to one that got its label, or that this labeller was asked about, does not wait; the newest `limit`
        of each are looked at.
        """
        live = and_(labels.c.prediction_id == predictions.c.prediction_id, labels.c.undone_at.is_(None))
        mine = select(labels.c.id).where(live, labels.c.labeller == labeller).exists()
        query = (
            select(predictions.c.prediction_id, predictions.c.text, predictions.c.scores)
            .where(predictions.c.loop == loop, ~_has_feedback(), ~mine)
            .order_by(predictions.c.at.desc(), predictions.c.prediction_id.desc())
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = list(connection.execute(query))
            doubted = list(connection.execute(_doubted_query(loop, mine, limit)))
            votes = _votes_by_text(connection, labels.c.loop == loop, ~_label_has_feedback() | _is_doubted())
            labelled = _texts_with_label(connection, loop, limit)
            known = {normalise(text) for text in (*labelled, *_texts_asked(connection, loop, labeller, limit))}
        fresh = [row for row in rows if normalise(row[1]) not in known]
        found = [
            Candidate(
                row[0],
                row[1],
                tuple(map(float, row[2].values())),
                tuple(label for _, label in votes.get(row[0], ())),
                is_doubted,
            )
            for is_doubted, some in ((True, doubted), (False, fresh))
            for row in some
        ]
        is_open = [one for one in found if judge_votes(one.votes, rules).outcome == "open"]
        return Waiting(is_open, len(rows) < limit, tuple(labelled))

    def disputes(self, loop: str, rules: Labelling, limit: int) -> list[Dispute]:
        """Return texts with so many votes that somebody else must decide, oldest first."""
        with reading(self._engine) as connection:
            votes = _votes_by_text(connection, labels.c.loop == loop, ~_label_has_feedback())
            disputed = [known for known, said in votes.items() if _judge(said, rules).outcome == "disputed"][:limit]
            query = select(predictions.c.prediction_id, predictions.c.text)
            query = query.where(predictions.c.prediction_id.in_(disputed)).order_by(predictions.c.at)
            return [Dispute(row[0], row[1], tuple(votes[row[0]])) for row in connection.execute(query)]

    def add(self, loop: str, prediction_id: str, labeller: str, label: str, at: datetime, rules: Labelling) -> Verdict:
        """Keep a label (SKIPPED: none could be given) and, where the votes agree now, the feedback that it makes.

        A second label of the same person on the same text is not kept. Raises DataError for an unknown prediction.
        """
        with writing(self._engine) as connection:
            _hold(connection, loop, prediction_id)
            standing = (labels.c.prediction_id == prediction_id) & (labels.c.labeller == labeller)
            known = select(labels.c.id).where(standing, labels.c.undone_at.is_(None))
            is_new = connection.execute(known).first() is None  # else it was sent twice
            if is_new:
                picked = why_picked(prediction_id, rules, is_doubted=_has_label(connection, prediction_id))
                _write_label(connection, loop, prediction_id, labeller, label, at, picked)
            verdict = _judge(_votes_on(connection, prediction_id), rules)
            if is_new and verdict.label is not None:
                _write_feedback(connection, loop, prediction_id, verdict.label, at)
        return verdict

    def decide(self, loop: str, prediction_id: str, who: str, label: str, at: datetime) -> bool:
        """Give a disputed text its label, whatever the votes; False where it has one already."""
        with writing(self._engine) as connection:
            _hold(connection, loop, prediction_id)
            known = select(feedback.c.label).where(feedback.c.prediction_id == prediction_id)
            if connection.execute(known).first() is not None:
                return False
            _take_back(connection, prediction_id, who, at)
            _write_label(connection, loop, prediction_id, who, label, at, DECIDED)
            _write_feedback(connection, loop, prediction_id, label, at, decided_by=who)
        return True

    def undo(self, loop: str, labeller: str, at: datetime, rules: Labelling) -> str | None:
        """Take back the last label of a person; return its prediction id, or None where there is none.

        Feedback that came of it goes too, unless enough others said the same. What was trained on it stays as it is.
        """
        newest = (
            select(labels.c.prediction_id, labels.c.picked)
            .where(labels.c.loop == loop, labels.c.labeller == labeller, labels.c.undone_at.is_(None))
            .order_by(labels.c.at.desc(), labels.c.id.desc())
            .limit(1)
        )
        with writing(self._engine) as connection:
            row = connection.execute(newest).first()
            if row is None:
                return None
            prediction_id: str = row[0]
            _hold(connection, loop, prediction_id)
            _take_back(connection, prediction_id, labeller, at)
            if not _is_decided(connection, prediction_id):
                _revise_feedback(connection, loop, prediction_id, at, rules, was_decided=row[1] == DECIDED)
        return prediction_id

    def last(self, loop: str, labeller: str, limit: int = 1) -> list[Said]:
        """Return the newest labels of a person that stand, newest first."""
        query = (
            select(labels, predictions.c.text, predictions.c.label.label("answered"))
            .join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
            .where(labels.c.loop == loop, labels.c.labeller == labeller, labels.c.undone_at.is_(None))
            .order_by(labels.c.at.desc(), labels.c.id.desc())
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return [
            Said(row["prediction_id"], row["labeller"], row["label"] or None, row["text"], row["answered"], row["at"])
            for row in rows
        ]

    def votes(self, loop: str, limit: int) -> list[tuple[str, str, str]]:
        """Return the newest votes: prediction id, labeller, label; without skips and the last word on disputes."""
        query = (
            select(labels.c.prediction_id, labels.c.labeller, labels.c.label)
            .where(labels.c.loop == loop, _stands(), labels.c.picked != DECIDED)
            .order_by(labels.c.at.desc(), labels.c.id.desc())
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query)]

    def count_by_labeller(self, loop: str) -> dict[str, int]:
        """Return how many labels that stand everybody gave."""
        query = select(labels.c.labeller, func.count()).where(labels.c.loop == loop, _stands())
        with reading(self._engine) as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query.group_by(labels.c.labeller))}


def _stands() -> ColumnElement[bool]:
    return and_(labels.c.undone_at.is_(None), labels.c.label != SKIPPED)


def _has_feedback() -> ColumnElement[bool]:
    return select(feedback.c.label).where(feedback.c.prediction_id == predictions.c.prediction_id).exists()


def _label_has_feedback() -> ColumnElement[bool]:
    return select(feedback.c.label).where(feedback.c.prediction_id == labels.c.prediction_id).exists()


def _votes_by_text(connection: Connection, *criteria: ColumnElement[bool]) -> dict[str, list[tuple[str, str]]]:
    query = select(labels.c.prediction_id, labels.c.labeller, labels.c.label).where(_stands(), *criteria)
    found: dict[str, list[tuple[str, str]]] = {}
    for prediction_id, labeller, label in connection.execute(query.order_by(labels.c.at, labels.c.id)):
        found.setdefault(prediction_id, []).append((labeller, label))
    return found


def _votes_on(connection: Connection, prediction_id: str) -> list[tuple[str, str]]:
    return _votes_by_text(connection, labels.c.prediction_id == prediction_id).get(prediction_id, [])


def _judge(votes: Sequence[tuple[str, str]], rules: Labelling) -> Verdict:
    return judge_votes([label for _, label in votes], rules)


def _hold(connection: Connection, loop: str, prediction_id: str) -> None:
    """Let one vote on a text be judged at a time: two that agree must not miss each other. SQLite has one writer."""
    known = select(predictions.c.loop).where(predictions.c.prediction_id == prediction_id).with_for_update()
    if connection.execute(known).scalar_one_or_none() != loop:
        raise DataError(f"labels: {loop} made no prediction of this id; it may have been erased")


def _take_back(connection: Connection, prediction_id: str, labeller: str, at: datetime) -> None:
    standing = (
        (labels.c.prediction_id == prediction_id) & (labels.c.labeller == labeller) & labels.c.undone_at.is_(None)
    )
    connection.execute(update(labels).where(standing).values(undone_at=at))


def _is_decided(connection: Connection, prediction_id: str) -> bool:
    decided = and_(labels.c.prediction_id == prediction_id, labels.c.picked == DECIDED, _stands())
    return connection.execute(select(labels.c.id).where(decided)).first() is not None


def _write_label(
    connection: Connection, loop: str, prediction_id: str, labeller: str, label: str, at: datetime, picked: str
) -> None:
    values = {"prediction_id": prediction_id, "loop": loop, "labeller": labeller, "label": label, "at": at}
    connection.execute(insert(labels), [values | {"picked": picked}])


def _doubted_query(loop: str, mine: ColumnElement[bool], limit: int) -> Select[Any]:
    """Select labelled texts that wait for a second person."""
    return (
        select(predictions.c.prediction_id, predictions.c.text, predictions.c.scores)
        .join(doubts, doubts.c.prediction_id == predictions.c.prediction_id)
        .where(doubts.c.loop == loop, ~mine)
        .order_by(predictions.c.at.desc(), predictions.c.prediction_id.desc())
        .limit(limit)
    )


def _is_doubted() -> ColumnElement[bool]:
    return select(doubts.c.reason).where(doubts.c.prediction_id == labels.c.prediction_id).exists()


def _has_label(connection: Connection, prediction_id: str) -> bool:
    known = select(feedback.c.label).where(feedback.c.prediction_id == prediction_id)
    return connection.execute(known).first() is not None


def _texts_asked(connection: Connection, loop: str, labeller: str, limit: int) -> list[str]:
    """Return the texts that a labeller was asked about last."""
    mine = and_(labels.c.loop == loop, labels.c.labeller == labeller, labels.c.undone_at.is_(None))
    said = (
        select(predictions.c.text)
        .join(labels, labels.c.prediction_id == predictions.c.prediction_id)
        .where(mine)
        .order_by(labels.c.at.desc())
        .limit(limit)
    )
    return list(connection.execute(said).scalars())


def _texts_with_label(connection: Connection, loop: str, limit: int) -> list[str]:
    """Return the texts that got a label last."""
    agreed = (
        select(predictions.c.text)
        .join(feedback, feedback.c.prediction_id == predictions.c.prediction_id)
        .where(feedback.c.loop == loop)
        .order_by(feedback.c.at.desc())
        .limit(limit)
    )
    return list(connection.execute(agreed).scalars())


def _revise_feedback(
    connection: Connection, loop: str, prediction_id: str, at: datetime, rules: Labelling, *, was_decided: bool
) -> None:
    """Make the feedback that came of votes what the remaining ones say; one that still has them keeps its time.

    Where they say nothing, what a customer said besides takes its place.
    """
    votes = _votes_on(connection, prediction_id)
    ours = and_(feedback.c.prediction_id == prediction_id, feedback.c.key_id == LABELLING)
    kept = connection.execute(select(feedback.c.label).where(ours)).scalar_one_or_none()
    if kept is not None and not was_decided and has_support(kept, [label for _, label in votes], rules):
        connection.execute(update(feedback).where(ours).values(labeller=_names_behind(kept, votes)))
        return
    connection.execute(delete(feedback).where(ours))
    verdict = _judge(votes, rules)
    if verdict.label is not None:
        _write_feedback(connection, loop, prediction_id, verdict.label, at)
    elif kept is not None:
        _move_up(connection, prediction_id)


def _move_up(connection: Connection, prediction_id: str) -> None:
    """Make the first of further feedback, if any, the feedback: without such a row nothing said of a text is read."""
    columns = [column for column in further_feedback.c if column.name != "id"]
    said = select(further_feedback.c.id, *columns).where(further_feedback.c.prediction_id == prediction_id)
    first = connection.execute(said.order_by(further_feedback.c.id).limit(1)).mappings().first()
    if first is not None:
        connection.execute(insert(feedback), [{column.name: first[column.name] for column in columns}])
        connection.execute(delete(further_feedback).where(further_feedback.c.id == first["id"]))


def _names_behind(label: str, votes: Sequence[tuple[str, str]]) -> str:
    return ", ".join(sorted(who for who, said in votes if said == label))[:MAX_NAMES]


def _write_feedback(
    connection: Connection, loop: str, prediction_id: str, label: str, at: datetime, decided_by: str | None = None
) -> None:
    """Add the feedback unless there is some: what a customer said first stays."""
    known = select(feedback.c.label).where(feedback.c.prediction_id == prediction_id)
    if connection.execute(known).first() is not None:
        return
    names = decided_by or _names_behind(label, _votes_on(connection, prediction_id))
    values: dict[str, Any] = {"prediction_id": prediction_id, "loop": loop, "label": label, "at": at}
    connection.execute(insert(feedback), [values | {"labeller": names, "key_id": LABELLING}])
