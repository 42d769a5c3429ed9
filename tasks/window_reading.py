"""What a window's check reads: rows of the log, by count or by time, and its texts in the ways of the reference."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet
from sqlalchemy import Engine

from configs.schema import Loop
from tasks.core.base_models import resolve_base_model
from tasks.core.permutations import Floats
from tasks.core.readers import Describe, Embed, remember
from tasks.core.rows import derive_columns
from tasks.core.window_drift import ReadSeason
from tasks.stores.model_registry import ModelRegistry, ModelVersion
from tasks.stores.periods import read_period
from tasks.stores.prediction_log import PredictionLog


def read_current(engine: Engine, config: Loop, version: str, now: datetime) -> pd.DataFrame:
    """Return the rows of the window that this version answered, with n_chars, n_words and n_control_chars.

    By count: the newest ones. By time: of all that came in the window's hours, where there are more than it may hold,
    rows from all over them.
    """
    rules = config.monitoring.window
    since = now - timedelta(hours=rules.max_age_hours) if rules.max_age_hours else None
    if rules.by == "time":
        assert since is not None
        window = read_period(engine, config.name, since=since, until=now, max_rows=rules.max_rows)
    else:
        window = PredictionLog(engine).read_window(config.name, max_rows=rules.max_rows, since=since)
    return derive_columns(window[window["version"] == version].reset_index(drop=True))


def season_reader(engine: Engine, config: Loop) -> ReadSeason:
    """Return how the same hours of earlier weeks are read, answered by whatever version."""

    def read(spans: Sequence[tuple[datetime, datetime]]) -> pd.DataFrame:
        each = config.monitoring.window.max_rows // len(spans)
        parts = [read_period(engine, config.name, since=since, until=until, max_rows=max(each, 1), slices=4)
                 for since, until in spans]  # fmt: skip
        return derive_columns(pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True))

    return read


def fetch_representing(registry: ModelRegistry, version: ModelVersion, reference: Path, cache_dir: Path) -> Path | None:
    """Return the champion's checkpoint where its reference holds vectors of it; older versions have none."""
    if "representation" not in pyarrow.parquet.read_schema(reference).names:
        return None
    return registry.fetch_checkpoint(version, cache_dir)


def representer(checkpoint: Path | None) -> Embed | None:
    """Return how the champion's own encoder reads texts; it is loaded when it is first asked."""
    if checkpoint is None:
        return None

    @cache
    def load() -> tuple[Any, Any]:
        from tasks.core.classifier import load_classifier, load_tokenizer

        return load_classifier(checkpoint), load_tokenizer(str(checkpoint / "encoder"))

    def represent(texts: Sequence[str]) -> Floats:
        from tasks.core.export import sentence_vectors

        return sentence_vectors(*load(), texts)

    return remember(represent)  # the tests, and earlier weeks where one fires, read the same texts


def describer(base_model: str) -> Describe:
    """Return how texts are described, in the words of the base model's tokenizer."""

    @cache
    def load() -> Any:
        from tasks.core.classifier import load_tokenizer

        return load_tokenizer(resolve_base_model(base_model))

    def describe_texts(texts: Sequence[str]) -> pd.DataFrame:
        from tasks.core.descriptors import describe

        return describe(texts, load())

    return describe_texts
