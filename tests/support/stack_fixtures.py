"""Servers that files of several tiers share, started once per session."""

from collections.abc import Iterator

import pytest

from infra.demo.sink import AlertSink, open_sink
from infra.processes import find_members
from infra.stack_state import read_state
from tests.support.stack import StackUnderTest, make_stack


@pytest.fixture(scope="session")
def alert_sink() -> Iterator[AlertSink]:
    """A local HTTP server that every alert of `stack` is delivered to."""
    with open_sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, alert_sink: AlertSink) -> Iterator[StackUnderTest]:
    """A running stack with the toy loop, its first model trained and answering."""
    made = make_stack(tmp_path_factory.mktemp("stack"), alert_sink)
    started = made.run("up", "--detach")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield made
    finally:
        state = read_state(made.home)
        stopped = made.run("down")
    assert stopped.stdout.endswith("stopped\n")
    assert state is not None
    assert find_members(state.stack_id) == []
