"""What Prometheus reads: traffic, latency, queue, which version serves or is on its way, the newest drift verdict."""

from collections import Counter as TextCounter
from collections.abc import Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from infra.serving.batching import Stage
from tasks.stores.ledger import ReportRow
from tasks.stores.releases import StagedRelease

VERDICTS = ("ok", "watch", "drift", "too few")
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STAGES: tuple[Stage, ...] = ("queue", "tokenise", "engine", "log")


class Answer(Protocol):
    """What is counted of an answered text."""

    @property
    def version(self) -> str:
        """Return the version that answered."""

    @property
    def label(self) -> str:
        """Return what it said."""


class Metrics:
    """The service's own registry of metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("evertune_requests", "Requests", ["route", "status"], registry=self.registry)
        self.texts = Counter("evertune_texts", "Answered texts", ["loop", "version", "label"], registry=self.registry)
        self.seconds = Histogram(
            "evertune_request_seconds", "Time to answer", ["route"], buckets=BUCKETS, registry=self.registry
        )
        self.stages = Histogram(
            "evertune_stage_seconds",
            "Time of a request in the queue, and of a batch in each other stage",
            ["loop", "stage"],
            buckets=STAGE_BUCKETS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "evertune_batch_texts", "Texts answered together", ["loop"], buckets=BATCH_BUCKETS, registry=self.registry
        )
        self.queue = Gauge("evertune_queue_texts", "Texts that wait", ["loop"], registry=self.registry)
        self.version = Gauge("evertune_served_version", "1 for the serving version", ["loop", "version"],
                             registry=self.registry)  # fmt: skip
        self.release = Gauge("evertune_release_stage", "1 for the version on its way and the stage it is in",
                             ["loop", "version", "stage"], registry=self.registry)  # fmt: skip
        self.verdict = Gauge("evertune_drift_verdict", "1 for the newest verdict", ["loop", "verdict"],
                             registry=self.registry)  # fmt: skip
        self.accuracy = Gauge("evertune_live_accuracy", "Of the newest window; kind: measured, estimated",
                              ["loop", "kind"], registry=self.registry)  # fmt: skip

    def count_texts(self, loop: str, answers: Sequence[Answer]) -> None:
        """Count answered texts."""
        for (version, label), number in TextCounter((one.version, one.label) for one in answers).items():
            self.texts.labels(loop, version, label).inc(number)

    def observe_loop(self, loop: str) -> "LoopObserver":
        """Return what notes the stages of a loop's batches."""
        return LoopObserver(self, loop)

    def show_version(self, loop: str, version: str) -> None:
        """Mark a version as the one that serves a loop."""
        self.version.remove_by_labels({"loop": loop})
        self.version.labels(loop, version).set(1)

    def show_release(self, loop: str, running: StagedRelease | None) -> None:
        """Show the release that is on its way; nothing where there is none."""
        self.release.remove_by_labels({"loop": loop})
        if running is not None:
            self.release.labels(loop, running.version, running.stage).set(1)

    def show_report(self, loop: str, report: ReportRow | None) -> None:
        """Show the newest monitoring report of a loop."""
        if report is None:
            return
        for verdict in VERDICTS:
            self.verdict.labels(loop, verdict).set(verdict == report.verdict)
        accuracy: Mapping[str, object] = report.record.get("accuracy") or {}
        for kind in ("measured", "estimated"):
            value = accuracy.get(kind)
            if isinstance(value, int | float):
                self.accuracy.labels(loop, kind).set(value)

    def render(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)


class LoopObserver:
    """Notes the stages of one loop's batches; looks its series up once, not per request."""

    def __init__(self, metrics: Metrics, loop: str) -> None:
        self._stages = {stage: metrics.stages.labels(loop, stage) for stage in STAGES}
        self._batches = metrics.batches.labels(loop)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Note the time of a request in the queue, or of a batch in another stage."""
        self._stages[stage].observe(seconds)

    def observe_batch(self, num_items: int) -> None:
        """Note how many texts were answered together."""
        self._batches.observe(num_items)
