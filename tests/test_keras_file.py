"""Keras models in HDF5: read alike whichever Keras wrote them, refused by name where they are something else."""

import copy
import json
import os
import random
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras_files
import numpy as np
import pytest
import torch
from conftest import tiny_network

from cifar_lit.cli import main
from cifar_lit.errors import WeightsError
from cifar_lit.interop import keras_file
from cifar_lit.models.networks import Network

REFERENCE = os.environ.get("CIFAR_LIT_REFERENCE")


def settled_network() -> Network:
    """A tiny network whose batch-norm statistics are other than those of a new one."""
    network = tiny_network(3)
    generator = torch.Generator().manual_seed(4)
    for name, value in network.state_dict().items():
        if value.dtype == torch.float32 and value.dim() == 1:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            assert "weight" in name or "bias" in name or "running" in name
    return network


@pytest.fixture
def network() -> Network:
    return settled_network()


@pytest.fixture
def layers(network: Network) -> list[keras_files.Layer]:
    return keras_files.layers_of(network)


@pytest.fixture
def file(tmp_path: Path, network: Network) -> Path:
    config = keras_files.functional(keras_files.layers_of(network))
    return keras_files.write(tmp_path / "model.h5", config, keras_files.arrays_of(network), inside="{layer}/{name}")


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        keras_file.load(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


def assert_same(read: Network, expected: Network) -> None:
    """The same weights, laid out here by the slow and obvious way of `keras_files.arrays_of`."""
    for name, value in expected.state_dict().items():
        if "num_batches" not in name:
            assert torch.equal(read.state_dict()[name], value), name
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = read(pixels)
        normalized = pixels / 255
        assert torch.allclose(logits, expected.logits(normalized), atol=1e-4)
    assert not read.training


# What is read


@pytest.mark.parametrize(
    ("model", "inside"),
    [
        (keras_files.sequential, "{layer}/{name}:0"),  # Keras 2
        (keras_files.functional_2, "{layer}/{name}:0"),
        (keras_files.functional, "{layer}/{name}"),  # Keras 3, Functional
        (keras_files.sequential, "sequential/{layer}/{name}"),  # Keras 3, Sequential
    ],
)
def test_both_kerases_and_both_kinds_of_model_are_read(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer], model: Callable[..., Any], inside: str
) -> None:
    path = keras_files.write(tmp_path / "m.h5", model(layers), keras_files.arrays_of(network), inside=inside)
    read = keras_file.load(path)
    assert_same(read, network)
    assert read.args == network.args | {"dropout": 0.25, "bn_momentum": 0.1}
    assert (read.mean, read.std) == ((0, 0, 0), (1, 1, 1))


def test_augmentation_and_rescaling_may_be_a_model_of_their_own(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer]
) -> None:
    inside = [layers[0], keras_files.layer("Rescaling", "rescaling", scale=1 / 255, offset=0.0), *layers[1:3]]
    nested = keras_files.sequential(copy.deepcopy(inside))
    nested["config"]["name"] = "augmentation"
    for model in (keras_files.functional, keras_files.sequential):
        config = model([layers[0], nested, *layers[3:]])
        assert_same(
            keras_file.load(keras_files.write(tmp_path / "m.h5", config, keras_files.arrays_of(network))), network
        )


def test_activations_may_be_layers_of_their_own(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer]
) -> None:
    spread = []
    for each in layers:
        spread.append(each)
        if "activation" in each["config"]:
            name, each["config"]["activation"] = each["config"]["activation"], "linear"
            after = keras_files.layer("Activation", f"{each['config']['name']}_{name}", activation=name)
            if each["config"]["name"] == "conv2d_0":
                after = keras_files.layer("ReLU", "re_lu", max_value=None, negative_slope=0.0, threshold=0.0)
            if name == "softmax":
                after = keras_files.layer("Softmax", "softmax", axis=-1)
            spread.append(after)
    path = keras_files.write(tmp_path / "m.h5", keras_files.functional(spread), keras_files.arrays_of(network))
    assert_same(keras_file.load(path), network)


