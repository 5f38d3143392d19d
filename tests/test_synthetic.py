import torch

from cifar_lit.data import synthetic


def test_the_same_arguments_give_the_same_images() -> None:
    assert synthetic.draw("train", 40).sha256 == synthetic.draw("train", 40).sha256


def test_train_and_test_share_no_image() -> None:
    train, test = synthetic.draw("train", 40), synthetic.draw("test", 40)
    assert not (train.images[:, None] == test.images[None]).flatten(2).all(dim=2).any()


def test_classes_are_balanced() -> None:
    assert torch.bincount(synthetic.draw("train", 200).labels, minlength=10).tolist() == [20] * 10


def test_global_random_state_is_neither_used_nor_changed() -> None:
    state = torch.random.get_rng_state()
    synthetic.draw("test", 10)
    assert torch.equal(state, torch.random.get_rng_state())


def test_classes_can_be_learnt() -> None:
    train, test = (synthetic.draw(split, 500) for split in ("train", "test"))
    pixels = train.images.flatten(1).float()
    means = torch.stack([pixels[train.labels == label].mean(dim=0) for label in range(10)])
    preds = torch.cdist(test.images.flatten(1).float(), means).argmin(dim=1)
    assert (preds == test.labels).float().mean() > 0.9
