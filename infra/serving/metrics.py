"""What Prometheus reads: traffic, latency, queue, the serving version and the newest drift verdict."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tasks.stores.ledger import ReportRow

VERDICTS = ("ok", "watch", "drift", "too few")
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The service's own registry of metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("evertune_requests", "Requests", ["route", "status"], registry=self.registry)
        self.texts = Counter("evertune_texts", "Answered texts", ["loop", "version", "label"], registry=self.registry)
        self.seconds = Histogram(
            "evertune_request_seconds", "Time to answer", ["route"], buckets=BUCKETS, registry=self.registry
        )
        self.queue = Gauge("evertune_queue_texts", "Texts that wait", ["loop"], registry=self.registry)
        self.version = Gauge("evertune_served_version", "1 for the serving version", ["loop", "version"],
                             registry=self.registry)  # fmt: skip
        self.verdict = Gauge("evertune_drift_verdict", "1 for the newest verdict", ["loop", "verdict"],
                             registry=self.registry)  # fmt: skip
        self.accuracy = Gauge("evertune_live_accuracy", "Of the newest window; kind: measured, estimated",
                              ["loop", "kind"], registry=self.registry)  # fmt: skip

    def show_version(self, loop: str, version: str) -> None:
        """Mark a version as the one that serves a loop."""
        for known_loop, known in list(self.version._metrics):
            if known_loop == loop:
                self.version.remove(known_loop, known)
        self.version.labels(loop, version).set(1)

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