@pytest.mark.skipif(not REFERENCE, reason="CIFAR_LIT_REFERENCE names no folder with models that Keras made")
@pytest.mark.parametrize(
    ("name", "probabilities", "x", "key"),
    [
        ("keras_cifar10.h5", "keras_cifar10_probs.npz", "x", "probs"),
        ("keras3_augmented.keras", "keras_variants_probs.npz", "images", "keras3_augmented"),
        ("keras3_augmented.weights.h5", "keras_variants_probs.npz", "images", "keras3_augmented"),
        ("keras2_rescaled.keras", "keras_variants_probs.npz", "images", "keras2_rescaled"),
    ],
)
def test_a_model_that_keras_made_answers_as_keras_does(name: str, probabilities: str, x: str, key: str) -> None:
    folder = Path(str(REFERENCE))
    network = keras_file.load(folder / name)
    with np.load(folder / probabilities, allow_pickle=False) as answers:
        images, expected = torch.from_numpy(answers[x]), torch.from_numpy(answers[key])
    with torch.inference_mode():
        probs = network(images.permute(0, 3, 1, 2)).softmax(1)
    assert (probs - expected).abs().max() < 1e-5
    assert sum(value.numel() for name, value in network.state_dict().items() if "num_b" not in name) == 621_258


@pytest.mark.parametrize(
    ("scale", "offset", "mean", "std"),
    [
        (1 / 255, 0.0, (0.0,) * 3, (1.0,) * 3),
        (1 / 127.5, -1, (0.5,) * 3, (0.5,) * 3),
        ([1 / 63, 1 / 62, 1 / 67], [-2, -2, -1.7], (0.494118, 0.486275, 0.446667), (0.247059, 0.243137, 0.262745)),
    ],
)
def test_rescaling_becomes_mean_and_std(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer], scale: Any, offset: Any, mean: Any, std: Any
) -> None:
    layers = _insert(1, "Rescaling", "rescale", scale=scale, offset=offset)(layers)
    path = keras_files.write(tmp_path / "m.h5", keras_files.sequential(layers), keras_files.arrays_of(network))
    read = keras_file.load(path)
    assert read.mean == pytest.approx(mean, abs=1e-6)
    assert read.std == pytest.approx(std, abs=1e-6)
    pixels = torch.full((1, 3, 32, 32), 77.0)
    rescaled = pixels * torch.tensor(scale).expand(3)[:, None, None] + torch.tensor(offset).expand(3)[:, None, None]
    with torch.inference_mode():
        assert torch.allclose(read(pixels), network.logits(rescaled), atol=1e-4)


# Archives of Keras 3, and weights alone

Archive = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path, network: Network, layers: list[keras_files.Layer]) -> Archive:
    def write_archive(config: Any = None, change: Callable[[Any], None] | None = None, **members: bytes) -> Path:
        weights = keras_files.write_v3(tmp_path / "model.weights.h5", network)
        if change is not None:
            with h5py.File(weights, "a") as h5:
                change(h5)
        contents = {
            "metadata.json": b"{}",
            "config.json": json.dumps(config or keras_files.functional(layers)).encode(),
            "model.weights.h5": weights.read_bytes(),
        }
        with zipfile.ZipFile(tmp_path / "m.keras", "w") as file:
            for name, content in (contents | {name.replace("__", "."): each for name, each in members.items()}).items():
                file.writestr(name, content)
        return tmp_path / "m.keras"

    return write_archive


@pytest.mark.parametrize("model", [keras_files.sequential, keras_files.functional, keras_files.functional_2])
def test_an_archive_of_keras_3_is_read(archive: Archive, network: Network, layers: list[Any], model: Any) -> None:
    read = keras_file.load(archive(model(layers)))
    assert_same(read, network)
    assert read.args == network.args | {"dropout": 0.25, "bn_momentum": 0.1}


def test_keras_2_12_called_the_group_of_layers_otherwise(archive: Archive, network: Network) -> None:
    path = archive(change=lambda h5: h5.move("layers", "_layer_checkpoint_dependencies"))
    assert_same(keras_file.load(path), network)


