"""The explanation of a window: what is new, which topics, whose traffic; and what never leaves it."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tasks.core.explanation import as_record, describe_change, explain
from tasks.core.new_traffic import measure_novelty
from tests.support.monitored import embed_words, make_reference, make_texts, make_window

Floats = npt.NDArray[np.float64]


def draw(
    num_rows: int, share_new: float, seed: int, group_size: int = 1, shift: float = 4.0
) -> tuple[Floats, list[str]]:
    """Return vectors, of which whole groups lie far away along the first of ten dimensions."""
    random = np.random.default_rng(seed)
    num_groups = num_rows // group_size
    is_new = np.repeat(random.permutation(num_groups) < round(share_new * num_groups), group_size)
    centres = np.repeat(random.normal(size=(num_groups, 10)), group_size, axis=0)
    vectors = centres + 0.3 * random.normal(size=(num_rows, 10))
    vectors[:, 0] += shift * is_new
    return vectors, [f"{seed}-{row // group_size}" for row in range(num_rows)]


@pytest.mark.parametrize(("share", "group_size"), [(0.3, 1), (0.3, 5), (0.6, 1), (1.0, 1)])
def test_the_share_of_new_texts_is_found_and_seldom_overstated(share: float, group_size: int) -> None:
    estimates, too_high = [], 0
    for seed in range(20):
        reference, reference_groups = draw(500, 0.0, seed, group_size)
        current, groups = draw(500, share, 100 + seed, group_size)
        found = measure_novelty(
            reference=reference, current=current, reference_groups=reference_groups, current_groups=groups
        ).share
        estimates.append(found.estimate)
        too_high += found.at_least > share
    assert np.mean(estimates) == pytest.approx(share, abs=0.06)
    assert too_high <= 3  # 5 % are allowed: more than 3 of 20 happens once in 60


@pytest.mark.parametrize("group_size", [1, 10])
def test_nothing_is_new_where_nothing_is(group_size: int) -> None:
    claimed = 0
    for seed in range(20):
        reference, reference_groups = draw(300, 0.0, seed, group_size)
        current, groups = draw(300, 0.0, 50 + seed, group_size)
        share = measure_novelty(
            reference=reference, current=current, reference_groups=reference_groups, current_groups=groups
        ).share
        claimed += share.at_least > 0
    assert claimed <= 3


def frames(topic: str = "senate", with_texts: bool = True) -> dict[str, pd.DataFrame]:
    """Return reference rows about cameras, and a window half of which one key asks about something else."""
    reference = make_reference()
    if with_texts:
        reference = reference.assign(text=make_texts(len(reference), seed=99))
    old = make_window(make_texts(60, "camera", 3), seed=3, key_id="key_a")
    new = make_window(make_texts(60, topic, 4), seed=4, key_id="key_b")
    current = pd.concat([old, new], ignore_index=True)
    return {"reference": reference, "current": current.assign(n_words=current["text"].str.split().str.len())}


def record(**changes: Any) -> dict[str, Any]:
    found = as_record(explain(embed=embed_words, max_rows=120, **{**frames(), **changes}))
    assert found is not None
    return found


def test_a_new_topic_is_named_shown_and_laid_at_its_keys_door() -> None:
    found = record()
    assert [shift["word"] for shift in found["words_came"]] == ["senate"]
    assert [shift["word"] for shift in found["words_went"]] == ["camera"]
    [came] = [topic for topic in found["topics"] if "senate" in topic["words"] and topic["outcome"] == "came"][:1]
    assert (came["reference"], came["current"] > 0.05) == (0.0, True)
    assert set(came["current_examples"]) <= {f"1-4-{row}" for row in range(60)}
    assert came["reference_examples"] == []
    assert 0.3 < found["new"]["at_least"] <= 0.5 <= found["new"]["estimate"] + 0.1
    loud, quiet = found["keys"]
    assert (loud["key_id"], loud["share"], quiet["key_id"]) == ("key_b", 0.5, "key_a")
    assert loud["new"] > 0.8 > 0.2 > quiet["new"]
    assert sum(topic["current"] for topic in found["topics"]) == pytest.approx(1, abs=0.01)


def test_no_text_is_in_the_record_and_no_word_in_the_alert() -> None:
    found = record()
    told = json.dumps(found)
    assert json.loads(told) == found
    assert not any(text in told for text in frames()["current"]["text"])
    alert = "\n".join(describe_change(found, with_words=False))
    assert "senate" not in alert
    assert "1 words came, 1 went" in alert
    assert "the largest part of what is new comes from key key_b (50% of the texts" in alert
    assert "words that came: senate (0% → 50%)" in describe_change(found)


def test_without_the_references_texts_no_words_are_compared() -> None:
    found = as_record(explain(embed=embed_words, max_rows=120, note="the snapshot is gone", **frames(with_texts=False)))
    assert found is not None
    assert (found["words_came"], found["words_went"], found["note"]) == ([], [], "the snapshot is gone")
    assert found["new"]["at_least"] > 0.3
    assert any("senate" in topic["words"] for topic in found["topics"])


def test_an_unchanged_window_has_nothing_to_tell() -> None:
    found = record(**frames("camera"))
    assert (found["words_came"], found["words_went"]) == ([], [])
    assert {topic["outcome"] for topic in found["topics"]} == {"same"}
    assert found["new"]["at_least"] == 0
    assert [key["new"] for key in found["keys"]] == [0, 0]
    assert describe_change(None) == []


def test_the_answer_does_not_depend_on_chance_and_large_windows_are_sampled() -> None:
    asked: list[int] = []

    def embed(texts: Any) -> npt.NDArray[np.float32]:
        asked.append(len(texts))
        return embed_words(texts)

    first, second = (as_record(explain(embed=embed, max_rows=50, **frames())) for _ in range(2))
    assert first == second
    assert asked == [50, 50]
    assert first is not None
    assert sum(key["n"] for key in first["keys"]) == 120  # keys are counted in the whole window
