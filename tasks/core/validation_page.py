"""The page on which a person reads what data validation found: one self-contained HTML file, without any row's text."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from tasks.core.rows import SPLITS
from tasks.core.screening import Screened, count_reasons

MAX_LISTED = 500  # quarantined rows on the page; the command lists them all


def render_validation_page(
    *, loop: str, fingerprint: str, made_at: datetime, labels: Sequence[str], screened: Screened
) -> str:
    """Return the page of one snapshot, or of a set that was refused and why."""
    quarantine = screened.quarantine
    return render_page(
        "validation_page.html",
        loop=loop,
        fingerprint=fingerprint,
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        problems=screened.problems,
        tiles=_tiles(screened),
        by_label=cross_table(screened.rows, "label", labels),
        by_source=cross_table(screened.rows, "source", sorted(screened.rows["source"].unique())),
        splits=SPLITS,
        results=screened.results,
        reasons=count_reasons(quarantine),
        parked=quarantine[["row_id", "source", "reason"]].head(MAX_LISTED).to_dict("records"),
        n_more=max(0, len(quarantine) - MAX_LISTED),
    )


def cross_table(rows: pd.DataFrame, column: str, values: Sequence[str]) -> dict[str, list[int]]:
    """Return, per value of a column, its rows in train, validation and test, and in all of them."""
    counts = rows.groupby([column, "split"]).size().to_dict()
    table = {value: [int(counts.get((value, split), 0)) for split in SPLITS] for value in values}
    return {value: [*line, sum(line)] for value, line in table.items()}


def _tiles(screened: Screened) -> list[tuple[str, str]]:
    numbers = {
        "rows read": screened.n_raw,
        **{split: screened.count(split) for split in SPLITS},
        "quarantined": len(screened.quarantine),
        "duplicates dropped": screened.n_duplicates,
        "copies kept out of train": screened.n_leaks,
    }
    return [(name, f"{number:,}") for name, number in numbers.items()]


def render_page(template: str, **values: Any) -> str:
    """Return one self-contained page of a snapshot: a template of this folder with the style that all of them share."""
    return _load(template).render(**values)


@cache  # every statement of every month is rendered each night
def _load(template: str) -> jinja2.Template:
    files = resources.files("tasks.core")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    return environment.from_string(files.joinpath(template).read_text(encoding="utf-8"), {"style": style})