def _delete(name: str) -> Callable[[Any], None]:
    return lambda h5: h5.__delitem__(name)


def _more(name: str) -> Callable[[Any], None]:
    return lambda h5: h5.create_dataset(name, data=np.zeros(3, np.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config__json": b"{"}, "model_config is not JSON"),
        ({"config__json": b"[]"}, "model_config does not describe a model"),
        ({"config__json": b" " * (4 * 2**20 + 1)}, "config.json is longer than 4,194,304 bytes"),
        (
            {"config": keras_files.sequential([keras_files.layer("Lambda", "mine")])},
            "Lambda 'mine' stands where Conv2D",
        ),
        ({"model__weights__h5": b"no"}, "model.weights.h5 can't be read as HDF5"),
        ({"more__pkl": b""}, "it is a zip with ['config.json', 'metadata.json', 'model.weights.h5', 'more.pkl']"),
        ({"change": _delete("layers/dense/vars/1")}, "its arrays are not those of its config: ['layers/dense/vars/1']"),
        ({"change": _more("layers/normalization/vars/0")}, "['layers/normalization/vars/0'] missing or too many"),
        ({"change": lambda h5: h5.__setitem__("x", h5py.ExternalLink("a.h5", "/x"))}, "'x' is a ExternalLink"),
    ],
)
def test_an_archive_with_other_things_is_refused(archive: Archive, options: dict[str, Any], words: str) -> None:
    assert words in refusal(archive(**options))


def test_an_archive_is_opened_as_carefully_as_an_npz(archive: Archive) -> None:
    path = archive()
    for cut in (10, 5_000, path.stat().st_size - 5):
        path.with_name("cut.keras").write_bytes(path.read_bytes()[:cut])
        with pytest.raises(WeightsError):
            keras_file.load(path.with_name("cut.keras"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        file.writestr("model.weights.h5", bytes(201 * 2**20))
    assert "at most 209,715,200 are accepted" in refusal(path)


def test_weights_alone_are_read_and_what_is_assumed_is_said(
    tmp_path: Path, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    read = keras_file.load(keras_files.write_v3(tmp_path / "m.weights.h5", network))
    assert_same(read, network)
    assert "holds weights alone. Assumed: relu before batch norm as in the seed recipe, mean [0.0, 0.0, " in (
        caplog.text
    )
    assert keras_file.load(tmp_path / "m.weights.h5", [0.5] * 3, [0.25] * 3).mean == (0.5, 0.5, 0.5)


def test_legacy_weights_alone_are_read(tmp_path: Path, network: Network) -> None:
    arrays = keras_files.arrays_of(network)
    with h5py.File(tmp_path / "m.h5", "w") as h5:
        h5.attrs["layer_names"] = [b"random_flip", *(name.encode() for name in arrays), b"dropout"]
        h5.create_dataset("random_flip/random_flip/StateVar:0", data=np.zeros(3, np.int64))
        for layer, named in arrays.items():
            for name, array in named.items():
                h5[f"{layer}/{layer}/{name}:0"] = np.ascontiguousarray(array)
    assert_same(keras_file.load(tmp_path / "m.h5"), network)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_delete("layers/conv2d_1"), "it holds 1 convolutions, 2 batch norms and 2 dense layers"),
        (_delete("layers/dense/vars/1"), "a dense layer has the arrays ['layers/dense/vars/0']"),
        (_more("layers/normalization/vars/0"), "'layers/normalization/vars/0' is of no layer of the three-block"),
        (_more("layers/dense_1/vars/2"), "'layers/dense_1/vars/2' is of no layer of the three-block network"),
        (_delete("layers"), "it holds neither a model nor weights as Keras writes them: ['optimizer/vars/0']"),
    ],
)
def test_weights_of_other_networks_are_refused(tmp_path: Path, network: Network, change: Any, words: str) -> None:
    path = keras_files.write_v3(tmp_path / "m.weights.h5", network)
    with h5py.File(path, "a") as h5:
        change(h5)
    assert words in refusal(path)


# Another architecture


def _set(name: str, /, **config: Any) -> Callable[[list[keras_files.Layer]], list[keras_files.Layer]]:
    def change(layers: list[keras_files.Layer]) -> list[keras_files.Layer]:
        next(each for each in layers if each["config"]["name"] == name)["config"].update(config)
        return layers

    return change


def _insert(index: int, kind: str, name: str, **config: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda layers: [*layers[:index], keras_files.layer(kind, name, **config), *layers[index:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_insert(3, "Lambda", "run_me", function="x"), "Lambda 'run_me' stands where Conv2D was expected"),
        (_insert(9, "Lambda", "run_me"), "Lambda 'run_me' stands where Flatten was expected"),
        (_insert(6, "Dropout", "extra", rate=0.1), "Dropout 'extra' stands where Flatten was expected"),
        (_insert(3, "RandomCrop", "crop", height=32, width=32), "RandomCrop 'crop' stands where Conv2D"),
        (_insert(13, "Dense", "more", units=3), "Dense 'more' comes after the softmax"),
        (lambda layers: layers[:-1], "the model ends where Dense was expected"),
        (lambda layers: layers[:3], "the model ends where Conv2D was expected"),
        (lambda layers: [*layers[:4], layers[5], layers[4], *layers[6:]], "MaxPooling2D 'pool_0' stands where Batch"),
        (_set("conv2d_0", activation="elu"), "Conv2D 'conv2d_0' has activation = 'elu', expected 'relu'"),
        (_set("conv2d_0", activation={"class_name": "mine"}), "has activation = {'class_name': 'mine'}"),
        (_set("conv2d_1", activation="linear"), "BatchNormalization 'bn_1' stands where Activation or ReLU"),
        (_set("conv2d_1", padding="valid"), "Conv2D 'conv2d_1' has padding = 'valid', expected 'same'"),
        (_set("conv2d_0", strides=[2, 2]), "has strides = [2, 2]"),
        (_set("conv2d_0", kernel_size=[5, 5]), "has kernel_size = [5, 5], expected [3, 3]"),
        (_set("conv2d_0", dilation_rate=[2, 2]), "has dilation_rate"),
        (_set("conv2d_1", groups=2), "has groups = 2"),
        (_set("conv2d_0", use_bias=False), "has use_bias = False"),
        (_set("conv2d_0", data_format="channels_first"), "has data_format = 'channels_first'"),
        (_set("conv2d_1", filters=9), "has 9 filters, expected 8: twice those of the block before"),
        (_set("conv2d_0", filters=0), "has filters = 0"),
        (_set("conv2d_0", filters=True), "has filters = True"),
        (_set("bn_0", epsilon=1e-5), "BatchNormalization 'bn_0' has epsilon = 1e-05, expected 0.001"),
        (_set("bn_0", scale=False), "has scale = False"),
        (_set("bn_0", axis=1), "does not normalise channels"),
        (_set("bn_1", momentum=0.99), "'bn_1' has the momentum 0.99, the one before has 0.9"),
        (_set("bn_0", momentum=float("nan")), "has momentum = nan"),
        (_set("pool_0", pool_size=[3, 3]), "MaxPooling2D 'pool_0' has pool_size = [3, 3]"),
        (_set("pool_0", strides=[1, 1]), "has strides = [1, 1]"),
        (_set("pool_0", padding="same"), "has padding = 'same'"),
        (_set("flatten", data_format="channels_first"), "Flatten 'flatten' has data_format"),
        (_set("dropout", rate=1.5), "Dropout 'dropout' has rate = 1.5"),
        (_set("head", activation="sigmoid"), "Dense 'head' has activation = 'sigmoid', expected 'softmax'"),
        (_set("head", units=7), "tells 7 classes apart, expected 10"),
        (_set("input_1", batch_input_shape=[None, 64, 16, 3]), "has batch_input_shape = [None, 64, 16, 3]"),
        (_insert(1, "Rescaling", "rescale", scale=0, offset=-1), "'rescale' has scale = 0, expected more than 0"),
        (_insert(1, "Rescaling", "rescale", scale=[1, 2], offset=1), "'rescale' has scale = [1, 2], expected a number"),
        (_insert(1, "Rescaling", "rescale", scale="a", offset=1), "'rescale' has scale = 'a', expected a number"),
        (_insert(1, "Rescaling", "rescale", scale=1 / 255, offset=1e9), "expected numbers of pixels on the scale 0..1"),
        (
            lambda layers: _insert(1, "Rescaling", "a", scale=1)(_insert(1, "Rescaling", "b", scale=1)(layers)),
            "Rescaling 'b' scales pixels a second time",
        ),
        (_set("dense", units=10**6), "hidden = 1000000, expected a finite number up to 8,192"),
        (_set("dense", units=10**400), "hidden = 1000"),
        (_set("dense", name="a/b"), "a layer without a usable name"),
        (_set("bn_0", name="conv2d_0"), "two layers have the same name"),
    ],
)
def test_another_architecture_is_refused_by_the_layers_name(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer], change: Callable[..., Any], words: str
) -> None:
    config = keras_files.functional(change(layers))
    assert words in refusal(keras_files.write(tmp_path / "m.h5", config, keras_files.arrays_of(network)))


