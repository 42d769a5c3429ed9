"""Which snapshots went because rows in them were erased: versions that learnt one know rows that they should not."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Engine, insert, select

from tasks.stores.database import reading, writing
from tasks.stores.schema import erased_snapshots


class Erasures:
    """The erased snapshots in a database of `open_database`. Thread-safe; what it writes is committed on return."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def mark(self, loop: str, splits: Mapping[str, Sequence[str]], at: datetime) -> None:
        """Keep that these snapshots held erased rows, and in which splits. Call it before they are deleted."""
        values = [
            {"loop": loop, "fingerprint": fingerprint, "at": at, "splits": list(names)}
            for fingerprint, names in splits.items()
        ]
        if values:
            with writing(self._engine) as connection:
                connection.execute(insert(erased_snapshots), values)

    def list_marked(self, loop: str) -> dict[str, datetime]:
        """Return the snapshots of a loop that held erased rows, with the time of the last erasure from each."""
        columns = erased_snapshots.c
        query = select(columns.fingerprint, columns.at).where(columns.loop == loop).order_by(columns.at)
        with reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query)}
