import pandas as pd
import pytest

from configs.schema import Augmentation
from tasks.core.augmentation import augment

ROWS = pd.DataFrame(
    {
        "text": [f"number {n} works very well for me" for n in range(40)] + ["alone"],
        "label": ["positive"] * 41,
        "weight": [1.0] * 40 + [0.5],
    }
)


def test_no_copies_leave_the_rows_as_they_are() -> None:
    assert augment(ROWS, Augmentation(), seed=1) is ROWS


def test_copies_follow_the_rows_and_keep_everything_but_the_text() -> None:
    made = augment(ROWS, Augmentation(copies=2, delete=0.1, swap=0.2), seed=1)
    assert made["text"].tolist()[:41] == ROWS["text"].tolist()
    copies = made.iloc[41:]
    assert len(copies) == 80  # a text of one word has no copy
    assert set(copies["label"]) == {"positive"}
    assert set(copies["weight"]) == {1.0}
    assert not set(copies["text"]) & set(ROWS["text"])


def test_the_seed_alone_decides() -> None:
    augmentation = Augmentation(copies=1)
    one, same, other = (augment(ROWS, augmentation, seed)["text"].tolist() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(("delete", "swap"), [(0.3, 0.0), (0.0, 0.5), (0.99, 0.3)])
def test_words_are_left_out_or_change_places_and_none_is_invented(delete: float, swap: float) -> None:
    made = augment(ROWS, Augmentation(copies=1, delete=delete, swap=swap), seed=3)
    for text in made["text"].iloc[41:]:
        number = next((word for word in text.split() if word.isdigit()), None)
        words = f"number {number} works very well for me".split()
        rest = [word for word in text.split() if word.isdigit() or word in words]
        assert len(text.split()) >= 1
        assert rest == text.split()
        if delete == 0:
            assert sorted(text.split()) == sorted(words)
        if swap == 0:
            assert text.split() == [word for word in words if word in text.split()]
