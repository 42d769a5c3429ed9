"""How the database is opened, read and written; its tables are in `stores/schema.py`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    insert,
    make_url,
    text,
)
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from configs.load import ConfigError
from tasks.core.errors import TransientError
from tasks.stores.schema import metadata

BUSY_SECONDS = 10  # how long a writer waits for another one
OPEN_SECONDS = 30
ACCEPTED_URLS = "accepted: sqlite:////absolute/file.db or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
CREATE_LOCK = 0x65767475  # PostgreSQL advisory lock: one process creates tables at a time


def open_database(url: str) -> Engine:
    """Return an engine whose tables exist; several processes may open the same database at once.

    SQLite: write-ahead log with synchronous=NORMAL, so a committed row outlives a kill of the process (after a power
    cut the last commits may be missing, the file is whole). Raises TransientError when the database is out of reach,
    ConfigError for a URL that cannot be used.
    """
    engine = _make_engine(url)
    file = _sqlite_file(url)
    if file is None:
        _create_tables(engine)
        return engine
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{file}.lock", timeout=OPEN_SECONDS):
            with reading(engine) as connection:
                mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            if mode != "wal":
                _switch_to_wal(engine)
            _create_tables(engine)
    except Timeout as error:
        raise TransientError(f"{file}.lock: held by another process for {OPEN_SECONDS} s") from error
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Yield a connection for reading; raises TransientError when the database does not answer."""
    with _transient_errors(engine), engine.connect() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Yield a connection inside one write transaction, committed at the end; raises as `reading` does."""
    with _transient_errors(engine), as_writer(engine).begin() as connection:
        yield connection


def as_writer(engine: Engine) -> Engine:
    """Return an engine whose transactions write from the start; who writes at every request keeps it."""
    return engine if engine.get_execution_options().get("writes") else engine.execution_options(writes=True)


def as_repeatable(engine: Engine) -> Engine:
    """Return an engine whose transactions see one state of the database throughout, as SQLite's always do.

    Who counts rows and then moves or reads them elsewhere must not see some twice, or miss those that came between. A
    write that another one crossed is a TransientError, and changes nothing.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    return engine if is_sqlite else engine.execution_options(isolation_level="REPEATABLE READ")


class RowInsert:
    """Inserts rows into a table with the statement and the conversions of SQLAlchemy, each looked up once.

    On SQLite that spares what a small batch's commit mostly consists of; elsewhere SQLAlchemy does it all.
    """

    def __init__(self, table: Table, engine: Engine) -> None:
        self._statement = insert(table)
        self._sql = str(self._statement.compile(dialect=engine.dialect))
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._columns = [
            (column.name, column.type.dialect_impl(engine.dialect).bind_processor(engine.dialect))
            for column in table.columns
        ]

    def __call__(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows that have a value for every column."""
        if not self._is_sqlite:
            connection.execute(self._statement, rows)
            return
        values = [
            tuple(row[name] if convert is None else convert(row[name]) for name, convert in self._columns)
            for row in rows
        ]
        connection.exec_driver_sql(self._sql, values)


@contextmanager
def _transient_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ProgrammingError, DataError):
        raise
    except (DatabaseError, InterfaceError, PoolTimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise TransientError(f"{engine.url.render_as_string()}: {cause}") from error


def _make_engine(url: str) -> Engine:
    if _parse(url).get_backend_name() != "sqlite":
        options = {"connect_timeout": 5, "options": "-c timezone=UTC -c statement_timeout=60000"}
        try:
            return create_engine(url, hide_parameters=True, pool_pre_ping=True, connect_args=options)
        except ImportError as error:
            raise ConfigError(
                f"EVERTUNE_DATABASE_URL: the driver '{error.name}' is not installed; {ACCEPTED_URLS}, "
                "with pip install 'evertune[postgresql]'"
            ) from error
        except SQLAlchemyError as error:  # a driver that SQLAlchemy does not know
            raise ConfigError(f"EVERTUNE_DATABASE_URL: {error}; {ACCEPTED_URLS}") from error
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    # A writer that starts with a read and upgrades would fail at once instead of waiting for its turn.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(engine: Engine) -> None:
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


def _create_tables(engine: Engine) -> None:
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CREATE_LOCK})
        metadata.create_all(connection)


def _parse(url: str) -> URL:
    """Return the parts of a URL; raises ConfigError, without the URL's secret, unless it is SQLite or PostgreSQL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the text of a ValueError may hold the password, so no error is chained
        raise ConfigError(f"EVERTUNE_DATABASE_URL: not a database URL; {ACCEPTED_URLS}") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigError(f"EVERTUNE_DATABASE_URL: no database '{parsed.get_backend_name()}'; {ACCEPTED_URLS}")
    return parsed


def _sqlite_file(url: str) -> Path | None:
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    if not parsed.database or parsed.database == ":memory:":
        raise ConfigError(f"{url}: SQLite needs a file, several processes share it (for example sqlite:///evertune.db)")
    return Path(parsed.database)
