"""The window of a large log is found by an index, not by reading the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tests.support.monitored import START, make_predictions, make_texts


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path / 'log.db'}")
    PredictionLog(engine).append(make_predictions(make_texts(50)))
    yield engine
    engine.dispose()


@pytest.mark.parametrize("since", [None, START])
def test_sqlite_walks_the_index_from_its_newest_end(engine: Engine, since: Any) -> None:
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    assert len(PredictionLog(engine).read_window("toy", max_rows=10, since=since)) == 10
    statement, parameters = next(each for each in asked if "predictions" in each[0])
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    plan = [str(row[-1]) for row in rows]
    assert any("predictions USING INDEX predictions_by_time (loop=?" in step for step in plan), plan
    assert not any(step == "USE TEMP B-TREE FOR ORDER BY" for step in plan), (
        plan
    )  # ties of one moment are sorted, no more
