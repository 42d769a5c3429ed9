"""Statements as files: a csv and a page per key and month, and what each loop earned."""

import os
from collections.abc import Sequence
from pathlib import Path

from tasks.core.billing import Statement
from tasks.core.statement_page import render_month, render_statement, write_revenue_csv, write_statement_csv


def publish_month(folder: Path, month: str, statements: Sequence[Statement]) -> list[Path]:
    """Write the files of a month that are missing or tell less than they should; return those that were written.

    folder/2026-11/index.html, revenue.csv, KEY.html, KEY.csv
    """
    place = folder / month
    place.mkdir(parents=True, exist_ok=True)
    files = {"index.html": render_month(month, statements), "revenue.csv": write_revenue_csv(month, statements)}
    for one in statements:
        files[f"{one.key_id}.html"] = render_statement(one)
        files[f"{one.key_id}.csv"] = write_statement_csv(one)
    return [place / name for name, content in files.items() if _write(place / name, content.encode())]


def _write(path: Path, content: bytes) -> bool:
    if path.is_file() and path.read_bytes() == content:
        return False
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # another upkeep may write the same file at this moment
    partial.write_bytes(content)
    partial.replace(path)
    return True
