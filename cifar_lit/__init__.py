"""CIFAR-10 classification as a whole life cycle: train, measure, version, serve, learn from new data.

`load`, `versions`, `fit` and `Model` are those of `cifar_lit.api`, imported when they are first asked for.
"""

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

__all__ = ["Model", "fit", "load", "versions"]

# ONNX Runtime keeps a database below the home, and sends events to its maker, unless it is told so before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("cifar_lit.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