def test_a_model_that_is_no_plain_sequence_is_refused(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer]
) -> None:
    for model in (keras_files.functional, keras_files.functional_2):
        skip, early, twice = (model(copy.deepcopy(layers)) for _ in range(3))
        skip["config"]["layers"][5]["inbound_nodes"] = skip["config"]["layers"][4]["inbound_nodes"]
        twice["config"]["layers"][5]["inbound_nodes"] *= 2
        early["config"]["output_layers"] = ["dense", 0, 0]
        for config, words in (
            (skip, "MaxPooling2D 'pool_0' is not called once on the layer before it"),
            (twice, "MaxPooling2D 'pool_0' is not called once on the layer before it"),
            (early, "its output is not that of Dense 'head', the last layer"),
        ):
            assert words in refusal(keras_files.write(tmp_path / "m.h5", config, keras_files.arrays_of(network)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"class_name": "MyModel", "config": {"layers": []}}, "it is a 'MyModel', expected a Sequential or Functional"),
        ({"class_name": ["a"], "config": {"layers": []}}, "it is a ['a']"),
        ({"class_name": "Sequential", "config": {}}, "expected a Sequential or Functional"),
        ({"class_name": "Sequential", "config": {"layers": [3]}}, "a layer without a config"),
        ({"class_name": "Sequential", "config": {"layers": [{}] * 300}}, "it has 300 layers"),
        ([], "model_config does not describe a model"),
    ],
)
def test_a_strange_config_is_refused(tmp_path: Path, network: Network, config: Any, words: str) -> None:
    assert words in refusal(keras_files.write(tmp_path / "m.h5", config, keras_files.arrays_of(network)))


