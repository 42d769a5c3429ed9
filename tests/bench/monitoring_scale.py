"""A report on the newest window of a large prediction log: seconds and memory, on SQLite and PostgreSQL.

    python -m tests.bench.monitoring_scale [--rows 10000000] [--windows 1000 100000] [--home DIR] [--postgresql]

Rows are made inside the database from real product-review sentences, one in a thousand with feedback. A report is what
the monitor flow does short of Prefect, MLflow and the champion's own encoder (a second reading of the tested texts):
window, labels, drift tests with descriptors and embeddings by the base encoder, accuracy, explanation, page. Each is
made by a process of its own, so that its peak memory is its own. With --home the log is kept and used again. Prints a
table and, last, one JSON line.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import Engine, event, text

from configs.load import load_loop
from configs.schema import Loop
from configs.settings import Settings
from tasks.core.base_models import resolve_base_model
from tasks.core.embedding import embed
from tasks.core.evidence import build_reference
from tasks.core.feedback_rows import settle_window
from tasks.core.readers import remember
from tasks.core.redaction import redact
from tasks.core.retraining import Decision
from tasks.core.window_check import check
from tasks.core.window_record import build_record
from tasks.explaining import explain_window, select_shown
from tasks.feedback import judge_feedback
from tasks.stores.database import open_database, writing
from tasks.stores.prediction_log import LoggedPrediction, PredictionLog
from tasks.stores.schema import feedback, predictions
from tasks.stores.sources import load_rows
from tasks.window_reading import describer, read_current, season_reader
from tests.support.postgres import run_postgres

LOOP_FILE = Path("configs/loops/product-sentiment.yaml")
SEEDED = 2000  # sentences that the log repeats, each with another time, group and id
CHUNK = 1_000_000
FEEDBACK_EVERY = 1000
START = datetime(2026, 1, 1, tzinfo=UTC)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--windows", type=int, nargs="+", default=[1000, 100_000], help="rows of the window")
    parser.add_argument("--home", type=Path, help="where the log is kept; default: a temporary folder")
    parser.add_argument("--postgresql", action="store_true", help="also on a server of this machine's PostgreSQL")
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)  # of so many rows, in this process
    parser.add_argument("--database", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        print(json.dumps(make_report(arguments.database, arguments.report, arguments.home)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = (arguments.home or Path(folder)).absolute()
        found = {"sqlite": measure(f"sqlite:///{home / 'log.db'}", arguments, home)}
        if arguments.postgresql:
            with run_postgres(home / "postgresql") as url:
                found["postgresql"] = measure(url, arguments, home)
    print(json.dumps({"rows": arguments.rows, **found}))


def measure(url: str, arguments: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Return seconds and MiB of a report per size of the window, and how the window was found."""
    started = time.monotonic()
    engine = open_database(url)
    fill(engine, arguments.rows)
    name, figures = engine.dialect.name, {"plan": explain_plan(engine)}
    print(
        f"{name}: {arguments.rows:,} rows in {time.monotonic() - started:.0f} s; window by {figures['plan']}",
        flush=True,
    )
    for size in arguments.windows:
        command = [sys.executable, "-m", "tests.bench.monitoring_scale", "--report", str(size), "--database", url]
        done = subprocess.run([*command, "--home", str(home)], check=True, stdout=subprocess.PIPE, text=True)
        figures[str(size)] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: window of {size:,}:", figures[str(size)], flush=True)
    return figures


def read_sentences(loop: Loop) -> pd.DataFrame:
    """Return real sentences, redacted as the service logs them, with their label and group."""
    rows = load_rows(loop, LOOP_FILE.parent, Path(".evertune"))
    rows = rows[(rows["defect"] == "") & rows["label"].isin(loop.labels)].head(SEEDED)
    return rows.assign(text=[redact(each) for each in rows["text"]]).reset_index(drop=True)


def fill(engine: Engine, num_rows: int) -> None:
    """Make the log hold so many rows: seeds through the product's own store, the rest as copies in SQL."""
    with engine.connect() as connection:
        known = int(connection.execute(text("SELECT count(*) FROM predictions")).scalar_one())
    if known == 0:
        PredictionLog(engine).append(_make_seeds(load_loop(LOOP_FILE)))
        known = SEEDED
    while known < num_rows:
        fresh = min(CHUNK, num_rows - known)
        with writing(engine) as connection:
            connection.execute(text(_copy_statement(engine)), {"first": known, "last": known + fresh, "seeds": SEEDED})
        known += fresh
    with writing(engine) as connection:
        connection.execute(text(_feedback_statement(engine)))
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE"))


def _make_seeds(loop: Loop) -> list[LoggedPrediction]:
    sentences, random = read_sentences(loop), np.random.default_rng(0)
    shares = random.dirichlet([0.5] * len(loop.labels), len(sentences)).round(6)
    return [
        LoggedPrediction(
            prediction_id=f"{row:032x}", at=START, loop=loop.name, version="1", stage="stable",
            text=sentences["text"][row], group=None, label=loop.labels[int(shares[row].argmax())],
            score=float(shares[row].max()),
            scores=dict(zip(loop.labels, shares[row].tolist(), strict=True)), n_tokens=20, truncated=False,
            latency_ms=3.0, key_id=f"key_{row % 7}",
        )
        for row in range(len(sentences))
    ]  # fmt: skip


