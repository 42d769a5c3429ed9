"""Trials as tasks of a local Ray cluster: an outcome, a stop, and a failure that the search can name."""

from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.trials import Report, TrialFailedError, TrialStoppedError
from tasks.ray_lane import open_ray_lanes
from tests.integration.test_tune_flow import make_job


def test_trials_on_ray(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    reports: list[Report] = []

    def tell(report: Report) -> bool:
        reports.append(report)
        return True

    with open_ray_lanes("local", 1) as lanes:
        outcome = lanes[0](job, tell)
        stopped = replace(
            job, folder=str(tmp_path / "stopped"), training=job.training.model_copy(update={"epochs": 50})
        )
        with pytest.raises(TrialStoppedError):
            lanes[0](stopped, lambda report: False)
        with pytest.raises(TrialFailedError, match="DataError"):
            lanes[0](replace(job, folder=str(tmp_path / "failed"), base_model="/nowhere"), tell)
    assert len(outcome.predicted[0]) == 30
    assert any("eval_macro_f1" in report.metrics for report in reports)
