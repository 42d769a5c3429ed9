"""Usage on a real PostgreSQL server, whose transactions see what others commit meanwhile unless they ask not to."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from tasks.core.errors import TransientError
from tasks.stores.database import open_database
from tasks.stores.opinions import Opinions
from tasks.stores.prediction_log import LoggedPrediction, PredictionLog
from tasks.stores.schema import doubts
from tests.support.monitored import make_predictions, make_texts
from tests.support.postgres import run_postgres

START = datetime(2026, 11, 1, tzinfo=UTC)
pytestmark = pytest.mark.skipif(shutil.which("initdb") is None, reason="no PostgreSQL server is installed")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_postgres(tmp_path_factory.mktemp("postgresql")) as found:
        yield found


def make_rows(name: str, number: int) -> list[LoggedPrediction]:
    rows = make_predictions(make_texts(number), start=START, loop="toy", version=name)
    return [replace(row, key_id=name) for row in rows]


@contextmanager
def after_count(engine: Engine, do: Callable[[], object]) -> Iterator[None]:
    """Do something, once, between the first look at the predictions and what follows it."""
    todo = [do]

    def hear(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if todo and "count(*)" in statement:
            todo.pop()()

    event.listen(engine, "after_cursor_execute", hear)
    yield
    event.remove(engine, "after_cursor_execute", hear)
    assert not todo


def count(log: PredictionLog, key_id: str) -> tuple[int, int]:
    frame = log.usage(key_id, START, START + timedelta(days=30))
    return int(frame["requests"].sum()), int(frame["texts"].sum())


@pytest.fixture
def engines(url: str) -> Iterator[Sequence[Engine]]:
    found = open_database(url), open_database(url)
    yield found
    for one in found:
        one.dispose()


def test_rows_that_are_purged_while_they_are_counted_count_once(engines: Sequence[Engine]) -> None:
    log, other = (PredictionLog(engine) for engine in engines)
    log.append(make_rows("purged", 5))
    with after_count(engines[0], lambda: other.purge(START + timedelta(days=1))):
        assert count(log, "purged") == (5, 5)
    assert count(log, "purged") == (5, 5)


def test_a_row_that_is_answered_while_its_key_is_erased_counts(engines: Sequence[Engine]) -> None:
    log, other = (PredictionLog(engine) for engine in engines)
    *first, last = make_rows("erased", 4)
    log.append(first)
    with after_count(engines[0], lambda: other.append([last])):
        assert log.erase(key_id="erased") == 3
    assert count(log, "erased") == (4, 4)
    assert log.erase(key_id="erased") == 1


def test_of_two_who_erase_the_same_rows_one_counts_them(engines: Sequence[Engine]) -> None:
    log, other = (PredictionLog(engine) for engine in engines)
    log.append(make_rows("twice", 3))
    with (
        after_count(engines[0], lambda: other.erase(key_id="twice")),
        pytest.raises(TransientError, match="could not serialize access"),
    ):
        log.erase(key_id="twice")
    assert count(log, "twice") == (3, 3)
    assert log.erase(key_id="twice") == 0


def test_two_who_judge_the_same_labels_do_not_cross(engines: Sequence[Engine]) -> None:
    def doubt(number: int) -> None:
        Opinions(engines[number % 2]).doubt("toy", {f"p{row}": f"reason {number}" for row in range(200)})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(doubt, range(40)))
    with engines[0].connect() as connection:
        assert len(set(connection.execute(select(doubts.c.reason)).scalars())) == 1
