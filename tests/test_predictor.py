import builtins
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_versions import edit, older
from conftest import Publish, tiny_graph, tiny_network
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data.images import encode_png
from cifar_lit.errors import ImageError, RegistryError, VersionDamagedError
from cifar_lit.inference.predictor import Pixels, Predictor
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX, Version

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)


@pytest.fixture
def predictor(publish: Publish) -> Predictor:
    publish()
    return Predictor.from_version(publish(seed=1))


def test_an_answer_names_ten_classes_whose_probabilities_sum_to_one(predictor: Predictor) -> None:
    for answer in predictor.predict(IMAGES):
        assert tuple(answer.probabilities) == CLASS_NAMES
        assert math.fsum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)
        assert all(0 <= value <= 1 for value in answer.probabilities.values())


def test_the_prediction_is_the_most_probable_class(predictor: Predictor) -> None:
    for answer in predictor.predict(IMAGES):
        assert answer.confidence == max(answer.probabilities.values()) == answer.probabilities[answer.prediction]


def test_the_answer_names_the_version(predictor: Predictor) -> None:
    assert {answer.version for answer in predictor.predict(IMAGES)} == {"v0002"}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 1.7])
def test_answers_equal_the_networks_softmax_at_the_versions_temperature(publish: Publish, temperature: float) -> None:
    predictor = Predictor.from_version(publish(temperature=temperature))
    with torch.inference_mode():
        logits = tiny_network()(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    for answer, row in zip(predictor.predict(IMAGES), (logits / temperature).softmax(1), strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)


def test_a_new_temperature_leaves_the_graph_and_the_order_of_answers(publish: Publish) -> None:
    version = publish()
    before = Predictor.from_version(version).predict(IMAGES)
    edit(version.path, lambda manifest: manifest.update(temperature=3.0))
    cooled = Registry(version.path.parent).resolve(version.id)
    for one, other in zip(before, Predictor.from_version(cooled).predict(IMAGES), strict=True):
        assert sorted(one.probabilities, key=one.probabilities.__getitem__) == sorted(
            other.probabilities, key=other.probabilities.__getitem__
        )
        assert other.confidence < one.confidence


@pytest.mark.parametrize("size", [1, 2, 4, 9])
@pytest.mark.parametrize("threads", [1, 0])
def test_an_answer_depends_on_neither_batch_nor_threads(publish: Publish, size: int, threads: int) -> None:
    version = publish()
    whole = Predictor.from_version(version).predict(IMAGES)
    predictor = Predictor.from_version(version, threads=threads)
    parts = [answer for start in range(0, 9, size) for answer in predictor.predict(IMAGES[start : start + size])]
    for one, other in zip(whole, parts, strict=True):
        assert one.prediction == other.prediction
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_no_images_have_no_answers(predictor: Predictor) -> None:
    assert predictor.predict(IMAGES[:0]) == []


def test_images_may_lie_in_memory_in_any_way(predictor: Predictor) -> None:
    turned = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    assert predictor.predict(turned) == predictor.predict(IMAGES)


@pytest.mark.parametrize("images", [IMAGES.astype(np.float32), IMAGES[:, :31], IMAGES[..., :1], IMAGES[0]])
def test_other_images_are_refused(predictor: Predictor, images: Pixels) -> None:
    with pytest.raises(VersionDamagedError, match="v0002: its model.onnx can't be run"):
        predictor.predict(images)


def test_logits_that_are_huge_give_probabilities(publish: Publish) -> None:
    (answer,) = Predictor.from_version(publish(temperature=1e-5)).predict(IMAGES[:1])
    assert answer.confidence == pytest.approx(1)
    assert math.fsum(answer.probabilities.values()) == pytest.approx(1)


def test_the_bytes_of_a_32x32_png_give_the_answer_to_its_pixels(predictor: Predictor) -> None:
    assert predictor.predict_bytes(encode_png(IMAGES[0])) == predictor.predict(IMAGES[:1])[0]


def test_an_image_of_another_size_is_answered(predictor: Predictor) -> None:
    large = np.array(Image.fromarray(IMAGES[0]).resize((160, 96), Image.Resampling.NEAREST))
    assert predictor.predict_bytes(encode_png(large)).prediction in CLASS_NAMES


def test_bytes_that_are_no_image_raise(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="expected a JPEG, PNG, WebP"):
        predictor.predict_bytes(b"hello")


def test_an_answer_as_a_dict_has_the_documented_keys(predictor: Predictor) -> None:
    answer = predictor.predict(IMAGES[:1])[0].as_dict()
    assert list(answer) == ["prediction", "confidence", "probabilities", "version"]


# Versions


def test_a_damaged_version_gives_no_predictor(publish: Publish) -> None:
    version = publish()
    (version.path / ONNX).write_bytes(b"")
    with pytest.raises(VersionDamagedError, match="model.onnx differs from its hash"):
        Predictor.from_version(version)


def test_what_is_no_graph_gives_no_predictor() -> None:
    with pytest.raises(VersionDamagedError, match=r"v0007: its model.onnx can't be loaded \(.*\). Restore it"):
        Predictor(b"hello", list(CLASS_NAMES), "v0007")


def test_other_names_than_outputs_give_no_answer() -> None:
    predictor = Predictor(tiny_graph(), ["cat", "dog"], "v0007")
    with pytest.raises(VersionDamagedError, match=r"have the shape \(9, 10\), expected \(9, 2\) for 9 images and 2"):
        predictor.predict(IMAGES)


@pytest.fixture
def old_version(publish: Publish, registry: Registry) -> Version:
    """As an older release published it."""
    older(lambda folder: None)(publish(temperature=2.0).path)
    return registry.resolve("v0001")


def test_a_version_without_a_graph_answers_alike(old_version: Version) -> None:
    expected = Predictor(tiny_graph(), list(CLASS_NAMES), "v0001", temperature=2.0).predict(IMAGES)
    for one, other in zip(Predictor.from_version(old_version).predict(IMAGES), expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_version_without_a_graph_where_torch_is_not_installed_names_the_upgrade(
    old_version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "cifar_lit.interop.onnx_model")
    without(monkeypatch, "torch")
    with pytest.raises(
        RegistryError,
        match=r"v0001 has no model.onnx: .* `cifar-lit versions upgrade` .*\(torch is missing here\): pip install "
        r"'cifar-lit\[train\]'",
    ):
        Predictor.from_version(old_version)


def test_a_version_answers_where_its_network_is_not_known(publish: Publish, registry: Registry) -> None:
    version = publish()
    edit(version.path, lambda manifest: manifest.update(network={"name": "MyNet", "args": {}}))
    expected = Predictor.from_version(version).predict(IMAGES)
    assert Predictor.from_version(registry.resolve("v0001")).predict(IMAGES) == expected


def without(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Has a package not be installed."""
    imported = builtins.__import__

    def refuse(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


# Heat maps


def test_a_heat_map_is_of_the_named_class(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    def red(images: Pixels) -> np.ndarray:
        """Logits: the cat's is an image's red, every other's is the same for all."""
        logits = np.zeros((len(images), len(CLASS_NAMES)), np.float32)
        logits[:, CLASS_NAMES.index("cat")] = images[..., 0].sum(axis=(1, 2))
        return logits

    monkeypatch.setattr(predictor, "logits", red)
    image = np.zeros((32, 32, 3), np.uint8)
    image[:8, :8, 0] = 255
    assert predictor.heat_map(image, "cat")[:8, :8].min() > 0.2
    assert not predictor.heat_map(image, "ship").any()


def test_a_heat_map_of_an_unknown_class_raises(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="unicorn"):
        predictor.heat_map(IMAGES[0], "unicorn")


def test_a_heat_map_can_be_had_of_an_image_that_may_not_be_written(predictor: Predictor) -> None:
    image = IMAGES[0].copy()
    image.flags.writeable = False
    heat = predictor.heat_map(image, "cat")
    assert (heat.shape, heat.dtype) == ((32, 32), np.float32)
    assert np.array_equal(heat, predictor.heat_map(IMAGES[0], "cat"))


def test_onnx_runtime_keeps_nothing_to_report_to_its_maker(tmp_path: Path) -> None:
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    env = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    subprocess.run([sys.executable, "-c", "import cifar_lit.inference.predictor"], env=env, check=True)
    assert list(tmp_path.iterdir()) == []
