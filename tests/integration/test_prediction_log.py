from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tasks.core.errors import DataError, TransientError
from tasks.stores.database import open_database
from tasks.stores.prediction_log import LoggedPrediction, PredictionLog

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def predicted(name: str, minutes: int = 0, **changes: object) -> LoggedPrediction:
    row = LoggedPrediction(
        prediction_id=name,
        at=NOON + timedelta(minutes=minutes),
        loop="mood",
        version="1",
        stage="stable",
        text=f"text {name}",
        group=None,
        label="good",
        score=0.75,
        scores={"bad": 0.25, "good": 0.75},
        n_tokens=4,
        truncated=False,
        latency_ms=1.5,
        key_id="key_a",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path}/deep/evertune.db")


@pytest.fixture
def log(engine: Engine) -> PredictionLog:
    return PredictionLog(engine)


def test_window_holds_the_newest_rows_oldest_first(log: PredictionLog) -> None:
    log.append([predicted("c", 3, group="anna"), predicted("a", 1), predicted("b", 2), predicted("z", 9, loop="other")])
    log.record_feedback("b", "bad", "eve", NOON + timedelta(hours=1), "key_a")
    frame = log.read_window("mood", max_rows=2)
    assert frame["prediction_id"].tolist() == ["b", "c"]
    assert frame["group"].tolist() == ["b", "anna"]
    assert frame["gold"].tolist() == ["bad", None]
    assert frame["p_bad"].tolist() == [0.25, 0.25]
    assert frame["at"].tolist() == [NOON + timedelta(minutes=2), NOON + timedelta(minutes=3)]
    assert str(frame["at"].dtype) == str(frame["gold_at"].dtype) == "datetime64[us, UTC]"
    assert frame["gold_at"].isna().tolist() == [False, True]
    assert (str(frame["truncated"].dtype), str(frame["n_tokens"].dtype)) == ("bool", "int64")


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [(None, None, ["a", "b", "c"]), (2, None, ["b", "c"]), (None, 2, ["a"]), (2, 3, ["b"]), (4, None, [])],
)
def test_window_by_time(log: PredictionLog, since: int | None, until: int | None, expected: list[str]) -> None:
    log.append([predicted("a", 1), predicted("b", 2), predicted("c", 3)])
    bounds = [None if minute is None else NOON + timedelta(minutes=minute) for minute in (since, until)]
    frame = log.read_window("mood", max_rows=10, since=bounds[0], until=bounds[1])
    assert frame["prediction_id"].tolist() == expected
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"


def test_labels_of_two_versions_stand_side_by_side(log: PredictionLog) -> None:
    log.append([predicted("a"), predicted("b", 1, scores={"good": 0.5, "so-so": 0.5})])
    frame = log.read_window("mood", max_rows=10)
    assert frame["p_so-so"].isna().tolist() == [True, False]
    assert frame["p_good"].tolist() == [0.75, 0.5]


def test_append_keeps_all_rows_or_none(log: PredictionLog) -> None:
    log.append([predicted("a")])
    with pytest.raises(Exception, match="UNIQUE constraint failed") as caught:
        log.append([predicted("b"), predicted("a", text="secret words")])
    assert "secret" not in str(caught.value)
    assert log.read_window("mood", max_rows=10)["prediction_id"].tolist() == ["a"]


def test_feedback_outcomes(log: PredictionLog) -> None:
    log.append([predicted("a")])
    given = [("a", "bad"), ("a", "bad"), ("a", "good"), ("nobody", "bad")]
    outcomes = [log.record_feedback(name, label, None, NOON, "key_a") for name, label in given]
    assert outcomes == ["recorded", "repeated", "conflict", "unknown"]
    assert log.read_window("mood", max_rows=1)["gold"].tolist() == ["bad"]


def test_labelled_rows_are_rows_to_train_on(log: PredictionLog) -> None:
    log.append([predicted("a", text="So  good"), predicted("b", 1, text="so good"), predicted("c", 2, group="anna")])
    log.append([predicted("d", 3), predicted("e", 4, loop="other")])
    for name in "abce":
        log.record_feedback(name, "bad", "eve", NOON, "key_a")
    frame = log.labelled_rows("mood")
    assert list(frame.columns) == ["row_id", "text", "label", "group", "source", "observed_at", "rating"]
    assert frame["row_id"].tolist() == ["feedback:a", "feedback:b", "feedback:c"]
    assert frame["label"].tolist() == ["bad"] * 3
    groups = frame["group"].tolist()
    assert groups[0] == groups[1]
    assert groups[2] == "anna"
    assert frame["observed_at"].tolist() == [NOON + timedelta(minutes=minute) for minute in range(3)]
    assert log.labelled_rows("nothing").dtypes.astype(str).to_dict() == frame.dtypes.astype(str).to_dict()


