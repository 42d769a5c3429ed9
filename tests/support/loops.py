"""Loops for tests: the smallest configuration that is valid, with the data section a test wants."""

from typing import Any

from configs.schema import Loop


def make_loop(*sources: dict[str, Any], labels: tuple[str, ...] = ("neg", "pos"), **data: Any) -> Loop:
    """Return a loop with these sources and data settings."""
    return Loop.model_validate(
        {
            "name": "tiny-loop",
            "labels": list(labels),
            "data": {
                "sources": list(sources) or [{"name": "source", "kind": "csv", "path": "rows.csv"}],
                "splits": {"key": "tests-only-key", "validation": 0.1, "test": 0.3},
                "use_feedback": False,
                **data,
            },
            "training": {"base_model": "nowhere"},
            "gate": {"min_macro_f1": 0.5},
            "monitoring": {"schedule": {"cron": "0 * * * *"}},
        }
    )
