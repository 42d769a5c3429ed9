"""When a task tries again: only what waiting can mend."""

from typing import Any

from tasks.core.errors import TransientError


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Say whether a task failed with a TransientError: Prefect's `retry_condition_fn`."""
    return isinstance(state.result(raise_on_failure=False), TransientError)