@pytest.mark.parametrize("text", [b"{", b"[" * 100_000, b"\xff\xfe", b"NaN"])
def test_a_config_that_is_no_json_object_is_refused(file: Path, text: bytes) -> None:
    with h5py.File(file, "a") as h5:
        del h5.attrs["model_config"]
        dtype = h5py.string_dtype("utf-8")
        h5.attrs.create("model_config", text, dtype=dtype)
    assert refusal(file).startswith(": model_config ")


def test_somebodys_own_class_under_the_name_of_keras_is_refused(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer]
) -> None:
    for extra in ({"registered_name": "Custom>Conv2D"}, {"module": "evil.layers"}):
        changed = copy.deepcopy(layers)
        changed[3] |= extra
        path = keras_files.write(tmp_path / "m.h5", keras_files.functional(changed), keras_files.arrays_of(network))
        assert "layer 'conv2d_0' is a Conv2D of somebody's own" in refusal(path)


def test_weights_in_a_model_of_their_own_are_refused_by_name(
    tmp_path: Path, network: Network, layers: list[keras_files.Layer]
) -> None:
    config = keras_files.sequential([keras_files.sequential(layers[:6]), *layers[6:]])
    path = keras_files.write(tmp_path / "m.h5", config, keras_files.arrays_of(network))
    assert "Sequential 'sequential' holds Conv2D 'conv2d_0'; only augmentation" in refusal(path)


