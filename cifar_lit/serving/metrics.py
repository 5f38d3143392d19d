"""What the one server process counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from cifar_lit.inference.champion import Refusal, Serving
from cifar_lit.inference.service import ServedPrediction

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cifar_lit_requests", "Requests replied to.", ["route", "method", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "cifar_lit_request_seconds",
            "From the request's head to the response's end.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        stages = Histogram(
            "cifar_lit_stage_seconds",
            "What an image's prediction took: decode (waiting for a worker included), queue, model (its whole batch).",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._decode, self._queue, self._model = (stages.labels(stage) for stage in ("decode", "queue", "model"))
        self._batch = Histogram(
            "cifar_lit_batch_size", "Images in the batch of a prediction.", buckets=_SIZES, registry=self.registry
        )
        self._predictions = Counter(
            "cifar_lit_predictions", "Images classified.", ["version", "prediction"], registry=self.registry
        )
        self._version = Gauge(
            "cifar_lit_version", "1 for the version that is served.", ["version"], registry=self.registry
        )
        self._changes = Counter("cifar_lit_champion_changes", "Champions taken up.", registry=self.registry)
        self._refusals = Counter("cifar_lit_champion_refusals", "Champions refused.", registry=self.registry)
        self.pending = Gauge("cifar_lit_pending", "Images on their way.", registry=self.registry)
        self.version_damaged = Gauge(
            "cifar_lit_version_damaged", "1 if files of the served version are damaged on disk.", registry=self.registry
        )
        self.connections = Gauge("cifar_lit_connections", "Open connections.", registry=self.registry)
        self.page_streams = Gauge("cifar_lit_page_streams", "Event streams of open pages.", registry=self.registry)
        self.uploads = Counter("cifar_lit_page_uploads", "Files uploaded to the page.", registry=self.registry)
        self.kept_uploads = Gauge("cifar_lit_kept_uploads", "Uploaded files that are kept.", registry=self.registry)
        self.kept_upload_bytes = Gauge("cifar_lit_kept_upload_bytes", "Bytes of them.", registry=self.registry)
        self.decoder_restarts = Counter(
            "cifar_lit_decoder_restarts", "Decode workers that were lost and replaced.", registry=self.registry
        )
        ProcessCollector(registry=self.registry)

    def on_prediction(self, result: ServedPrediction) -> None:
        self._decode.observe(result.decode_s)
        self._queue.observe(result.queue_s)
        self._model.observe(result.model_s)
        self._batch.observe(result.batch_size)
        self._predictions.labels(result.prediction.version, result.prediction.prediction).inc()

    def on_change(self, serving: Serving) -> None:
        self._version.clear()
        self._version.labels(serving.predictor.version).set(1)
        self._changes.inc()

    def on_refusal(self, refusal: Refusal) -> None:
        self._refusals.inc()

    def render(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)
