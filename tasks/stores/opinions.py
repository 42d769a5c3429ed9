"""What everybody said of a loop's predictions, and which of it a second person should look at."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, Select, and_, case, delete, func, insert, select, text

from tasks.core.feedback_trust import PEOPLE, SURE, Exposure, Statement
from tasks.core.rows import normalise_text
from tasks.stores.database import reading, writing
from tasks.stores.labels import DECIDED
from tasks.stores.prediction_log import LABELLING, SKIPPED
from tasks.stores.schema import doubts, feedback, further_feedback, labels, predictions

EXPOSED_ROWS = 50_000  # newest answers in which contradictions are counted


class Opinions:
    """Statements in a database of `open_database`. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def statements(self, loop: str, reviewed_keys: Sequence[str] = ()) -> list[Statement]:
        """Return every label that a customer or a person gave, oldest first.

        Those of `reviewed_keys` ("*": all) and of people on the labelling page are reviews.
        """
        with reading(self._engine) as connection:
            given = [row for query in _given_queries(loop) for row in connection.execute(query)]
            votes = list(connection.execute(_votes_query(loop)))
        every = "*" in reviewed_keys
        found = [
            Statement(row[0], normalise_text(row[1]), row[2], row[3], row[4], row[5], every or row[2] in reviewed_keys)
            for row in given
        ]
        found += [Statement(row[0], normalise_text(row[1]), PEOPLE + row[2], None, row[3], row[4], True)
                  for row in votes]  # fmt: skip
        return sorted(found, key=lambda one: (one.at, one.prediction_id))

    def decided(self, loop: str) -> dict[str, str]:
        """Return the operator's last word on disputed texts, by prediction."""
        stands = and_(labels.c.loop == loop, labels.c.undone_at.is_(None), labels.c.picked == DECIDED)
        with reading(self._engine) as connection:
            query = select(labels.c.prediction_id, labels.c.label).where(stands, labels.c.label != SKIPPED)
            return {row[0]: row[1] for row in connection.execute(query)}

    def exposures(self, loop: str) -> tuple[dict[str, Exposure], Exposure]:
        """Return, per key that sent labels, how many of its newest sure answers it contradicted; and the baseline.

        The baseline: sure answers to texts that people labelled because chance drew them.
        """
        newest = (
            select(predictions.c.prediction_id, predictions.c.key_id, predictions.c.label, predictions.c.score)
            .where(predictions.c.loop == loop)
            .order_by(predictions.c.at.desc())
            .limit(EXPOSED_ROWS)
            .subquery()
        )
        joined = newest.outerjoin(feedback, feedback.c.prediction_id == newest.c.prediction_id)
        told = case((and_(feedback.c.key_id != LABELLING, feedback.c.label != newest.c.label), 1), else_=0)
        by_key = select(newest.c.key_id, func.count(), func.sum(told), func.count(feedback.c.label))
        by_key = by_key.select_from(joined).where(newest.c.score >= SURE).group_by(newest.c.key_id)
        drawn = (
            select(func.count(), func.sum(case((feedback.c.label != newest.c.label, 1), else_=0)))
            .select_from(newest.join(feedback, feedback.c.prediction_id == newest.c.prediction_id))
            .where(newest.c.score >= SURE, feedback.c.key_id == LABELLING, _is_drawn(newest.c.prediction_id))
        )
        with reading(self._engine) as connection:
            keys = {row[0]: Exposure(int(row[1]), int(row[2] or 0)) for row in connection.execute(by_key) if row[3]}
            count, wrong = connection.execute(drawn).one()
        return keys, Exposure(int(count), int(wrong or 0))

    def doubt(self, loop: str, reasons: Mapping[str, str]) -> None:
        """Let these predictions, by id, wait for a second person, and no others."""
        with reading(self._engine) as connection:
            query = select(doubts.c.prediction_id, doubts.c.reason).where(doubts.c.loop == loop)
            if {row[0]: row[1] for row in connection.execute(query)} == reasons:
                return
        rows = [{"prediction_id": known, "loop": loop, "reason": reason} for known, reason in reasons.items()]
        with writing(self._engine) as connection:
            if self._engine.dialect.name == "postgresql":  # of two at once both would insert
                connection.execute(text("LOCK TABLE doubts IN SHARE ROW EXCLUSIVE MODE"))
            connection.execute(delete(doubts).where(doubts.c.loop == loop))
            if rows:
                connection.execute(insert(doubts), rows)


def _given_queries(loop: str) -> list[Select[Any]]:
    return [
        select(table.c.prediction_id, predictions.c.text, table.c.key_id, table.c.labeller, table.c.label, table.c.at)
        .join(predictions, predictions.c.prediction_id == table.c.prediction_id)
        .where(table.c.loop == loop, table.c.key_id != LABELLING)
        for table in (feedback, further_feedback)
    ]


def _votes_query(loop: str) -> Select[Any]:
    return (
        select(labels.c.prediction_id, predictions.c.text, labels.c.labeller, labels.c.label, labels.c.at)
        .join(predictions, predictions.c.prediction_id == labels.c.prediction_id)
        .where(labels.c.loop == loop, labels.c.undone_at.is_(None), labels.c.label != SKIPPED)
    )


def _is_drawn(prediction_id: Any) -> Any:
    return (
        select(labels.c.id)
        .where(labels.c.prediction_id == prediction_id, labels.c.undone_at.is_(None), labels.c.picked == "audit")
        .exists()
    )
