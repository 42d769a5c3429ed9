"""The page on which a person reads which training rows' labels look wrong: one self-contained HTML file."""

from datetime import datetime

import pandas as pd

from tasks.core.redaction import redact
from tasks.core.validation_page import render_page

MAX_LISTED = 500  # the worst; the csv has them all


def render_suspects_page(*, loop: str, fingerprint: str, made_at: datetime, suspects: pd.DataFrame, n_rows: int) -> str:
    """Return the page of one snapshot's suspects, the worst first; texts are redacted."""
    listed = suspects.head(MAX_LISTED)
    pairs = suspects.groupby(["label", "suggested"]).size().sort_values(ascending=False, kind="stable")
    return render_page(
        "suspects_page.html",
        loop_name=loop,
        fingerprint=fingerprint,
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        tiles=[
            ("training rows", f"{n_rows:,}"),
            ("suspicious labels", f"{len(suspects):,}"),
            ("of all", f"{len(suspects) / n_rows:.1%}" if n_rows else "–"),
        ],
        pairs=[(given, suggested, int(n)) for (given, suggested), n in pairs.items()],
        suspects=listed.assign(text=[redact(text) for text in listed["text"]]).to_dict("records"),
        n_more=max(0, len(suspects) - MAX_LISTED),
    )
