"""What settled labels mean for training rows and for the monitored window."""

import pandas as pd

from configs.schema import Splits
from tasks.core.feedback_rows import admit_rows, find_test_rows, settle_window
from tasks.core.feedback_trust import Settled
from tests.support.monitored import make_window

SPLITS = Splits(key="a key of tests", validation=0.1, test=0.3)


def make_rows(num_rows: int = 40) -> pd.DataFrame:
    names = [f"p{row}" for row in range(num_rows)]
    rows = {"row_id": [f"feedback:{name}" for name in names], "label": "a", "group": names}
    return pd.DataFrame(rows).astype("str")


def test_rows_that_would_judge_wait_for_a_reviewer() -> None:
    rows = make_rows()
    judges = find_test_rows(rows, SPLITS)
    assert 4 < len(judges) < 24
    alone = [Settled(f"p{row}", "a", "alone") for row in range(40)]
    admitted = admit_rows(rows, alone, SPLITS)
    assert set(admitted["row_id"]) == set(rows["row_id"]) - judges
    reviewed = [Settled(f"p{row}", "b", "reviewed") for row in range(40)]
    admitted = admit_rows(rows, reviewed, SPLITS)
    assert (set(admitted["row_id"]), set(admitted["label"])) == (set(rows["row_id"]), {"b"})


def test_rows_that_are_held_back_or_contested_go() -> None:
    settled = [Settled("p0", None, "held back"), Settled("p1", None, "contested")]
    admitted = admit_rows(make_rows(3), settled, SPLITS)
    assert len(admitted) == 0
    assert list(admitted.columns) == ["row_id", "label", "group"]


def test_a_window_gets_settled_labels_and_says_how_they_came() -> None:
    """An audited text that a customer disputes later is the customer's: else only texts without disputes were drawn."""
    window = make_window(["one", "two", "three", "four", "five"])
    window["gold"] = ["a", "a", "a", "a", None]
    window["picked"] = ["given", "given", "audit", "audit", None]
    window["asked"] = [None, "review", "audit", "audit", None]
    known = window["prediction_id"].tolist()
    settled = [
        Settled(known[0], None, "held back"),
        Settled(known[1], "b", "reviewed"),  # its customer is held back, a reviewer spoke
        Settled(known[2], "a", "reviewed", is_given=True),
        Settled(known[3], "b", "reviewed"),
    ]
    found = settle_window(window, settled)
    assert found["gold"].tolist() == [None, "b", "a", "b", None]
    assert found["picked"].tolist() == [None, "review", "given", "audit", None]
