"""Registered versions of a tiny model, without training."""

from pathlib import Path

from tasks.stores.model_registry import ModelRegistry
from tests.support.tiny_bundle import write_tiny_bundle


def register_tiny_version(registry: ModelRegistry, folder: Path, loop: str, labels: list[str]) -> str:
    """Register a version whose bundle answers at once; returns its number."""
    for part in ("checkpoint", "evidence"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        (folder / part / "note.json").write_text("{}", encoding="utf-8")
    write_tiny_bundle(folder / "bundle", labels=labels)
    run_id = registry.start_run(loop, "tiny", {}, {})
    folders = {part: folder / part for part in ("bundle", "checkpoint", "evidence")}
    made = registry.register(loop, run_id, folders, labels, "# tiny", {})
    registry.finish_run(run_id)
    return made.version