def test_labels_count_from_the_time_of_feedback(log: PredictionLog) -> None:
    log.append([predicted("a"), predicted("b")])
    log.record_feedback("a", "bad", None, NOON, "key_a")
    log.record_feedback("b", "bad", None, NOON + timedelta(hours=2), "key_a")
    counts = [log.count_labels("mood", since) for since in (None, NOON, NOON + timedelta(hours=1))]
    assert counts == [2, 2, 1]


@pytest.mark.parametrize(
    ("criteria", "left"),
    [
        ({"prediction_id": "a"}, ["b", "c"]),
        ({"group": "anna"}, ["a"]),
        ({"key_id": "key_b"}, ["a", "b"]),
        ({"key_id": "key_b", "group": "anna"}, ["a", "b"]),
        ({"group": "nobody"}, ["a", "b", "c"]),
    ],
)
def test_erased_rows_take_their_labels_and_leave_their_count(
    log: PredictionLog, criteria: dict[str, str], left: list[str]
) -> None:
    log.append([predicted("a"), predicted("b", 1, group="anna"), predicted("c", 2, group="anna", key_id="key_b")])
    for name in "abc":
        log.record_feedback(name, "bad", None, NOON, "key_a")
    before = log.usage(None, NOON, NOON + timedelta(days=1))
    assert log.erase(**criteria) == 3 - len(left)
    assert log.read_window("mood", max_rows=9)["prediction_id"].tolist() == left
    assert log.count_labels("mood") == len(left)
    assert log.usage(None, NOON, NOON + timedelta(days=1)).equals(before)


def test_erase_wants_a_criterion(log: PredictionLog) -> None:
    log.append([predicted("a")])
    with pytest.raises(DataError, match="name a prediction_id, a key_id or a group; nothing was erased"):
        log.erase()
    assert len(log.read_window("mood", max_rows=9)) == 1


def test_purge_takes_what_is_older(log: PredictionLog) -> None:
    log.append([predicted("a"), predicted("b", 1)])
    assert log.purge(NOON + timedelta(minutes=1)) == 1
    assert log.purge(NOON + timedelta(minutes=1)) == 0
    assert log.read_window("mood", max_rows=9)["prediction_id"].tolist() == ["b"]


def test_a_purge_of_one_loop_leaves_the_others(log: PredictionLog) -> None:
    log.append([predicted("a"), predicted("b", loop="other")])
    assert log.purge(NOON + timedelta(days=1), "other") == 1
    assert log.read_window("mood", max_rows=9)["prediction_id"].tolist() == ["a"]
    assert log.read_window("other", max_rows=9).empty


def test_usage_counts_calls_and_texts_by_day(log: PredictionLog) -> None:
    day = 24 * 60
    log.append([predicted("a", request_id="a"), predicted("b", request_id="a"), predicted("c", day)])
    log.append([predicted("d", day, key_id="key_b"), predicted("e", 2 * day)])
    log.purge(NOON + timedelta(hours=1))
    frame = log.usage("key_a", datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC))
    assert frame.to_dict("records") == [
        {"key_id": "key_a", "loop": "mood", "day": "2026-03-01", "requests": 1, "texts": 2},
        {"key_id": "key_a", "loop": "mood", "day": "2026-03-02", "requests": 1, "texts": 1},
    ]


def test_times_must_be_aware(log: PredictionLog) -> None:
    with pytest.raises(Exception, match="times in the database are aware"):
        log.append([predicted("a", at=datetime(2026, 1, 1))])
    assert log.read_window("mood", max_rows=9).empty


def test_a_database_that_is_no_database_is_transient(tmp_path: Path) -> None:
    (tmp_path / "evertune.db").write_bytes(b"no database at all, only words" * 100)
    with pytest.raises(TransientError, match="file is not a database"):
        open_database(f"sqlite:///{tmp_path}/evertune.db")


def test_the_ids_to_erase_are_told_per_loop(log: PredictionLog) -> None:
    log.append([predicted("p1", key_id="a"), predicted("p2", key_id="a", loop="other"), predicted("p3", key_id="b")])
    assert log.find_ids(key_id="a") == {"mood": ["p1"], "other": ["p2"]}
    assert log.find_ids(prediction_id="p3") == {"mood": ["p3"]}
    with pytest.raises(DataError, match="name a prediction_id, a key_id or a group"):
        log.find_ids()
