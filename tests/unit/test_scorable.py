import math

import pytest

from tasks.core.scorable import find_flaw, name_answer_columns


@pytest.mark.parametrize(
    ("value", "flaw"),
    [
        ("Great picture", None),
        ("tab\tand\nbreaks\r\n", None),
        ("Größe passt 👍", None),
        ("x" * 20, None),
        (None, "empty"),
        (math.nan, "empty"),
        ("", "empty"),
        (" \n\t", "empty"),
        (4, "not text (int)"),
        (["a"], "not text (list)"),
        (b"bytes", "not text (bytes)"),
        ("x" * 21, "too long (21 characters, at most 20)"),
        ("a\x00b", "control characters"),
        ("a\x7fb", "control characters"),
        ("a\u0085b", "control characters"),
        ("half a pair \ud83d", "not valid Unicode"),
    ],
)
def test_flaw(value: object, flaw: str | None) -> None:
    assert find_flaw(value, max_chars=20) == flaw


@pytest.mark.parametrize(
    ("existing", "names"),
    [
        (["text"], ["label", "score", "p_bad", "p_good"]),
        (["text", "label"], ["predicted_label", "score", "p_bad", "p_good"]),
        (["label", "predicted_label", "p_good"], ["predicted_predicted_label", "score", "p_bad", "predicted_p_good"]),
    ],
)
def test_no_column_of_the_file_is_overwritten(existing: list[str], names: list[str]) -> None:
    assert list(name_answer_columns(existing, ["bad", "good"]).values()) == names