def _copy_statement(engine: Engine) -> str:
    """Return SQL that copies the seeds, one row a second, for the numbers first <= n < last."""
    is_sqlite = engine.dialect.name == "sqlite"
    known = {"prediction_id": "{id}", "request_id": "{id}", "at": "{at}", '"group"': "'g' || (n / 3)"}
    seed_id = "printf('%032x', n % :seeds)" if is_sqlite else "lpad(to_hex(n % :seeds), 32, '0')"
    numbers = (
        "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :last)"
        if is_sqlite
        else "WITH numbers AS (SELECT generate_series(CAST(:first AS bigint), CAST(:last AS bigint) - 1) AS n)"
    )
    made = {
        "{id}": "printf('%032x', n)" if is_sqlite else "lpad(to_hex(n), 32, '0')",
        "{at}": f"datetime('{START:%Y-%m-%d %H:%M:%S}', n || ' seconds') || '.000000'"
        if is_sqlite
        else f"TIMESTAMPTZ '{START:%Y-%m-%d %H:%M:%S}+00' + n * INTERVAL '1 second'",
    }
    columns = [f'"{column.name}"' if column.name == "group" else column.name for column in predictions.columns]
    chosen = [made.get(known.get(column, ""), known.get(column, f"seed.{column}")) for column in columns]
    return (
        f"{numbers.replace('WITH', 'INSERT INTO predictions (' + ', '.join(columns) + ') WITH', 1)} "  # noqa: S608
        f"SELECT {', '.join(chosen)} FROM numbers JOIN predictions AS seed ON seed.prediction_id = {seed_id}"
    )


def _feedback_statement(engine: Engine) -> str:
    number = "rowid" if engine.dialect.name == "sqlite" else "('x' || right(prediction_id, 8))::bit(32)::bigint"
    return (
        f"INSERT INTO {feedback.name} (prediction_id, loop, label, labeller, at, key_id) "  # noqa: S608
        "SELECT prediction_id, loop, label, 'person', at, key_id FROM predictions "
        f"WHERE {number} % {FEEDBACK_EVERY} = 0 ON CONFLICT DO NOTHING"
    )


def explain_plan(engine: Engine) -> str:
    """Return how the database finds the window that monitoring reads."""
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", listen)
    PredictionLog(engine).read_window(load_loop(LOOP_FILE).name, max_rows=10)
    event.remove(engine, "before_cursor_execute", listen)
    statement, parameters = asked[0]
    prefix = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(prefix + statement, parameters).all()
    return "; ".join(str(row[-1]).strip() for row in rows)


def make_report(url: str, size: int, home: Path) -> dict[str, Any]:
    """Make one report in this process; return its seconds, step by step, and the process's peak memory."""
    loop = load_loop(LOOP_FILE)
    window = loop.monitoring.window.model_copy(update={"max_rows": size})
    loop = loop.model_copy(update={"monitoring": loop.monitoring.model_copy(update={"window": window})})
    reference = _make_reference(loop, home / "reference.parquet")
    engine, now = open_database(url), datetime.now(UTC)
    seconds: dict[str, float] = {}
    with _timed(seconds, "window"):
        current = read_current(engine, loop, "1", now)
    with _timed(seconds, "labels"):
        current = settle_window(current, judge_feedback(engine, loop).settled)
    once = remember(lambda texts: embed(texts, resolve_base_model(loop.training.base_model)))
    describe = describer(loop.training.base_model)
    with _timed(seconds, "tests"):
        found = check(
            current=current, reference=reference, earlier=(), rules=loop.monitoring, labels=loop.labels, version="1",
            now=now, embed=once, describe=describe, read_season=season_reader(engine, loop),
        )  # fmt: skip
    with _timed(seconds, "explanation"):
        sides = {"reference": reference, "current": current}
        explanation = explain_window(loop, **sides, embed=once, snapshot=None, settings=Settings(home=home))
    with _timed(seconds, "page"):
        from tasks.stores.monitoring_page import write_monitoring_page

        record = build_record(loop.name, "bench", found, [], Decision("wait", ""), None, None, explanation=explanation)
        rules = loop.monitoring
        known, seen = select_shown(reference, current, describe, rules.max_tested_rows)
        path = home / "page.html"
        write_monitoring_page(path, record=record, alpha=rules.alpha, reference=known, current=seen)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "rows": len(current),
        "seconds": {name: round(value, 2) for name, value in seconds.items()}
        | {"all": round(sum(seconds.values()), 1)},
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mib": round(peak),
    }


def _make_reference(loop: Loop, path: Path) -> pd.DataFrame:
    """Return reference rows, embedded once and kept beside the log."""
    if not path.is_file():
        sentences = read_sentences(loop).head(1000)
        vectors = embed(sentences["text"].tolist(), resolve_base_model(loop.training.base_model))
        shares = np.random.default_rng(1).dirichlet([0.5] * len(loop.labels), len(sentences))
        tokens = np.full(len(sentences), 20)
        described = describer(loop.training.base_model)(sentences["text"].tolist())
        build_reference(sentences, shares, tokens, vectors, loop.labels, described=described).to_parquet(path)
    return pd.read_parquet(path)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


if __name__ == "__main__":
    os.environ.setdefault("DO_NOT_TRACK", "true")
    main()
