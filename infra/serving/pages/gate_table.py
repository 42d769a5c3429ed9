"""The versions of a loop as a page shows them: from the ledger's records of retrains."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.stores.ledger import RetrainRow


@dataclass(frozen=True)
class RuleShown:
    """One line of a gate table."""

    name: str
    passed: bool
    finding: str


@dataclass(frozen=True)
class VersionShown:
    """A trained version with what the gate found; `state` is serving, or what became of it."""

    version: str
    state: str
    retrain: RetrainRow
    rules: tuple[RuleShown, ...]
    engines: tuple[Mapping[str, Any], ...]

    @property
    def num_passed(self) -> int:
        """Return how many rules hold."""
        return sum(rule.passed for rule in self.rules)


def list_versions(retrains: Sequence[RetrainRow], served: str | None, bundles: Path) -> list[VersionShown]:
    """Return the versions that retrains made, in their order; `bundles` holds those that this machine has loaded."""
    return [
        VersionShown(
            row.version,
            "serving" if row.version == served else _state(row.record),
            row,
            split_reasons(row.record["decision"]["reasons"]),
            read_engines(bundles / row.version / "bundle" / "engines.json"),
        )
        for row in retrains
        if row.version is not None
    ]


def split_reasons(reasons: Sequence[str]) -> tuple[RuleShown, ...]:
    """Return the gate's lines ("ok: floor: macro-F1 …") as a table, the failed ones first as they are."""
    rules = []
    for reason in reasons:
        outcome, _, rest = reason.partition(": ")
        name, found, finding = rest.partition(": ")
        rules.append(RuleShown(name if found else "", outcome == "ok", finding if found else reason))
    return tuple(rules)


def read_engines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the table of engines that was measured for a version, as it is kept; none where this machine lacks it."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    return tuple(row for row in table if isinstance(row, dict)) if isinstance(table, list) else ()


def _state(record: Mapping[str, Any]) -> str:
    released = str(record.get("released", "not promoted"))
    return {"serving": "promoted", "pending": "promoted"}.get(released, released)
