from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from configs.monitoring_schema import MinEffects
from configs.schema import Monitoring
from tasks.core.errors import DataError
from tasks.core.rows import derive_columns
from tasks.core.verdict import Vote
from tasks.core.window_check import WindowCheck, check
from tests.support.monitored import START, embed_words, make_reference, make_texts, make_window

RULES = Monitoring.model_validate(
    {"schedule": {"cron": "0 * * * *"}, "window": {"min_rows": 50}, "permutations": 199, "k": 2, "n": 3}
)
NOW = START + timedelta(hours=1)


def judge_texts(texts: list[str], earlier: list[Vote] | None = None, **fixed: Any) -> WindowCheck:
    return check(
        current=make_window(texts, **fixed),
        reference=make_reference(),
        earlier=earlier or [],
        rules=RULES,
        labels=["negative", "positive"],
        version="1",
        now=NOW,
        embed=embed_words,
    )


def vote(*, fired: bool, seconds: int) -> Vote:
    """A vote whose window ended so many seconds into the rows of `make_window`."""
    return Vote(START - timedelta(hours=1), START + timedelta(seconds=seconds), fired)


def test_a_window_like_the_reference_is_ok() -> None:
    found = judge_texts(make_texts(100))
    assert (found.verdict.word, found.verdict.reason, found.fires, found.is_vote) == (
        "ok",
        "no test fires",
        False,
        True,
    )
    assert (found.n, found.n_groups, found.oldest, found.newest) == (100, 100, START, START + timedelta(seconds=99))


def test_another_topic_fires_and_is_watched_first() -> None:
    found = judge_texts(make_texts(100, "senate"))
    assert found.verdict.word == "watch"
    assert [test.name for test in found.tests if test.fires] == ["embeddings"]
    assert found.verdict.since == NOW


def test_a_second_firing_window_is_drift_since_the_first() -> None:
    first = vote(fired=True, seconds=-1)
    found = judge_texts(make_texts(100, "senate"), [first])
    assert (found.verdict.word, found.verdict.since) == ("drift", first.at)


def test_looking_twice_at_the_same_rows_is_one_window() -> None:
    found = judge_texts(make_texts(100, "senate"), [vote(fired=True, seconds=60)])
    assert (found.verdict.word, found.is_vote) == ("watch", False)
    assert "39 new texts since the last window, 50 make a window of its own" in found.verdict.reason


def test_looking_again_at_a_drifted_window_keeps_saying_drift() -> None:
    earlier = [vote(fired=True, seconds=99), vote(fired=True, seconds=-1)]
    assert judge_texts(make_texts(100, "senate"), earlier).verdict.word == "drift"


@pytest.mark.parametrize(
    ("num_rows", "group", "reason"),
    [
        (49, None, "49 texts of this version, 50 needed"),
        (0, None, "0 texts of this version, 50 needed"),
        (60, "one-user", "60 texts, but of 1 groups only: too few to tell drift from one loud group"),
    ],
)
def test_too_few(num_rows: int, group: str | None, reason: str) -> None:
    found = judge_texts(make_texts(num_rows, "senate"), group=group)
    assert (found.verdict.word, found.verdict.reason) == ("too few", reason)
    assert (found.is_vote, found.tests, found.fires) == (False, (), False)


def test_accuracy_is_measured_on_labelled_rows_and_estimated_on_all() -> None:
    current = make_window(make_texts(100))
    current.loc[0:19, "gold"] = current.loc[0:19, "label"]
    current.loc[range(0, 20, 2), "gold"] = "other"
    current.loc[:19, "picked"] = "audit"
    current["text"] = [f"{text} {row}" for row, text in enumerate(current["text"])]  # copies would share a label
    found = check(
        current=current, reference=make_reference(), earlier=[], rules=RULES, labels=["negative", "positive"],
        version="1", now=NOW, embed=embed_words,
    )  # fmt: skip
    assert found.measured is not None
    assert found.estimated is not None
    assert (found.measured.accuracy, found.measured.n, found.labelled.audit) == (0.5, 20, 20)
    assert found.estimated.low < 0.8 < found.estimated.high


