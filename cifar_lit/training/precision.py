"""Chooses the arithmetic that a device is fast at."""

import torch


def uses_cuda(accelerator: str) -> bool:
    """Whether training will run on a CUDA device.

    Args:
        accelerator: "cpu", "gpu", "cuda" or "auto", as Lightning's Trainer takes it.
    """
    return accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available()


def best_precision(accelerator: str) -> str:
    """Lightning's name of the precision to train in: "bf16-mixed" where the device has bfloat16 units, else "32-true".

    Args:
        accelerator: "cpu", "gpu", "cuda" or "auto", as Lightning's Trainer takes it.
    """
    if uses_cuda(accelerator):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("cpu", "auto"):
        # AMX tiles or AVX-512 BF16 instructions; without them bfloat16 is emulated and slower than float32.
        fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    else:
        fast = False
    return "bf16-mixed" if fast else "32-true"
