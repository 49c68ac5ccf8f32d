"""Metrics for Prometheus: requests by status, latency, batch sizes and memory."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server. Each server has its own registry, so two servers in one process do not add up."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._answers = Counter(
            "focaldet_predict_requests", "Requests to /predict, by HTTP status", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "focaldet_predict_seconds", "Seconds from the first byte of a request to its response", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._batches = Histogram(
            "focaldet_batch_photos", "Photos per batch", buckets=_SIZES,
            registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge("focaldet_waiting", "Requests in progress", registry=self._registry)

    def answered(self, status: int, seconds: float) -> None:
        """Record the response to a /predict request."""
        self._answers.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """Record the size of a batch."""
        self._batches.observe(size)

    def text(self, waiting: int) -> bytes:
        """All metrics in Prometheus' text format."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
