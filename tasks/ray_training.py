"""Runs a training job on a Ray cluster: as many workers as asked for, on whatever machines the cluster has.

Needs `evertune[ray]` on every machine. All they share is the job folder (see `core/training_worker.py`).
"""

import atexit
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.settings import RAY_LOCAL
from tasks.core.errors import DataError, TransientError
from tasks.core.trainer import Progress
from tasks.core.training_worker import has_workers_error, raise_workers_error, read_progress, run_job

SECONDS_BETWEEN_LOOKS = 0.2
MAX_FAILURES = 5  # workers or machines lost; each time all workers go on from the newest checkpoint
SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_DISABLE_IMPORT_WARNING": "1"}


def run_on_ray(job: Path, address: str, workers: int, on_progress: Callable[[Progress], None]) -> None:
    """Run the job on the cluster at that address, or on one of this machine's own for `local`.

    Raises DataError when Ray is not installed, TransientError when the cluster does not answer, and otherwise the
    worker's error. Ending for any reason ends the workers.
    """
    connect(address, workers)
    import ray

    try:
        _relay_until_done(job, workers, on_progress)
    finally:
        ray.shutdown()


def connect(address: str, workers: int) -> None:
    """Join the cluster at an address, or start one of this machine's own for `local`; errors as `run_on_ray`."""
    if importlib.util.find_spec("ray") is None:
        raise DataError(
            "EVERTUNE_RAY_ADDRESS is set, but Ray is not installed. Run: python -m pip install 'evertune[ray]'"
        )
    os.environ.update(SILENT)
    import ray

    own: dict[str, Any] = {}
    if address == RAY_LOCAL:
        own = {"include_dashboard": False, "num_cpus": workers + 1, "object_store_memory": 100 * 2**20}
        place = tempfile.mkdtemp(prefix="ray-")  # not under home: sockets need a short path
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        own |= {"_temp_dir": place, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address, log_to_driver=False, logging_level="error", runtime_env={"env_vars": SILENT}, **own)
    except ConnectionError as error:
        raise TransientError(f"EVERTUNE_RAY_ADDRESS '{address}': no cluster answers: {error}") from error


def _relay_until_done(job: Path, workers: int, on_progress: Callable[[Progress], None]) -> None:
    """Wait for the cluster in a thread of its own, and pass on what rank 0 reports meanwhile."""
    outcome: list[Exception | None] = []

    def wait() -> None:
        try:
            _trainer(job, workers).fit()
            outcome.append(None)
        except Exception as error:  # noqa: BLE001  # it is raised again below, in the thread that asked
            outcome.append(error)

    waiter = threading.Thread(target=wait, daemon=True)
    offset = 0
    waiter.start()
    while waiter.is_alive():
        waiter.join(SECONDS_BETWEEN_LOOKS)
        reports, offset = read_progress(job, offset)
        for report in reports:
            on_progress(report)
    error = outcome[0]
    if error is not None:
        raise RuntimeError(f"fine-tuning on Ray failed: {error}") from error
    raise_workers_error(job)


def _trainer(job: Path, workers: int) -> Any:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer(
        _work,
        train_loop_config={"job": str(job.absolute())},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=_has_gpus(ray.cluster_resources())),
        run_config=RunConfig(
            name="ray",
            storage_path=str(job.absolute()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )


def _has_gpus(resources: dict[str, float]) -> bool:
    """Return whether the cluster trains on GPUs: the machine that asks need not have one."""
    return resources.get("GPU", 0) > 0


def _work(config: dict[str, str]) -> None:
    """Take part in the job; only the loss of a worker is an error to Ray, which then starts all of them again."""
    job = Path(config["job"])
    if has_workers_error(job):
        return
    try:
        run_job(job)
    except Exception:
        if not has_workers_error(job):
            raise
