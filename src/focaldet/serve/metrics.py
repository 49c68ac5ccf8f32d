"""Counters for Prometheus: how many requests with which answer, how long, how large the batches, how much memory."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What one server counts; each has its own registry, so that two in a process do not add up."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._answers = Counter(
            "focaldet_predict_requests", "Requests to /predict, by HTTP status", ["status"], registry=self._registry
        )
        self._seconds = Histogram(
            "focaldet_predict_seconds", "From a request's first byte to its answer", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._batches = Histogram(
            "focaldet_batch_photos", "Photos that went through the network together", buckets=_SIZES,
            registry=self._registry,
        )  # fmt: skip
        self._waiting = Gauge("focaldet_waiting", "Requests that are being answered", registry=self._registry)

    def answered(self, status: int, seconds: float) -> None:
        """A request to /predict has its answer."""
        self._answers.labels(str(status)).inc()
        self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """A batch goes to the network."""
        self._batches.observe(size)

    def text(self, waiting: int) -> bytes:
        """All of them as Prometheus reads them."""
        self._waiting.set(waiting)
        return generate_latest(self._registry)
