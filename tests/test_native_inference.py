"""A frozen network answers what the network answers, to the last bit the same in any batch."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.models.networks import ThreeBlockCNN
from cifar_lit.native import inference, library
from cifar_lit.serving.predictor import Predictor

_library = library.library()
needs_library = pytest.mark.skipif(
    _library is None or not _library.inference_ready(),
    reason=f"there is no compiled network ({library.absence() or 'the processor has no AVX-512'})",
)


def network(**args: int) -> ThreeBlockCNN:
    """As if it had been trained: batch norms differ from channel to channel, and some turn the order round."""
    torch.manual_seed(0)
    made = ThreeBlockCNN(**args).eval()  # type: ignore[arg-type]
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.weight, 0.7, 0.7)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.2, 2)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is not None
            nn.init.normal_(module.bias, 0, 0.2)
    return made


def pictures(num: int) -> Tensor:
    return torch.randint(256, (num, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def exact(model: ThreeBlockCNN, images: Tensor) -> Tensor:
    return deepcopy(model).double()(images.permute(0, 3, 1, 2).double()).softmax(1)


@needs_library
@pytest.mark.parametrize(
    "args",
    [{}, {"depth": 1}, {"depth": 2, "hidden": 33, "num_classes": 33}, {"depth": 4, "width": 64, "num_classes": 2}],
    ids=str,
)
@pytest.mark.parametrize("num", [1, 2, 3, 7, 8, 9, 31])
def test_it_answers_what_the_network_answers(args: dict[str, int], num: int) -> None:
    model, images = network(**args), pictures(num)
    frozen = model.frozen()
    assert frozen is not None
    probs = frozen(images)
    assert (probs.dtype, probs.shape) == (torch.float64, (num, model.head.out_features))
    assert (probs - exact(model, images)).abs().max() < 1e-5
    assert (probs.sum(1) - 1).abs().max() < 1e-12


@needs_library
def test_it_is_as_near_to_the_truth_as_pytorch() -> None:
    model, images = network(), pictures(200)
    frozen = model.frozen()
    assert frozen is not None
    truth = exact(model, images)
    with torch.inference_mode():
        by_network = model(images.permute(0, 3, 1, 2)).double().softmax(1)
    assert (frozen(images) - truth).abs().mean() < 2 * (by_network - truth).abs().mean()


@needs_library
@pytest.mark.parametrize("num", [1, 2, 3, 5, 7, 8, 9, 30, 31])
def test_a_picture_has_the_same_answer_in_any_company(num: int) -> None:
    frozen = network().frozen()
    assert frozen is not None
    images = pictures(64)
    whole = frozen(images)
    parts = torch.cat([frozen(part) for part in images.split(num)])
    assert torch.equal(whole, parts)


@needs_library
def test_it_does_not_go_by_the_number_of_threads() -> None:
    frozen = network().frozen()
    assert frozen is not None
    images, threads = pictures(33), torch.get_num_threads()
    answers = []
    try:
        for num in (1, 2, 3):
            torch.set_num_threads(num)
            answers.append(frozen(images))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@needs_library
def test_no_pictures_have_no_answers() -> None:
    frozen = network().frozen()
    assert frozen is not None
    assert frozen(pictures(0)).shape == (0, 10)


@needs_library
def test_pictures_in_any_memory() -> None:
    frozen = network().frozen()
    assert frozen is not None
    images = pictures(3)
    turned = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert torch.equal(frozen(turned), frozen(images))


@needs_library
def test_what_the_network_learns_later_does_not_change_it() -> None:
    model, images = network(), pictures(4)
    frozen = model.frozen()
    assert frozen is not None
    before = frozen(images)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert torch.equal(frozen(images), before)


@needs_library
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first convolution", "last convolution", "head"])
@pytest.mark.parametrize("value", [float("nan"), 3e38], ids=str)
def test_what_is_no_number_is_not_hidden(value: float, place: int) -> None:
    model = network()
    layer = (model.blocks[0][0], model.blocks[2][0], model.head)[place]  # type: ignore[index]
    with torch.no_grad():
        layer.weight.fill_(value)
    frozen = model.frozen()
    assert frozen is not None
    assert frozen(pictures(1)).isnan().all()


@needs_library
@pytest.mark.parametrize("images", [pictures(1).float(), pictures(1)[:, :31], pictures(1)[..., :1], pictures(1)[0]])
def test_other_images_are_refused(images: Tensor) -> None:
    frozen = network().frozen()
    assert frozen is not None
    with pytest.raises(ValueError, match=r"expected uint8 \(B, 32, 32, 3\)"):
        frozen(images)


@pytest.mark.parametrize("args", [{"width": 16}, {"width": 48}, {"depth": 5}], ids=str)
def test_sizes_it_is_not_written_for_are_left_to_pytorch(args: dict[str, int]) -> None:
    assert network(**args).frozen() is None


def test_other_numbers_are_left_to_pytorch() -> None:
    assert network().bfloat16().frozen() is None


def test_without_compiled_kernels_pytorch_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network(), pictures(20)
    first = Predictor(model, list(CLASS_NAMES), "v0001").predict(images)
    monkeypatch.setattr(inference, "library", lambda: None)
    assert model.frozen() is None
    second = Predictor(model, list(CLASS_NAMES), "v0001").predict(images)
    for one, other in zip(first, second, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
