import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import encode_png

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import ImageError, VersionDamagedError
from cifar_lit.models.networks import Network, ThreeBlockCNN
from cifar_lit.serving.predictor import Predictor

IMAGES = torch.randint(0, 256, (9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def predictor(publish) -> Predictor:
    publish()
    return Predictor.from_version(publish(seed=1))


def png(image: torch.Tensor) -> bytes:
    return bytes(encode_png(image.permute(2, 0, 1)).tolist())


def test_an_answer_names_ten_classes_whose_probabilities_sum_to_one(predictor: Predictor) -> None:
    for answer in predictor.predict(IMAGES):
        assert tuple(answer.probabilities) == CLASS_NAMES
        assert math.fsum(answer.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert all(0 <= value <= 1 for value in answer.probabilities.values())


def test_the_prediction_is_the_most_probable_class(predictor: Predictor) -> None:
    for answer in predictor.predict(IMAGES):
        assert answer.confidence == max(answer.probabilities.values()) == answer.probabilities[answer.prediction]


def test_the_answer_names_the_version(predictor: Predictor) -> None:
    assert {answer.version for answer in predictor.predict(IMAGES)} == {"v0002"}


def test_answers_equal_the_networks_softmax(predictor: Predictor) -> None:
    with torch.inference_mode():
        probs = predictor.network(IMAGES.permute(0, 3, 1, 2)).softmax(1)
    for answer, row in zip(predictor.predict(IMAGES), probs, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_an_answer_does_not_depend_on_its_batch(predictor: Predictor, size: int) -> None:
    whole = predictor.predict(IMAGES)
    parts = [answer for batch in IMAGES.split(size) for answer in predictor.predict(batch)]
    for one, other in zip(whole, parts, strict=True):
        assert one.prediction == other.prediction
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_the_bytes_of_a_32x32_png_give_the_answer_to_its_pixels(predictor: Predictor) -> None:
    assert predictor.predict_bytes(png(IMAGES[0])) == predictor.predict(IMAGES[:1])[0]


def test_an_image_of_another_size_is_answered(predictor: Predictor) -> None:
    large = IMAGES[0].repeat_interleave(3, 0).repeat_interleave(5, 1)
    assert predictor.predict_bytes(png(large)).prediction in CLASS_NAMES


def test_bytes_that_are_no_image_raise(predictor: Predictor) -> None:
    with pytest.raises(ImageError, match="expected a JPEG, PNG, WebP"):
        predictor.predict_bytes(b"hello")


def test_an_answer_as_a_dict_has_the_documented_keys(predictor: Predictor) -> None:
    answer = predictor.predict(IMAGES[:1])[0].as_dict()
    assert list(answer) == ["prediction", "confidence", "probabilities", "version"]


def test_a_damaged_version_gives_no_predictor(publish) -> None:
    version = publish()
    (version.path / "model.safetensors").write_bytes(b"")
    with pytest.raises(VersionDamagedError, match="differs from its hash"):
        Predictor.from_version(version)


# Heat maps

CAT, DOG, SHIP = "cat", "dog", "ship"


def red_detector() -> Predictor:
    """Finds red for the cat wherever it is, against it for the dog, and does not care for the ship."""
    network = ThreeBlockCNN(width=2, depth=1, hidden=1, mean=(0, 0, 0), std=(1, 1, 1)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.blocks[0][0].weight[0, 0, 1, 1] = 1  # the first channel is the picture's red
        network.blocks[0][2].weight.fill_(1)
        network.dense.weight.fill_(1)
        network.head.weight[CLASS_NAMES.index(CAT)] = 1
        network.head.weight[CLASS_NAMES.index(DOG)] = -1
    return Predictor(network, list(CLASS_NAMES), "v0001")


def red_square(rows: slice, columns: slice, red: int = 255) -> np.ndarray:
    image = np.zeros((32, 32, 3), np.uint8)
    image[rows, columns, 0] = red
    return image


@pytest.mark.parametrize(("rows", "columns"), [(slice(4, 12), slice(6, 20)), (slice(24, 32), slice(0, 8))])
def test_a_heat_map_shows_where_what_speaks_for_the_class_is(rows: slice, columns: slice) -> None:
    image = red_square(rows, columns)
    heat = red_detector().heat_map(image, CAT)
    assert (heat.shape, heat.dtype) == ((32, 32), np.float32)
    assert np.array_equal(heat, image[..., 0] / 255)


def test_a_heat_map_is_brightest_where_most_speaks_for_the_class() -> None:
    image = red_square(slice(0, 8), slice(0, 8), 51) + red_square(slice(16, 24), slice(16, 24), 255)
    heat = red_detector().heat_map(image, CAT)
    assert heat[20, 20] == 1
    assert heat[4, 4] == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("class_name", [DOG, SHIP])
def test_a_heat_map_of_what_nothing_speaks_for_is_dark(class_name: str) -> None:
    heat = red_detector().heat_map(red_square(slice(4, 12), slice(6, 20)), class_name)
    assert not heat.any()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_heat_map_is_grad_cam_worked_out_by_hand(depth: int) -> None:
    torch.manual_seed(depth)
    network = ThreeBlockCNN(width=4, depth=depth, hidden=8).eval()
    image = IMAGES[depth]
    predictor = Predictor(network, list(CLASS_NAMES), "v0001")

    features = (image.permute(2, 0, 1)[None] - network._shift) * network._scale
    *early, last = network.blocks
    for block in early:
        features = block(features)
    convolution, _, norm, pool = last
    seen = convolution(features).relu().detach().requires_grad_()
    flat = pool(norm(seen)).permute(0, 2, 3, 1).flatten(1)
    logits = network.head(torch.relu(network.dense(flat)))[0]

    num_lit = 0
    for logit, class_name in zip(logits, CLASS_NAMES, strict=True):
        (slopes,) = torch.autograd.grad(logit, seen, retain_graph=True)
        heat = sum(slopes[0, channel].mean() * seen.detach()[0, channel] for channel in range(seen.shape[1])).relu()
        heat = F.interpolate(heat[None, None], (32, 32), mode="bilinear")[0, 0]
        found = predictor.heat_map(image.numpy(), class_name)
        if heat.max() > 0:
            num_lit += 1
            assert found == pytest.approx((heat / heat.max()).numpy(), abs=1e-5)
        else:
            assert not found.any()
    assert num_lit > 2


def test_heat_maps_leave_the_network_as_it_was(predictor: Predictor) -> None:
    before = predictor.predict(IMAGES)
    heats = [predictor.heat_map(IMAGES[0].numpy(), name) for name in CLASS_NAMES * 2]
    assert all(np.array_equal(one, other) for one, other in zip(heats[:10], heats[10:], strict=True))
    assert predictor.predict(IMAGES) == before
    assert all(parameter.grad is None for parameter in predictor.network.parameters())
    assert not any(module._forward_hooks for module in predictor.network.modules())


def test_a_heat_map_of_an_unknown_class_raises_and_leaves_no_hook(predictor: Predictor) -> None:
    with pytest.raises(ValueError, match="unicorn"):
        predictor.heat_map(IMAGES[0].numpy(), "unicorn")
    assert not any(module._forward_hooks for module in predictor.network.modules())


def test_a_heat_map_can_be_had_without_gradients_of_a_picture_that_may_not_be_written(predictor: Predictor) -> None:
    image = IMAGES[0].numpy().copy()
    image.flags.writeable = False
    expected = predictor.heat_map(IMAGES[0].numpy(), CAT)
    with torch.no_grad():
        assert np.array_equal(predictor.heat_map(image, CAT), expected)


def test_a_network_that_can_be_frozen_answers_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    network = ThreeBlockCNN(width=8, hidden=16).eval()
    monkeypatch.setattr(network, "frozen", lambda: lambda images: torch.eye(10, dtype=torch.float64)[: len(images)])
    answers = Predictor(network, list(CLASS_NAMES), "v0001").predict(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    assert [answer.prediction for answer in answers] == list(CLASS_NAMES[:3])


def test_a_network_without_a_convolution_has_a_dark_heat_map() -> None:
    class Flat(Network):
        def __init__(self) -> None:
            super().__init__({}, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
            self.layer = torch.nn.Linear(3072, 10)

        def logits(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1))

    heat = Predictor(Flat().eval(), list(CLASS_NAMES), "v0001").heat_map(IMAGES[0].numpy(), CAT)
    assert heat.shape == (32, 32)
    assert not heat.any()
