from dataclasses import dataclass

import pytest

from tasks.core.champions import find_previous_champion


@dataclass(frozen=True)
class Row:
    action: str
    from_version: str | None
    to_version: str | None


def history(*moves: str) -> list[Row]:
    """`promote 1` per move; `refuse 2` did not become champion; `rollback -` left none; `6<5` was moved from 5."""
    rows: list[Row] = []
    champion = None
    for move in moves:
        action, versions = move.split()
        to, _, said = versions.partition("<")
        rows.append(Row(action, said or champion, None if to == "-" else to))
        champion = champion if action == "refuse" else rows[-1].to_version
    return rows


@pytest.mark.parametrize(
    ("moves", "current", "previous"),
    [
        ([], "1", None),
        (["promote 1"], "1", None),
        (["promote 1", "promote 2"], "2", "1"),
        (["promote 1", "refuse 2", "promote 3"], "3", "1"),
        (["promote 1", "promote 2", "release 3", "rollback 2"], "2", "1"),
        (["promote 1", "promote 2", "rollback 1", "promote 3"], "3", "1"),
        (["promote 1", "promote 2", "rollback 1"], "1", None),
        (["promote 1", "rollback -", "promote 2"], "2", None),  # the service refused the first model
        (["promote 1", "rollback -"], "1", None),
        (["promote 1", "rollback -", "promote 2", "promote 3"], "3", "2"),
        (["promote 1", "promote 2", "promote 3<-", "rollback -"], "4", "2"),  # a deleted alias, then a refusal
        (["promote 1", "promote 6<5", "rollback 5"], "5", "1"),  # refused, and back to one moved by hand
        (["promote 1", "promote 2", "rollback 7"], "7", "1"),  # to a version that never served: 2 was left
        (["promote 1", "rollback 7"], "7", None),
        (["promote 1", "promote 2", "rollback 7<9"], "7", "2"),  # 9 was moved by hand in MLflow
        (["promote 1", "promote 2", "rollback 7", "rollback 1"], "1", None),
        (["promote 1", "promote 2"], "9", "2"),  # moved by hand in MLflow: the last known champion
        (["promote 1", "release 1", "promote 2", "release 1"], "1", "2"),
    ],
)
def test_previous_champion(moves: list[str], current: str, previous: str | None) -> None:
    assert find_previous_champion(history(*moves), current) == previous


def test_rollbacks_go_further_back_each_time() -> None:
    moves = history("promote 1", "promote 2", "promote 3")
    current = "3"
    seen = []
    while (previous := find_previous_champion(moves, current)) is not None:
        moves.append(Row("rollback", current, previous))
        current = previous
        seen.append(previous)
    assert seen == ["2", "1"]
