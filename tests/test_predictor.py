import math

import pytest
import torch
from torchvision.io import encode_png

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import ImageError, VersionDamagedError
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
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP"):
        predictor.predict_bytes(b"hello")


def test_an_answer_as_a_dict_has_the_documented_keys(predictor: Predictor) -> None:
    answer = predictor.predict(IMAGES[:1])[0].as_dict()
    assert list(answer) == ["prediction", "confidence", "probabilities", "version"]


def test_a_damaged_version_gives_no_predictor(publish) -> None:
    version = publish()
    (version.path / "model.safetensors").write_bytes(b"")
    with pytest.raises(VersionDamagedError, match="differs from its hash"):
        Predictor.from_version(version)