# Weights that do not fit

KERNEL = "model_weights/dense/dense/kernel"


def replace(file: Path, make: Callable[[Any], None], name: str = KERNEL) -> Path:
    """Removes an entry and has another made in its place."""
    with h5py.File(file, "a") as h5:
        del h5[name]
        make(h5)
    return file


def _dataset(**options: Any) -> Callable[[Any], None]:
    return lambda h5: h5.create_dataset(KERNEL, **options)


def _unfilled(h5: Any) -> None:
    h5.create_dataset(KERNEL, shape=(512, 8), dtype="<f4")


def _virtual(h5: Any) -> None:
    layout = h5py.VirtualLayout((512, 8), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(512, 8))
    h5.create_virtual_dataset(KERNEL, layout)


def _link(link: Any) -> Callable[[Any], None]:
    return lambda h5: h5.__setitem__(KERNEL, link)


ZEROS = np.zeros((512, 8), np.float32)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda h5: None, "layer 'dense' has the arrays ['dense/dense/bias']; expected kernel, bias, each once"),
        (_dataset(data=ZEROS.T), "'dense/dense/kernel' has the shape (8, 512), expected (512, 8)"),
        (_dataset(data=np.float32(0)), "has the shape (), expected"),
        (_dataset(data=ZEROS.astype(np.float64)), "is of another type than float32"),
        (_dataset(data=ZEROS.astype(">f4")), "is of another type than float32"),
        (_dataset(data=ZEROS.astype(np.int32)), "is of another type than float32"),
        (_dataset(data=np.zeros((512, 8), "S4")), "is of another type than float32"),
        (_dataset(shape=(512, 8), dtype=h5py.ref_dtype), "is of another type than float32"),
        (_dataset(shape=(512, 8), dtype=h5py.regionref_dtype), "is of another type than float32"),
        (_dataset(shape=(512, 8), dtype=h5py.string_dtype()), "is of another type than float32"),
        (_dataset(shape=(512, 8), dtype=np.dtype([("a", "<f4")])), "is of another type than float32"),
        (_dataset(data=h5py.Empty("<f4")), "has the shape None"),
        (_dataset(shape=(2**40, 2**20), dtype="<f4", chunks=(64, 64)), "has the shape (1099511627776, 1048576)"),
        (_dataset(data=ZEROS, compression="gzip"), "is compressed or in pieces"),
        (_dataset(data=ZEROS, chunks=(64, 8)), "is compressed or in pieces"),
        (_dataset(data=ZEROS, scaleoffset=2), "is compressed or in pieces"),
        (
            _dataset(shape=(512, 8), dtype="<f4", external=[("/etc/passwd", 0, 16_384)]),
            "keeps its values in other files",
        ),
        (_virtual, "keeps its values in other files"),
        (_unfilled, "is not filled"),
        (_dataset(data=np.full_like(ZEROS, np.nan)), "'dense.weight' has values that are not finite"),
        (_dataset(data=np.full_like(ZEROS, np.inf)), "'dense.weight' has values that are not finite"),
        (_link(h5py.SoftLink("/model_weights/head/head/kernel")), "'model_weights/dense/dense/kernel' is a SoftLink"),
        (_link(h5py.ExternalLink("other.h5", "/x")), "'model_weights/dense/dense/kernel' is a ExternalLink"),
        (lambda h5: h5.create_group(KERNEL), "layer 'dense' has the arrays ['dense/dense/bias']"),
        (lambda h5: h5.__setitem__(KERNEL, np.dtype("<f4")), "layer 'dense' has the arrays ['dense/dense/bias']"),
        (lambda h5: h5.__setitem__(KERNEL, h5["/"]), "lies in two places"),
    ],
)
def test_a_wrong_array_is_refused_by_name(file: Path, make: Callable[[Any], None], words: str) -> None:
    assert words in refusal(replace(file, make))


