"""Words that came and went: honest about groups, and silent about what may be somebody's own."""

import numpy as np
import numpy.typing as npt
import pytest

from tasks.core.grouped_shares import compare_shares, find_sure, share_by_group
from tasks.core.wording import MIN_GROUPS, count_words, find_word_shifts, list_words, name_by_words

Bools = npt.NDArray[np.bool_]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The camera's ZOOM, the zoom!", {"the", "camera's", "zoom"}),
        ("I paid 20 $ a_b", {"paid"}),
        ("电池很好", {"电池", "池很", "很好"}),
        ("iPhone电池", {"iphone", "电池"}),
        ("", set()),
    ],
)
def test_the_words_of_a_text(text: str, words: set[str]) -> None:
    assert list_words(text) == words


def make_sides(num_texts: int, came: float, group_size: int, seed: int = 0) -> tuple[list[str], Bools, list[str]]:
    """Return texts of two sides, all of a current group saying `tablet` or none."""
    random = np.random.default_rng(seed)
    texts, groups = [], []
    for row in range(2 * num_texts):
        group, is_current = row // group_size, row >= num_texts
        draw = np.random.default_rng([seed, group]).uniform()
        word = "tablet" if is_current and draw < came else "camera"
        texts.append(f"the {word} {random.choice(['is good', 'was bad', 'came late'])}")
        groups.append(f"g{group}")
    return texts, np.arange(2 * num_texts) >= num_texts, groups


def test_a_word_that_came_and_one_that_went() -> None:
    texts, is_current, groups = make_sides(200, 0.5, 1)
    came, went = find_word_shifts(count_words(texts), is_current, groups)
    assert [shift.word for shift in came] == ["tablet"]
    assert [shift.word for shift in went] == ["camera"]
    assert (came[0].reference, went[0].reference) == (0.0, 1.0)
    assert 0.4 < came[0].current < 0.6


def test_a_few_loud_groups_name_no_word() -> None:
    texts, is_current, groups = make_sides(200, 0.15, 20)  # one or two of ten groups say it twenty times
    assert 20 <= sum("tablet" in text for text in texts) <= 60
    assert find_word_shifts(count_words(texts), is_current, groups) == ((), ())
    each_alone = [f"row-{row}" for row in range(len(texts))]
    assert [shift.word for shift in find_word_shifts(count_words(texts), is_current, each_alone)[0]] == ["tablet"]


@pytest.mark.parametrize(("num_groups", "is_named"), [(MIN_GROUPS - 1, False), (MIN_GROUPS, True)])
def test_what_few_groups_say_is_never_named(num_groups: int, is_named: bool) -> None:
    texts = ["plain words"] * 40 + ["ivanov writes"] * 40
    groups = [f"r{row}" for row in range(40)] + [f"c{row % num_groups}" for row in range(40)]
    came, _ = find_word_shifts(count_words(texts), np.arange(80) >= 40, groups)
    assert ("ivanov" in [shift.word for shift in came]) is is_named


def test_chance_alone_names_words_in_few_windows() -> None:
    vocabulary = [f"{letter}{letter}word" for letter in "abcdefghijklmnopqrstuvwxyz"]
    named = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        texts = [" ".join(random.choice(vocabulary, 5)) for _ in range(400)]
        came, went = find_word_shifts(count_words(texts), np.arange(400) >= 200, [str(row // 4) for row in range(400)])
        named += bool(came or went)
    assert named <= 8  # 5 % are allowed: more than 8 of 60 happens once in 150


def test_a_cluster_is_named_by_its_words() -> None:
    texts = ["battery empty again", "battery life is short"] * 20 + ["nice screen", "bright screen here"] * 20
    groups = [str(row) for row in range(80)]
    usage, inside = count_words(texts), np.arange(80) < 40
    assert name_by_words(usage, inside, groups, 1) == ["battery"]
    assert name_by_words(usage, ~inside, groups, 1) == ["screen"]
    assert name_by_words(usage, np.ones(80, dtype=bool), groups, 3) == []


@pytest.mark.parametrize(("num_groups", "named"), [(MIN_GROUPS - 1, []), (MIN_GROUPS, ["ivanov"])])
def test_a_group_on_both_sides_counts_once(num_groups: int, named: list[str]) -> None:
    rows = [("ivanov", f"g{group}", side < 10) for group in range(num_groups) for side in range(11)]
    rows += [("other words", f"r{row}", False) for row in range(200)]
    texts, groups, is_inside = zip(*rows, strict=True)
    assert name_by_words(count_words(texts), np.array(is_inside), groups, 3) == named


def test_the_variance_of_a_share_is_that_of_groups() -> None:
    marks = np.repeat([1.0, 0.0] * 20, 5)[:, None]  # forty groups of five equal rows
    by_group = share_by_group(marks, [str(row // 5) for row in range(200)])
    by_row = share_by_group(marks, [str(row) for row in range(200)])
    assert by_group.shares[0] == by_row.shares[0] == 0.5
    assert by_group.variances[0] == pytest.approx(0.25 / 40, rel=0.05)
    assert by_row.variances[0] == pytest.approx(0.25 / 200, rel=0.05)
    assert by_group.num_groups[0] == 20


def test_the_false_share_is_over_all_marks_together() -> None:
    z = np.array([5.0, 2.0, -2.0, *np.linspace(-1, 1, 97)])
    assert find_sure(z).tolist() == [True, *[False] * 99]
    assert find_sure(z[:1]).tolist() == [True]
    assert find_sure(np.array([])).tolist() == []
    side = share_by_group(np.eye(2), ["a", "b"])
    assert compare_shares(side, side).tolist() == [0.0, 0.0]
