"""Tables of text columns from files, queries and the hub, all read by the `datasets` library.

Every reader returns the wanted columns as text (observed_at as text or time), and explains what is wrong with file,
line, what was found, what is accepted and the next step. Nothing is cached for files and queries: nothing can be stale.
"""

import csv
import functools
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from configs.schema import Columns, HubSource, SqlSource
from tasks.core.errors import DataError, TransientError
from tasks.stores.text_files import check_delimited, explain_jsonl, first_line

CONNECT_TIMEOUT_SECONDS = 10
SQL_TIMEOUT_SECONDS = 600
_NO_ROWS = ("corresponds to no data", "BatchSize must be greater than 0")  # how `datasets` says that there are none


def read_delimited(
    path: Path, place: str, columns: Columns, delimiter: str, names: list[str] | None, *, quoted: bool
) -> pd.DataFrame:
    """Return the wanted columns of a delimited UTF-8 file; every value is text as it stands, also `NA` and `null`.

    `quoted`: double quotes enclose fields (RFC 4180); else they are ordinary characters.
    """
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    header, n_records = check_delimited(path, place, delimiter, quoting, names)
    datasets = _datasets()
    table = _load(
        "csv",
        place,
        data_files=_literal(path),
        sep=delimiter,
        quoting=int(quoting),
        names=header,
        header=None if names else 0,
        encoding="utf-8-sig",
        keep_default_na=False,
        na_filter=False,
        features=datasets.Features({name: datasets.Value("string") for name in header}),
    )
    if table.num_rows != n_records:
        raise DataError(f"{place}: {n_records:,} records, but {table.num_rows:,} could be parsed: check stray quotes")
    return wanted_columns(table, place, columns)


def read_jsonl(path: Path, place: str, columns: Columns) -> pd.DataFrame:
    """Return the wanted columns of a file with one JSON object per line."""
    options = {"chunksize": 1 << 28, "on_mixed_types": None, "parse_agent_traces": False}
    try:
        return wanted_columns(_load("json", place, data_files=_literal(path), **options), place, columns)
    except DataError as error:
        explained = explain_jsonl(path, place)
        if explained is None:
            raise
        raise explained from error


def read_parquet(path: Path, place: str, columns: Columns) -> pd.DataFrame:
    """Return the wanted columns of a Parquet file."""
    return wanted_columns(_load("parquet", place, data_files=_literal(path)), place, columns)


def read_query(source: SqlSource, url: str) -> pd.DataFrame:
    """Return the wanted columns of an SQL query's rows.

    Raises DataError for a wrong URL or query, TransientError when the database does not answer.
    """
    import sqlalchemy
    from sqlalchemy import exc

    place = f"source '{source.name}'"
    try:
        engine = sqlalchemy.create_engine(url, connect_args=_connect_args(sqlalchemy.make_url(url), place, source))
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
        raise DataError(
            f"{place}: {source.url_from} is no usable SQLAlchemy URL ({type(error).__name__}: {error})"
        ) from error
    try:
        table = _load("sql", place, sql=source.query, con=engine, chunksize=None)
    except exc.SQLAlchemyError as error:
        raise _sql_failure(error, place, source) from error
    finally:
        engine.dispose()
    return wanted_columns(table, place, source.columns)


def read_hub(source: HubSource, cache: Path) -> pd.DataFrame:
    """Return the wanted columns of a data set of the hub (or of a local folder laid out like one), cached by revision.

    Raises DataError when there is no such data set, config or split, TransientError when the hub does not answer.
    """
    import httpx

    datasets = _datasets()
    place = f"source '{source.name}': {source.dataset}"
    try:
        dataset = datasets.load_dataset(
            source.dataset,
            source.config,
            split=source.hub_split,
            revision=source.revision,
            cache_dir=str(cache),
        )
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(f"{place}: no such data set, or it is private: log in with a token (HF_TOKEN)") from error
    except (ConnectionError, TimeoutError, httpx.HTTPError) as error:
        raise TransientError(f"{place}: the hub does not answer: {first_line(error)}") from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{place}: {first_line(error)}") from error
    return wanted_columns(dataset, place, source.columns)


def wanted_columns(dataset: Any, place: str, columns: Columns) -> pd.DataFrame:
    """Return the columns that a source's mapping names, of a `datasets.Dataset`; class labels become their names."""
    wanted = _mapped_columns(columns)
    found = list(dataset.column_names)
    missing = [(key, name) for key, name in wanted if name not in found]
    if missing:
        key, name = missing[0]
        raise DataError(
            f"{place}: no column '{name}'; found {found}. Set columns.{key} of this source in the loop's YAML"
            + (" (or its delimiter: the file seems to have one column)" if len(found) == 1 else "")
        )
    if dataset.num_rows == 0:
        raise DataError(f"{place}: no rows, only columns {found}. Put labelled rows into it")
    table = dataset.select_columns(list(dict.fromkeys(name for _, name in wanted))).with_format("arrow")[:]
    return pd.DataFrame({name: _column(dataset, table, key, name, place) for key, name in wanted})


