import numpy as np
import pytest

from tasks.core.attribution import MAX_PARTS, Part, Span, find_parts, leave_out, weigh_parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It didn't work, sadly.", ["It", "didn't", "work", "sadly"]),
        ("state-of-the-art 4K", ["state-of-the-art", "4K"]),
        ("画面很好 and fast", ["画", "面", "很", "好", "and", "fast"]),
        ("naïve café’s", ["naïve", "café’s"]),
        ("?! … ", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert [text[part.start : part.end] for part in find_parts(text)] == words


def test_a_long_text_is_cut_into_runs_that_cover_all_words() -> None:
    text = " ".join(f"w{number}" for number in range(1000))
    parts = find_parts(text)
    assert len(parts) == MAX_PARTS
    assert " ".join(text[part.start : part.end] for part in parts) == text


def test_each_variant_lacks_one_word() -> None:
    text = "not  good, really"
    assert leave_out(text, find_parts(text)) == ["good, really", "not , really", "not good,"]
    assert leave_out("good", find_parts("good")) == []


def test_weights_are_bits_of_odds_and_the_pieces_make_the_text() -> None:
    text = "it is good!"
    parts = find_parts(text)
    without = np.array([[0.2, 0.8], [0.1, 0.9], [0.5, 0.5]])  # it, is, good
    pieces = weigh_parts(text, parts, [0.2, 0.8], without)
    assert "".join(piece.text for piece in pieces) == text
    assert pieces[0] == Part("it", 0.0, 0)
    assert (pieces[2].bits, pieces[2].level) == (-1.17, -2)  # without "is" the odds are 9 to 1 instead of 4 to 1
    assert (pieces[4].bits, pieces[4].level) == (2.0, 4)  # four to one with "good", one to one without
    assert pieces[-1] == Part("!")


def test_a_certain_answer_has_finite_weights_and_a_single_word_none() -> None:
    (piece, _, _) = weigh_parts("a b", [Span(0, 1), Span(2, 3)], [1.0, 0.0], np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert piece.bits == 0.0
    assert weigh_parts("good", [Span(0, 4)], [0.1, 0.9], np.empty((0, 2))) == [Part("good")]


def test_weak_evidence_is_no_reason() -> None:
    pieces = weigh_parts("a b", [Span(0, 1), Span(2, 3)], [0.5, 0.5], np.array([[0.49, 0.51], [0.5, 0.5]]))
    assert [piece.level for piece in pieces if piece.bits is not None] == [0, 0]
