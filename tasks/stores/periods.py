"""Rows from all over a span of time, of which there may be millions: each slice gives its share."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import pandas as pd
from sqlalchemy import Engine, func, select

from tasks.stores.database import reading
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.schema import predictions

SLICES = 24


def read_period(
    engine: Engine, loop: str, *, since: datetime, until: datetime, max_rows: int, slices: int = SLICES
) -> pd.DataFrame:
    """Return rows with since <= at < until, oldest first, in the columns of `PredictionLog.read_window`.

    Of more than max_rows, each slice of time gives its newest rows, as many as its share of all the rows comes to. Only
    these are read; the others are counted in the index.
    """
    log = PredictionLog(engine)
    width = (until - since) / slices
    ends = [*(since + place * width for place in range(slices)), until]
    spans = list(pairwise(ends))
    counts = [_count(engine, loop, *span) for span in spans]
    if sum(counts) <= max_rows:
        return log.read_window(loop, max_rows=max_rows, since=since, until=until)
    parts = [log.read_window(loop, max_rows=num_rows, since=span[0], until=span[1])
             for span, num_rows in zip(spans, share_rows(counts, max_rows), strict=True) if num_rows]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def share_rows(counts: Sequence[int], max_rows: int) -> list[int]:
    """Return how many rows each slice gives, by its count; together max_rows, or all where there are fewer."""
    total = sum(counts)
    if total <= max_rows:
        return list(counts)
    passed, shares, given = 0, [], 0
    for count in counts:  # rounding the running sum keeps the total exact
        passed += count
        share = passed * max_rows // total - given
        shares.append(share)
        given += share
    return shares


def _count(engine: Engine, loop: str, since: datetime, until: datetime) -> int:
    columns = predictions.c
    query = select(func.count()).where(columns.loop == loop, columns.at >= since, columns.at < until)
    with reading(engine) as connection:
        return int(connection.execute(query).scalar_one())