def _mapped_columns(columns: Columns) -> list[tuple[str, str]]:
    """Return (what it is for, name) of every column that a mapping names; a name may come twice."""
    single = columns.model_dump(exclude={"group_pattern", "soft_labels", "attributes"})
    # Later ones decide how a column of several uses is read: numbers and times must stay what they are.
    numbers = [("observed_at", single.pop("observed_at")), ("rating", single.pop("rating"))]
    shares = [(f"soft_labels.{label}", name) for label, name in (columns.soft_labels or {}).items()]
    plain = [("attributes", name) for name in columns.attributes]
    return [(key, name) for key, name in [*plain, *single.items(), *numbers, *shares] if name is not None]


def _column(dataset: Any, table: Any, key: str, name: str, place: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = getattr(dataset.features[name], "names", None)
    values = table.column(name).combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if names is not None:
        return pd.Series([None if i is None or i < 0 else names[i] for i in values.to_pylist()], dtype="str")
    if key == "observed_at" and pa.types.is_temporal(values.type):
        return pd.to_datetime(values.to_pandas(), utc=True)
    if not (_is_text(values.type) or pa.types.is_null(values.type)) and (
        key == "text" or pa.types.is_nested(values.type)
    ):
        raise DataError(
            f"{place}: column '{name}' holds {values.type}, expected text. Set columns.{key} of this source"
        )
    if pa.types.is_floating(values.type) and key != "rating" and not key.startswith("soft_labels"):
        whole = (
            pc.all(pc.equal(values, pc.floor(values))).as_py() is not False
        )  # 1.0 is the name 1: a null made it a float
        values = values.cast(pa.int64()) if whole else values
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"{place}: column '{name}' is broken or not UTF-8: {error}. Save the data as UTF-8") from error
    return pd.Series(values.cast(pa.large_string()).to_pandas(), dtype="str")


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _datasets() -> Any:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs as errors is raised as well
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # else every load, also of a local file, asks a server first
    return datasets


def _load(builder: str, place: str, **options: Any) -> Any:
    """Load through a packaged builder, with a cache that goes away again."""
    datasets = _datasets()
    if builder == "sql":
        read = datasets.Dataset.from_sql
    else:
        read = functools.partial(datasets.load_dataset, builder, split="train")
    try:
        with tempfile.TemporaryDirectory(prefix="evertune-") as scratch:
            return read(cache_dir=scratch, keep_in_memory=True, **options)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        database_error = _database_error(error)
        if database_error is not None:
            raise database_error from error
        told = first_line(error.__cause__ or error)
        if any(sign in told for sign in _NO_ROWS):
            raise DataError(f"{place}: no rows. Put labelled rows into it") from error
        raise DataError(f"{place}: not readable as {builder}: {told}") from error


def _database_error(error: BaseException | None) -> BaseException | None:
    """Return the database's own error from the chain of wrappers around it."""
    from sqlalchemy.exc import SQLAlchemyError

    while error is not None and not isinstance(error, SQLAlchemyError):
        error = error.__cause__
    return error


def _literal(path: Path) -> str:
    """Return the path with its glob characters escaped: `datasets` expands patterns."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(path))


def _connect_args(url: Any, place: str, source: SqlSource) -> dict[str, Any]:
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database and url.database != ":memory:" and not Path(url.database).is_file():
        raise DataError(f"{place}: {source.url_from} names an SQLite file that does not exist. Mend the variable")
    if backend == "postgresql":
        options = f"-c statement_timeout={SQL_TIMEOUT_SECONDS * 1000} -c default_transaction_read_only=on"
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "options": options}
    return {"connect_timeout": CONNECT_TIMEOUT_SECONDS} if backend in ("mysql", "mariadb") else {}


def _sql_failure(error: Exception, place: str, source: SqlSource) -> DataError | TransientError:
    from sqlalchemy import exc

    told = first_line(getattr(error, "orig", None) or error)
    lasting = any(sign in told for sign in ("no such", "syntax", "not a database", "password", "does not exist"))
    if isinstance(error, exc.OperationalError | exc.InterfaceError) and not lasting:
        return TransientError(f"{place}: the database named by {source.url_from} does not answer: {told}")
    return DataError(f"{place}: the query fails: {told}. Mend `query` of this source, or {source.url_from}")
