"""Which texts to label first: unsure, new and unlike each other."""

from tasks.core.usefulness import CHOSEN, order_by_use

TEXTS = ["the parcel came late", "the parcel came too late", "battery died after a week", "lovely colours and shape"]


def test_unsure_texts_come_first() -> None:
    assert order_by_use(TEXTS, [0.1, 0.2, 0.9, 0.5])[:2] == [2, 3]


def test_texts_alike_are_not_asked_one_after_the_other() -> None:
    assert order_by_use(TEXTS, [0.9, 0.89, 0.6, 0.5]) == [0, 2, 3, 1]


def test_texts_like_labelled_ones_wait() -> None:
    known = ["parcel came late", "the parcel came very late"]
    assert order_by_use(TEXTS, [0.9, 0.9, 0.5, 0.5], known)[:2] == [2, 3]


def test_every_text_has_one_place_also_without_words_or_doubt() -> None:
    texts = [*TEXTS, "", "???", *(f"text {number}" for number in range(2 * CHOSEN))]
    assert sorted(order_by_use(texts, [0.0] * len(texts), ["", "!"])) == list(range(len(texts)))
    assert order_by_use([], []) == []
    assert order_by_use(["", "!"], [0.2, 0.4]) == [1, 0]
