from typing import Any

import pytest

from infra.records import describe_record


def record(released: str | None, status: str = "trained") -> dict[str, Any]:
    scores = {"accuracy": 0.9, "macro_f1": 0.9, "ece": 0.02, "n": 100, "accuracy_ci": [0.85, 0.95]}
    decision = {"promote": released not in (None, "not promoted"), "reasons": ["ok: floor"]}
    found = {"loop": "toy", "status": status, "version": "2", "metrics": scores, "decision": decision}
    return found if released is None else found | {"released": released}


@pytest.mark.parametrize(
    ("released", "last"),
    [
        ("serving", "the gate promotes it, and it serves"),
        ("pending", "the gate promotes it; the service takes it up when it runs"),
        ("staged", "the gate promotes it; it goes through its stages first, and the champion serves on until then"),
        (
            "refused",
            "the gate promotes it, but the service refused it: the champion before, if there is one, serves on",
        ),
        ("not promoted", "the gate refuses it; the champion serves on"),
    ],
)
def test_a_retrain_ends_with_what_became_of_it(released: str, last: str) -> None:
    assert describe_record("retrain", record(released))[1:] == ["  ok: floor", last]


def test_a_skipped_retrain_says_so() -> None:
    (line,) = describe_record("retrain", record(None, "skipped"))
    assert line == "toy: nothing new, nothing trained (--force trains all the same)"
