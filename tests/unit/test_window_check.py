from datetime import timedelta
from typing import Any

import pytest

from configs.schema import Monitoring
from tasks.core.errors import DataError
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
    current.loc[:9, "gold"] = current.loc[:9, "label"]
    current.loc[10:19, "gold"] = "other"
    found = check(
        current=current, reference=make_reference(), earlier=[], rules=RULES, labels=["negative", "positive"],
        version="1", now=NOW, embed=embed_words,
    )  # fmt: skip
    assert found.measured is not None
    assert found.estimated is not None
    assert (found.measured.accuracy, found.measured.n) == (0.5, 20)
    assert found.estimated.accuracy == pytest.approx(0.8, abs=0.1)


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
