from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.inference.champion import Refusal, Serving
from cifar_lit.inference.predictor import Prediction
from cifar_lit.inference.service import ServedPrediction
from cifar_lit.serving.metrics import Metrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(metrics: Metrics) -> Samples:
    """What Prometheus reads, by name and labels."""
    text = metrics.render().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"cifar_lit_{name}", frozenset(labels.items())


def answer(prediction: str = "cat", version: str = "v0001", batch_size: int = 3) -> ServedPrediction:
    probs = dict.fromkeys(CLASS_NAMES, 0.1)
    pixels = np.zeros((32, 32, 3), np.uint8)
    return ServedPrediction(Prediction(prediction, 0.1, probs, version), pixels, 0.004, 0.3, 0.015, batch_size)


def serving(version: str) -> Serving:
    return Serving(SimpleNamespace(version=version), None, "2026-01-01T00:00:00+00:00")  # type: ignore[arg-type]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_an_answer_is_counted_by_version_and_class(metrics: Metrics) -> None:
    for each in (answer(), answer(), answer("dog"), answer(version="v0002")):
        metrics.on_prediction(each)
    found = samples(metrics)
    assert found[key("predictions_total", version="v0001", prediction="cat")] == 2
    assert found[key("predictions_total", version="v0001", prediction="dog")] == 1
    assert found[key("predictions_total", version="v0002", prediction="cat")] == 1


@pytest.mark.parametrize(
    ("stage", "seconds", "bounds"),
    [("decode", 0.004, ("0.002", "0.005")), ("queue", 0.3, ("0.25", "0.5")), ("model", 0.015, ("0.01", "0.02"))],
)
def test_each_stage_has_its_own_seconds(metrics: Metrics, stage: str, seconds: float, bounds: tuple[str, str]) -> None:
    metrics.on_prediction(answer())
    metrics.on_prediction(answer())
    found = samples(metrics)
    assert found[key("stage_seconds_sum", stage=stage)] == pytest.approx(2 * seconds)
    assert found[key("stage_seconds_count", stage=stage)] == 2
    below, above = (found[key("stage_seconds_bucket", stage=stage, le=bound)] for bound in bounds)
    assert (below, above) == (0, 2)


def test_batches_are_counted_by_size(metrics: Metrics) -> None:
    for size in (1, 3, 16):
        metrics.on_prediction(answer(batch_size=size))
    found = samples(metrics)
    assert found[key("batch_size_sum")] == 20
    counts = [found[key("batch_size_bucket", le=bound)] for bound in ("1.0", "2.0", "4.0", "16.0", "+Inf")]
    assert counts == [1, 1, 2, 3, 3]


def test_one_version_is_served_at_a_time(metrics: Metrics) -> None:
    for version in ("v0001", "v0003", "v0002"):
        metrics.on_change(serving(version))
    found = samples(metrics)
    served = {each: value for each, value in found.items() if each[0] == "cifar_lit_version"}
    assert served == {key("version", version="v0002"): 1}
    assert found[key("champion_changes_total")] == 3


def test_refusals_are_counted_and_the_served_version_stays(metrics: Metrics) -> None:
    metrics.on_change(serving("v0001"))
    metrics.on_refusal(Refusal("v0002", "it is broken", "2026-01-01T00:00:00+00:00"))
    found = samples(metrics)
    assert found[key("champion_refusals_total")] == 1
    assert found[key("version", version="v0001")] == 1


def test_requests_and_what_is_pending_are_told(metrics: Metrics) -> None:
    metrics.requests.labels("/predict", "POST", "200").inc()
    metrics.request_seconds.labels("/predict").observe(0.02)
    metrics.pending.set(7)
    found = samples(metrics)
    assert found[key("requests_total", route="/predict", method="POST", status="200")] == 1
    assert found[key("request_seconds_count", route="/predict")] == 1
    assert found[key("pending")] == 7


def test_two_servers_in_a_process_count_apart(metrics: Metrics) -> None:
    other = Metrics()
    other.on_prediction(answer())
    assert key("predictions_total", version="v0001", prediction="cat") not in samples(metrics)
    assert samples(other)[key("predictions_total", version="v0001", prediction="cat")] == 1
