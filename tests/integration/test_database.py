import subprocess
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from configs.load import ConfigError
from tasks.core.errors import TransientError
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import RowInsert, as_writer, open_database, reading, writing
from tasks.stores.schema import predictions

OPEN_AND_WRITE = """
import sys
from datetime import UTC, datetime
from tasks.stores.api_keys import ApiKeys
from tasks.stores.database import open_database
keys = ApiKeys(open_database(sys.argv[1]))
for number in range(20):
    keys.create(f"key {number}", None, datetime.now(UTC))
"""


def test_several_processes_open_and_write_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/evertune.db"
    command = [sys.executable, "-c", OPEN_AND_WRITE, url]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert errors == [""] * 4
    assert len(ApiKeys(open_database(url)).list()) == 80


def test_sqlite_is_set_to_survive_a_kill(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/evertune.db")
    with reading(engine) as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")
        ]
    assert pragmas == ["wal", 1]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="SQLite needs a file"):
        open_database(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql://bob:hunter2@db:hunter2/x", "not a database URL"),  # the port is no number
        ("postgres://bob:hunter2@db/x", "no database 'postgres'"),
        ("mysql+pymysql://bob:hunter2@db/x", "no database 'mysql'"),
        (
            "postgresql+nosuch://bob:hunter2@db/x",
            "Can't load plugin: sqlalchemy.dialects:postgresql.nosuch",
        ),
        ("postgresql+pg8000://bob:hunter2@db/x", "the driver 'pg8000' is not installed"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_with_its_variable_and_without_its_secret(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_database(url)
    told = str(caught.value)
    assert told.startswith(f"EVERTUNE_DATABASE_URL: {message}")
    assert "accepted: sqlite:////absolute/file.db or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE" in told
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_an_unreachable_server_is_transient_and_its_password_stays_secret() -> None:
    with pytest.raises(TransientError, match=r"evertune:\*\*\*@127.0.0.1:9/") as caught:
        open_database("postgresql+psycopg://evertune:hunter2@127.0.0.1:9/evertune")
    assert "hunter2" not in str(caught.value)


def test_keys_live_and_end(tmp_path: Path) -> None:
    keys = ApiKeys(open_database(f"sqlite:///{tmp_path}/evertune.db"))
    now = datetime(2026, 3, 1, tzinfo=UTC)
    key, secret = keys.create("shop", ["mood"], now)
    everywhere, _ = keys.create("all", None, now)
    assert secret.startswith("evt_")
    assert len(secret) > 40
    assert keys.find(secret, now) == key
    assert keys.find("evt_wrong", now) is None
    assert keys.find("\ud800", now) is None
    assert (key.may_use("mood"), key.may_use("other"), everywhere.may_use("other")) == (True, False, True)
    assert keys.revoke(key.key_id, now)
    assert not keys.revoke(key.key_id, now)
    assert not keys.revoke("key_nobody", now)
    assert keys.find(secret, now) is None
    assert {each.name: each.revoked_at for each in keys.list()} == {"shop": now, "all": None}
    assert secret.encode() not in (tmp_path / "evertune.db").read_bytes() + (tmp_path / "evertune.db-wal").read_bytes()


def test_rows_are_kept_as_sqlalchemy_would_keep_them(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'log.db'}")
    values = {column.name: None for column in predictions.columns} | {
        "prediction_id": "1", "request_id": "1", "at": datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=UTC), "loop": "toy",
        "version": "1", "stage": "stable", "text": "é 漢字", "label": "a", "score": 0.1, "scores": {"ä": 0.1},
        "n_tokens": 3, "truncated": True, "latency_ms": 1.5, "key_id": "key",
    }  # fmt: skip
    with writing(as_writer(engine)) as connection:
        RowInsert(predictions, engine)(connection, [values])
        connection.execute(insert(predictions), [values | {"prediction_id": "2"}])
    with reading(engine) as connection:
        ours, theirs = (tuple(row)[1:] for row in connection.exec_driver_sql("SELECT * FROM predictions"))
        (read, _) = connection.execute(select(predictions).order_by(predictions.c.prediction_id)).mappings()
    assert ours == theirs
    assert dict(read) == values