def test_an_array_too_many_or_twice_is_refused(file: Path) -> None:
    with h5py.File(file, "a") as h5:
        h5["model_weights/conv2d_0/other/kernel:0"] = np.zeros(3, np.float32)
    assert "layer 'conv2d_0' has the arrays" in refusal(file)
    with h5py.File(file, "a") as h5:
        del h5["model_weights/conv2d_0/other"]
        h5["model_weights/conv2d_0/renorm_mean"] = np.zeros(3, np.float32)
    assert "renorm_mean" in refusal(file)


def test_a_negative_variance_is_refused(file: Path) -> None:
    with h5py.File(file, "a") as h5:
        h5["model_weights/bn_0/bn_0/moving_variance"][1] = -1
    assert "'blocks.0.2.running_var' has negative variances" in refusal(file)


@pytest.mark.parametrize("place", ["optimizer_weights/x", "model_weights/random_flip/x", "x"])
def test_a_link_out_of_the_file_is_refused_wherever_it_is(file: Path, place: str) -> None:
    with h5py.File(file, "a") as h5:
        h5[place] = h5py.ExternalLink("other.h5", "/x")
    assert f"'{place}' is a ExternalLink" in refusal(file)


def test_deep_or_many_groups_are_refused(file: Path) -> None:
    with h5py.File(file, "a") as h5:
        h5.create_group("a/" * 40)
    assert "is nested too deep" in refusal(file)
    with h5py.File(file, "a") as h5:
        del h5["a"]
        for index in range(10_001):
            h5[f"many/{index}"] = h5["model_weights/dense/dense/bias"]
    assert "more than 10,000 entries" in refusal(file)


def test_a_claimed_width_allocates_nothing(tmp_path: Path, layers: list[keras_files.Layer], network: Network) -> None:
    for index, name in enumerate(("conv2d_0", "conv2d_1")):
        _set(name, filters=4_096 * 2**index)(layers)
    _set("dense", units=8_192)(layers)
    path = keras_files.write(tmp_path / "m.h5", keras_files.functional(layers), keras_files.arrays_of(network))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "bytes, the file has" in refusal(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


# Files of other kinds


def test_weights_alone_are_refused(tmp_path: Path, network: Network) -> None:
    path = keras_files.write(tmp_path / "m.h5", None, keras_files.arrays_of(network))
    assert "it holds neither a model nor weights as Keras writes them" in refusal(path)


def test_a_config_without_weights_is_refused(file: Path) -> None:
    with h5py.File(file, "a") as h5:
        del h5["model_weights"]
    assert "there is no group 'model_weights'" in refusal(file)


def test_a_zip_that_is_no_keras_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    message = refusal(tmp_path / "m.keras")
    assert "it is a zip with ['config.json'], expected config.json, model.weights.h5 and metadata.json" in message
    assert 'model.save("model.keras")' in message


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(5_000), b"nothing" * 100])
def test_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.h5").write_bytes(content)
    assert "can't be read as HDF5" in refusal(tmp_path / "m.h5")


def test_a_file_over_the_limit_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "MAX_FILE_BYTES", 1_000)
    assert "the limit is 1,000" in refusal(file)


def test_without_h5py_the_extra_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main(["import", str(file), "--registry", str(file.parent / "registry")]) == 2
    assert "needs h5py, which is not installed: pip install 'cifar-lit[train]'" in capsys.readouterr().err


def test_damage_anywhere_is_refused_or_harmless(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    damaged = tmp_path / "damaged.h5"
    rng = random.Random(0)
    outcomes = {True: 0, False: 0}
    for _ in range(150):
        changed = bytearray(data)
        if rng.random() < 0.2:
            del changed[rng.randrange(len(data)) :]
        else:
            start = rng.randrange(len(data))
            changed[start : start + 4] = rng.randbytes(4)
        damaged.write_bytes(changed)
        try:
            keras_file.load(damaged)
            outcomes[True] += 1
        except WeightsError as error:
            outcomes[False] += str(error).startswith(str(damaged))
    assert outcomes[True] + outcomes[False] == 150
    assert outcomes[False] > 30
