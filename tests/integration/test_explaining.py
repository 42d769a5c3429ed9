"""What a window is compared and explained with: test rows with texts while they are kept, acknowledged windows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from configs.settings import Settings
from tasks.core.drift_decisions import DriftDecision, stand
from tasks.core.permutations import Floats
from tasks.core.readers import remember
from tasks.core.screening import Screened
from tasks.explaining import explain_window, read_reference, select_shown
from tasks.stores.database import open_database
from tasks.stores.prediction_log import PredictionLog
from tasks.stores.snapshots import SnapshotStore
from tests.support.loops import make_loop
from tests.support.monitored import START, embed_words, make_predictions, make_reference, make_texts, make_window

LOOP = make_loop()
FINGERPRINT = "00112233445566aa"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EVERTUNE_HOME", str(tmp_path))
    return Settings()


def keep_snapshot(settings: Settings, texts: Sequence[str]) -> None:
    """Keep a snapshot whose test rows are those of the reference, with these texts."""
    rows = make_reference(len(texts))[["row_id", "group", "label"]]
    rows = rows.assign(text=list(texts), source="shop", split="test", rating=np.nan, soft_labels="", attributes="")
    quarantine = pd.DataFrame(
        {name: pd.Series(dtype="str") for name in ("row_id", "reason", "source", "text", "label")}
    )
    screened = Screened(rows, quarantine, [], len(rows), 0, 0, [])
    SnapshotStore(settings.snapshots).write(LOOP, FINGERPRINT, screened, "<p>page</p>", datetime.now(UTC))


def explain_senate(settings: Settings, snapshot: str | None) -> Any:
    current = make_window(make_texts(60, "senate", 4), seed=4)
    current = current.assign(n_words=current["text"].str.split().str.len())
    return explain_window(
        LOOP, reference=make_reference(), current=current, embed=embed_words, snapshot=snapshot, settings=settings
    )


def test_words_are_compared_with_the_test_rows_of_the_snapshot(settings: Settings) -> None:
    keep_snapshot(settings, [f"{text} eve@example.com" for text in make_texts(120, seed=99)])
    found = explain_senate(settings, FINGERPRINT)
    assert [shift.word for shift in found.words_came] == ["senate"]
    assert [shift.word for shift in found.words_went][:2] == ["camera", "email"]  # redacted as the log's texts are
    assert found.note == ""


@pytest.mark.parametrize("snapshot", [None, FINGERPRINT])
def test_a_snapshot_that_is_gone_leaves_words_out(settings: Settings, snapshot: str | None) -> None:
    found = explain_senate(settings, snapshot)
    assert (found.words_came, found.words_went) == ((), ())
    assert found.note == "the snapshot that the champion was judged on is not kept any more: words are not compared"
    assert found.new.at_least > 0.5


def test_a_snapshot_that_cannot_be_read_leaves_words_out(settings: Settings) -> None:
    keep_snapshot(settings, make_texts(120, seed=99))
    (Path(settings.snapshots) / LOOP.name / FINGERPRINT / "test.parquet").write_bytes(b"other")
    found = explain_senate(settings, FINGERPRINT)
    assert "was changed after it was written" in found.note
    assert found.new.at_least > 0.5


def test_an_acknowledged_window_is_read_from_the_log_until_its_texts_are_erased(settings: Settings) -> None:
    engine = open_database(settings.database)
    log = PredictionLog(engine)
    window = make_predictions(make_texts(60, "broken", 1), seed=1, loop=LOOP.name, group="g1")
    other = make_predictions(make_texts(60, "broken", 2), seed=2, loop=LOOP.name, version="0")
    later = make_predictions(make_texts(9, "broken", 3), seed=3, loop=LOOP.name, start=START + timedelta(hours=1))
    log.append([*window, *other, *later])
    decision = DriftDecision(
        START, "acknowledge", "eve", "new", version="1", report_id="r1",
        window_from=window[0].at, window_to=window[-1].at,
    )  # fmt: skip
    standing = stand([decision], version="1", now=START)

    def read() -> Any:
        return read_reference(LOOP, make_reference(), standing, engine, embed_words, FINGERPRINT)

    rows, kind = read()
    assert (kind.kind, kind.n, kind.report_id) == ("acknowledged window", 60, "r1")
    assert rows["row_id"].tolist() == [row.prediction_id for row in window]
    assert {"predicted", "p_negative", "n_words", "group", "embedding", "text"} <= set(rows.columns)
    np.testing.assert_allclose(np.stack(rows["embedding"]), embed_words(rows["text"]))
    log.erase(group="g1")
    rows, kind = read()
    assert (kind.kind, kind.snapshot, len(rows)) == ("test rows", FINGERPRINT, 120)
    assert kind.note == "the acknowledged window r1 has 0 texts left, 50 needed"


def test_each_text_is_embedded_once() -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> Floats:
        asked.extend(texts)
        return embed_words(texts)

    once = remember(embed)
    np.testing.assert_array_equal(once(["camera", "senate", "camera"]), embed_words(["camera", "senate", "camera"]))
    np.testing.assert_array_equal(once(["senate", "broken"]), embed_words(["senate", "broken"]))
    assert asked == ["camera", "senate", "broken"]


def test_a_page_is_shown_no_text_and_a_large_window_in_part() -> None:
    def describe(texts: Sequence[str]) -> pd.DataFrame:
        return pd.DataFrame({"language": ["en"] * len(texts), "pieces": 1.5, "copy_of": -1})

    current = make_window(make_texts(60), group="g1")
    current = current.assign(n_chars=current["text"].str.len(), n_words=2)
    known, seen = select_shown(make_reference(), current, describe, 40)
    assert list(known.columns) == list(seen.columns) == ["label", "n_chars", "n_words", "score"]
    assert (len(known), len(seen)) == (120, 40)
    described = make_reference().assign(language="en", pieces=1.0)
    known, seen = select_shown(described, current, describe, 40)
    assert list(seen.columns) == ["label", "language", "n_chars", "n_words", "score", "pieces"]
    assert known["label"].tolist() == described["predicted"].tolist()
    assert len(select_shown(described, current.head(0), describe, 40)[1]) == 0
