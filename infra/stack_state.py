"""What a running stack writes down about itself, for `status`, `down` and the next start: `stack.json` under home."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from infra.processes import ProcessId

Phase = Literal["starting", "ready", "stopping"]


@dataclass
class StackState:
    """The supervisor of a stack and its children."""

    stack_id: str
    supervisor: ProcessId
    phase: Phase = "starting"
    exit_code: int = 0  # what `up --detach` ends with once the stack is ready
    children: dict[str, ProcessId] = field(default_factory=dict)

    def is_alive(self) -> bool:
        """Say whether the supervisor still runs."""
        return self.supervisor.is_alive()


def state_file(home: Path) -> Path:
    """Return where the state of a home's stack is kept."""
    return home / "stack.json"


def read_state(home: Path) -> StackState | None:
    """Return the state of the stack that runs, or was killed, under a home; None when there is none."""
    try:
        fields = json.loads(state_file(home).read_text(encoding="utf-8"))
        children = {name: ProcessId(**child) for name, child in fields.pop("children").items()}
        return StackState(supervisor=ProcessId(**fields.pop("supervisor")), children=children, **fields)
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None  # cut off while it was written: nothing can be learnt from it


def write_state(home: Path, state: StackState) -> None:
    """Write the state in one step, so that readers never see half of it."""
    partial = state_file(home).with_suffix(".partial")
    partial.write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
    partial.replace(state_file(home))


def remove_state(home: Path) -> None:
    """Forget the stack."""
    state_file(home).unlink(missing_ok=True)
