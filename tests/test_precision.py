import pytest
import torch

from cifar_lit.training.precision import best_precision, uses_cuda


@pytest.mark.parametrize(
    ("accelerator", "at_hand", "used"),
    [("gpu", True, True), ("cuda", True, True), ("auto", True, True), ("cpu", True, False), ("auto", False, False)],
)
def test_a_gpu_is_used_if_it_is_there_and_wanted(
    accelerator: str, at_hand: bool, used: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: at_hand)
    assert uses_cuda(accelerator) == used


@pytest.mark.parametrize(("has_units", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_used_where_the_device_has_it(has_units: bool, precision: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert best_precision("cpu") == precision
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_units)
    assert best_precision("auto") == best_precision("gpu") == precision


def test_an_unknown_accelerator_gets_full_precision():
    assert best_precision("tpu") == "32-true"