def test_another_base_model_is_an_error_not_drift() -> None:
    with pytest.raises(DataError, match="embeddings of 3 dimensions, the base model now gives 2"):
        check(
            current=make_window(make_texts(60)), reference=make_reference(), earlier=[], rules=RULES, labels=["a"],
            version="1", now=NOW, embed=lambda texts: embed_words(texts)[:, :2],
        )  # fmt: skip


def test_labels_that_the_reference_does_not_have_are_an_error() -> None:
    reference = make_reference().assign(p_neutral=0.0)
    with pytest.raises(DataError, match="no column p_neutral"):
        check(
            current=make_window(make_texts(60)), reference=reference, earlier=[], rules=RULES, labels=["a"],
            version="1", now=NOW, embed=embed_words,
        )  # fmt: skip


def test_a_significant_shift_that_is_too_small_to_matter_does_not_fire() -> None:
    mixed = make_texts(60, "broken", seed=1) + make_texts(240, seed=2)  # a fifth is new
    strict = RULES.model_copy(update={"min_effects": MinEffects(embeddings=0.9)})
    verdicts = []
    for rules in (RULES, strict):
        found = check(
            current=make_window(mixed), reference=make_reference(300), earlier=[], rules=rules,
            labels=["negative", "positive"], version="1", now=NOW, embed=embed_words,
        )  # fmt: skip
        verdicts.append((found.verdict.word, found.fires))
    assert verdicts == [("watch", True), ("ok", False)]
    assert found.verdict.reason.startswith("no test fires; significant, but too small to matter: embeddings 0.")
    assert found.verdict.reason.endswith(" of 0.9")


def describe_topics(texts: Sequence[str]) -> pd.DataFrame:
    """Calls texts of politics foreign."""
    columns = {"pieces": 1.0, "unknown_share": 0.0, "wordless": False, "copy_of": -1}
    return pd.DataFrame({"language": ["fr" if "senate" in text else "en" for text in texts]}).assign(**columns)


def test_texts_are_also_compared_as_the_champion_reads_them_and_as_a_person_does() -> None:
    known = make_texts(120, seed=99)
    reference = make_reference().join(describe_topics(known)).assign(representation=list(embed_words(known)))
    found = check(
        current=derive_columns(make_window(make_texts(100, "senate"))), reference=reference, earlier=[], rules=RULES,
        labels=["negative", "positive"], version="1", now=NOW, embed=embed_words, represent=embed_words,
        describe=describe_topics,
    )  # fmt: skip
    assert {test.name for test in found.tests if test.fires} == {"embeddings", "representation", "language"}
    assert {test.name for test in found.tests} == {"outputs", *MinEffects.model_fields}
    assert next(test for test in found.tests if test.name == "language").effect == pytest.approx(1)


@pytest.mark.parametrize(("version", "before"), [("1", "senate"), ("0", "senate"), ("1", "camera"), ("1", None)])
def test_what_came_every_week_on_that_day_is_no_drift(version: str, before: str | None) -> None:
    quiet = [vote(fired=False, seconds=-86_400 * days) for days in (2, 3, 4, 5)]
    asked: list[tuple[datetime, datetime]] = []

    def read_season(spans: Sequence[tuple[datetime, datetime]]) -> pd.DataFrame:
        asked.extend(spans)
        return make_window(make_texts(80, before, 7) if before else [], version=version)

    found = check(
        current=make_window(make_texts(100, "senate")), reference=make_reference(), earlier=quiet, rules=RULES,
        labels=["negative", "positive"], version="1", now=NOW, embed=embed_words, read_season=read_season,
    )  # fmt: skip
    assert len(asked) == RULES.season_weeks
    assert all(since < START - timedelta(days=6) for since, _ in asked)
    recurs = before == "senate"
    assert (found.verdict.word, found.fires) == (("ok", False) if recurs else ("watch", True))
    assert ("80 texts of the same weekday in earlier weeks" in found.verdict.reason) == recurs
    assert (found.season is None) == (before is None)


def test_a_quiet_window_asks_for_no_season() -> None:
    def read_season(_spans: Sequence[tuple[datetime, datetime]]) -> pd.DataFrame:
        raise AssertionError("nothing fired")

    found = check(
        current=make_window(make_texts(100)), reference=make_reference(), earlier=[], rules=RULES,
        labels=["negative", "positive"], version="1", now=NOW, embed=embed_words, read_season=read_season,
    )  # fmt: skip
    assert found.season is None
