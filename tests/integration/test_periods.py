"""Windows by time, and the weeks before, on a real database."""

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

from configs.load import load_loop
from configs.schema import Loop
from tasks.stores.database import open_database
from tasks.stores.periods import read_period, share_rows
from tasks.stores.prediction_log import PredictionLog
from tasks.window_reading import read_current, season_reader
from tests.support.monitored import START, make_predictions, make_texts
from tests.support.toy_loop import write_toy_loop

DAY = timedelta(days=1)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path / 'log.db'}")


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return load_loop(write_toy_loop(tmp_path / "loops", num_rows=30))


def send(engine: Engine, num_rows: int, seed: int, days_ago: float = 0.0, version: str = "1") -> None:
    start = START - days_ago * DAY
    rows = make_predictions(make_texts(num_rows, seed=seed), seed=seed, start=start, version=version)
    PredictionLog(engine).append(rows)


@pytest.mark.parametrize(
    ("counts", "max_rows", "shares"),
    [([5, 5], 20, [5, 5]), ([300, 100, 0], 40, [30, 10, 0]), ([1, 1, 1], 2, [0, 1, 1]), ([0, 0], 5, [0, 0])],
)
def test_slices_give_their_share(counts: list[int], max_rows: int, shares: list[int]) -> None:
    assert share_rows(counts, max_rows) == shares


def test_a_period_is_read_from_all_over_it(engine: Engine) -> None:
    send(engine, 60, seed=1)
    send(engine, 20, seed=2, days_ago=0.5)
    send(engine, 5, seed=3, days_ago=3)
    until = START + timedelta(minutes=5)
    rows = read_period(engine, "toy", since=until - DAY, until=until, max_rows=40)
    assert len(rows) == 40
    assert (rows["at"] < START).sum() == 10  # a quarter of the day's rows
    assert rows["at"].is_monotonic_increasing
    assert len(read_period(engine, "toy", since=until - DAY, until=until, max_rows=500)) == 80


@pytest.mark.parametrize(("by", "num_rows", "num_old"), [("count", 40, 0), ("time", 40, 10)])
def test_the_window_is_read_by_count_or_by_time(
    engine: Engine, loop: Loop, by: str, num_rows: int, num_old: int
) -> None:
    send(engine, 60, seed=1)
    send(engine, 20, seed=2, days_ago=0.5)
    window = loop.monitoring.window.model_copy(update={"by": by, "max_rows": num_rows, "max_age_hours": 24.0})
    rules = loop.monitoring.model_copy(update={"window": window})
    changed = loop.model_copy(update={"monitoring": rules})
    rows = read_current(engine, changed, "1", START + timedelta(minutes=5))
    assert (len(rows), (rows["at"] < START).sum()) == (num_rows, num_old)
    assert {"n_chars", "n_words"} <= set(rows.columns)


def test_earlier_weeks_are_read_whatever_version_answered(engine: Engine, loop: Loop) -> None:
    send(engine, 30, seed=1, days_ago=7)
    send(engine, 30, seed=2, days_ago=14, version="0")
    send(engine, 30, seed=3, days_ago=10)
    spans = [(START - week * DAY, START - week * DAY + timedelta(hours=1)) for week in (7, 14, 21)]
    rows = season_reader(engine, loop)(spans)
    assert rows["version"].value_counts().to_dict() == {"1": 30, "0": 30}
    assert {"n_words", "p_positive"} <= set(rows.columns)
    nothing = season_reader(engine, loop)([(START + DAY, START + 2 * DAY)])
    assert isinstance(nothing, pd.DataFrame)
    assert nothing.empty
