"""The temperature: how it is fitted, kept, applied and carried into files."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Publish, tiny_network
from torchmetrics.functional.classification import multiclass_calibration_error

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import WeightsError
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import at_temperature, ece_metrics, fit_temperature, reliability
from cifar_lit.evaluation.evaluation import Evaluation
from cifar_lit.interop import keras_export, safetensors_file, weights_npz
from cifar_lit.interop.model import load_file
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network

IMAGES = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def sampled(temperature: float, count: int = 20_000) -> Evaluation:
    """Answers whose labels are drawn from the softmax of the logits divided by `temperature`."""
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(count, 10, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator).squeeze(1)
    return Evaluation(logits, labels)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_with_is_found(temperature: float) -> None:
    assert fit_temperature(sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_it_has_the_least_loss_of_all() -> None:
    evaluation = sampled(1.7, 3_000)
    best = fit_temperature(evaluation)
    losses = [at_temperature(evaluation, best * factor).metrics["loss"] for factor in (0.95, 1.0, 1.05)]
    assert min(losses) == losses[1]


@pytest.mark.usefixtures("unabridged")
@pytest.mark.parametrize("num_classes", [3, 100])
def test_the_temperature_leaves_predictions_and_the_datas_class_names_as_they_are(num_classes: int) -> None:
    names = [f"class {number}" for number in range(num_classes)]
    evaluation = Evaluation(torch.eye(num_classes), torch.arange(num_classes), names)
    served = at_temperature(evaluation, 0.5)
    assert served.class_names == names
    assert torch.equal(served.preds, evaluation.preds)
    assert plots.sample_grid(torch.zeros(num_classes, 32, 32, 3, dtype=torch.uint8), served, "served")


def test_a_few_answers_that_are_all_right_do_not_make_certainty() -> None:
    labels = torch.arange(20) % 10
    evaluation = Evaluation(5 * torch.eye(10)[labels], labels)
    confidence = at_temperature(evaluation, fit_temperature(evaluation)).probs.amax(1)
    assert confidence.max() == pytest.approx(1 - 0.9 / 22, abs=1e-4)


def test_answers_that_are_worse_than_chance_get_the_least_confidence() -> None:
    labels = torch.arange(100) % 10
    evaluation = Evaluation(-5 * torch.eye(10)[labels], labels)
    assert fit_temperature(evaluation) == pytest.approx(100)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_calibration_error_is_torchmetrics(temperature: float) -> None:
    evaluation = sampled(temperature, 2_000)
    theirs = multiclass_calibration_error(evaluation.probs, evaluation.labels, 10, n_bins=15, norm="l1")
    assert reliability(evaluation).ece == pytest.approx(theirs.item(), abs=2e-6)


def test_one_image_is_enough_for_a_diagram() -> None:
    assert reliability(Evaluation(torch.zeros(1, 10), torch.tensor([3]))).counts.tolist() == [0, 1] + [0] * 13


def test_the_metrics_are_those_before_and_after() -> None:
    evaluation = sampled(2.5)
    metrics = ece_metrics({"val": evaluation}, fit_temperature(evaluation))
    assert list(metrics) == ["val/ece", "val/ece_raw"]
    assert metrics["val/ece"] < 0.02 < 0.1 < metrics["val/ece_raw"]


# Where it is applied


@pytest.mark.parametrize("module", [weights_npz, safetensors_file])
def test_files_of_weights_carry_it(module: ModuleType, tmp_path: Path) -> None:
    network = tiny_network()
    network.temperature = 0.625
    path = tmp_path / ("weights.npz" if module is weights_npz else "weights.safetensors")
    path.write_bytes(module.dump(network, CLASS_NAMES))
    assert load_file(path).network.temperature == 0.625


def with_header(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    arrays = dict(np.load(io.BytesIO(weights_npz.dump(tiny_network(), CLASS_NAMES))))
    header = json.loads(arrays["header"].tobytes())
    change(header)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(tmp_path / "weights.npz", **arrays)
    return tmp_path / "weights.npz"


def test_a_file_from_before_there_was_one_is_read(tmp_path: Path) -> None:
    assert load_file(with_header(tmp_path, lambda header: header.pop("temperature"))).network.temperature == 1


@pytest.mark.parametrize("value", [0, -1, "1", None, float("nan"), 1e9])
def test_a_file_with_another_value_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="temperature is .*, expected a number above 0"):
        load_file(with_header(tmp_path, lambda header: header.update(temperature=value)))


def test_keras_gives_the_calibrated_probabilities(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    network = tiny_network()
    network.temperature = 0.25
    (tmp_path / "model.h5").write_bytes(keras_export.dump(network))
    back = load_file(tmp_path / "model.h5").network
    images = IMAGES.permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(back(images), network(images) / 0.25, rtol=1e-4, atol=1e-4)
    assert back.temperature == 1


# Versions


def test_a_version_keeps_it_through_training_and_fine_tuning(parents: Path) -> None:
    manifest = Registry(parents).get("v0001").manifest
    assert manifest.temperature != 1
    assert {"val/ece", "val/ece_raw", "test/ece", "test/ece_raw"} <= set(manifest.metrics)
    assert load_network(Registry(parents).get("v0001")).temperature == manifest.temperature


def uncalibrated(registry: Registry, version: Version, train: ImageSet, test: ImageSet) -> None:
    data = version.manifest.data | {"train": {"count": len(train), "sha256": train.sha256}}
    data |= {"test": {"count": len(test), "sha256": test.sha256}}
    manifest = replace(version.manifest, data=data)
    (version.path / "manifest.json").write_bytes(manifest.to_json())


DATA = ["--data.root", "data"]


@pytest.fixture
def old(publish: Publish, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with v0001, which knows its data and has no temperature; the data are at hand."""
    from test_fit import image_folder

    from cifar_lit.data.sources import read_split

    monkeypatch.chdir(tmp_path)
    root = image_folder(Path("data"))
    for split in ("train", "test"):
        for path in (root / split).glob("*/0.png"):
            for number in range(1, 5):
                (path.parent / f"{number}.png").write_bytes(path.read_bytes())
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", str(registry.root))
    uncalibrated(registry, publish(promote=True), read_split("train", root), read_split("test", root))
    return registry


@pytest.mark.usefixtures("unabridged")
def test_upgrade_fits_it_to_the_versions_own_validation_images(
    old: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = old.get("v0001").manifest
    assert main(["versions", "upgrade", *DATA]) == 0
    after = old.resolve("v0001").manifest
    assert after.temperature != 1
    assert f"temperature {after.temperature:.4f} written" in capsys.readouterr().out
    assert before.metrics.items() < after.metrics.items()
    assert set(after.files) - set(before.files) == {"report/calibration.png"}
    assert "expected calibration error" in old.get("v0001").read("README.md").decode()
    assert main(["versions", "upgrade", *DATA, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_upgrade_leaves_a_version_of_other_images_as_it_is_and_says_why(
    old: Registry, publish: Publish, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    publish(seed=1)
    assert main(["versions", "upgrade", *DATA, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["v0001"]
    assert "v0002 has no temperature yet: the train images at hand are not those of its manifest" in caplog.text
    assert old.get("v0002").manifest.temperature == 1
