from dataclasses import dataclass

import pytest

from tasks.core.champions import find_previous_champion


@dataclass(frozen=True)
class Row:
    action: str
    to_version: str | None


def history(*moves: str) -> list[Row]:
    """`promote 1` per move; `refuse 2` did not become champion; `rollback -` left none."""
    pairs = (move.split() for move in moves)
    return [Row(action, None if version == "-" else version) for action, version in pairs]


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
        (["promote 1", "rollback -", "promote 2"], "2", "1"),
        (["promote 1", "promote 2", "rollback 7"], "7", "2"),
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
        moves.append(Row("rollback", previous))
        current = previous
        seen.append(previous)
    assert seen == ["2", "1"]
