"""Which version serves: forward to a chosen one, or back to the one before."""

from dataclasses import asdict
from typing import Any

from prefect import flow

from configs.load import find_loop
from configs.settings import Settings
from tasks.release import choose_rollback, name_of_asker, release_version


@flow(name="release", persist_result=True, result_serializer="json")
def release(loop: str, version: str, why: str = "", now: bool = False) -> dict[str, Any]:
    """Make the service answer with a registered version, after its checks and the loop's stages.

    Args:
        loop: Name of the loop.
        version: Number of the version in the MLflow registry, for example 3.
        why: The reason, for the audit log.
        now: Serve everyone at once, without shadow and canary.
    """
    config = find_loop(loop, Settings().loops_dir)
    return asdict(release_version(config, version, name_of_asker(), why, now=now))


@flow(name="rollback", persist_result=True, result_serializer="json")
def rollback(loop: str, to: str | None = None, why: str = "") -> dict[str, Any]:
    """Go back to the version that served before, or to a version of your choice; ends a release on its way.

    Args:
        loop: Name of the loop.
        to: Number of the version; left empty, the champion before the current one, or while a release is on its way
            through shadow and canary, the champion itself.
        why: The reason, for the audit log and the alert.
    """
    config = find_loop(loop, Settings().loops_dir)
    target = choose_rollback(config, to)
    outcome = release_version(config, target.version, name_of_asker(), why, action="rollback", judged=target.judged)
    return asdict(outcome)
