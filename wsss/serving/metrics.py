"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16)


class Metrics:
    """The figures of one server; all names begin with `wsss_`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = self._counter("wsss_requests", "Requests for masks by status", "status")
        self.seconds = Histogram(
            "wsss_request_seconds", "From a request's head to its answer", buckets=_SECONDS, registry=self.registry
        )
        self.images = self._counter("wsss_images", "Images labelled")
        self.group = Histogram(
            "wsss_group_images", "Images that went to the network together", buckets=_IMAGES, registry=self.registry
        )
        self.held = self._gauge("wsss_requests_held", "Requests that are received, wait or are answered")
        self.waiting = self._gauge("wsss_images_waiting", "Images that wait for the network")
        self.model = Info("wsss_model", "The model that answers", registry=self.registry)
        self.swaps = self._counter("wsss_model_swaps", "Models that took the place of another")
        self.refused = self._counter("wsss_model_refused", "Models that could not be taken up")
        self.registry_up = self._gauge("wsss_registry_up", "Whether the registry answered when last asked")
        self.shadow_images = self._counter("wsss_shadow_images", "Images that the challenger labelled too")
        self.shadow_dropped = self._counter("wsss_shadow_dropped", "Sampled images that nobody had time for")
        self.shadow_pixels = self._counter("wsss_shadow_pixels", "Compared pixels, by the champion's class", "label")
        self.shadow_other = self._counter(
            "wsss_shadow_disagreeing_pixels", "Those that the challenger gives another class", "label"
        )

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(name, what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        return Gauge(name, what, registry=self.registry)
