"""The package's optional parts: which extra brings which module."""

from importlib.util import find_spec

from cifar_lit.errors import MissingExtraError

MODULES = {
    "serve": (
        "fastapi",
        "fastapi_offline",
        "gradio",
        "httptools",
        "jinja2",
        "orjson",
        "pi_heif",
        "prometheus_client",
        "pydantic",
        "python_multipart",
        "starlette",
        "uvicorn",
        "uvloop",
    ),
    "train": (
        "h5py",
        "jsonargparse",
        "matplotlib",
        "onnx",
        "onnxscript",
        "pytorch_lightning",
        "safetensors",
        "tensorboard",
        "torch",
        "torchmetrics",
        "torchvision",
    ),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "load": ("locust",),
}
"""Modules by extra, under the names by which they are imported."""


def missing(module: str | None, what: str) -> MissingExtraError | None:
    """What to say where `what` failed because a module is not installed; none if no extra brings the module.

    Args:
        module: as `ModuleNotFoundError.name` has it, perhaps inside a package.
        what: the subject of the sentence: "`cifar-lit fit`".
    """
    package = (module or "").partition(".")[0]
    for extra, modules in MODULES.items():
        if package in modules:
            return MissingExtraError(
                f"{what} needs {package}, which is not installed: pip install 'cifar-lit[{extra}]'."
            )
    return None


def require(extra: str, what: str) -> None:
    """Finds out now whether an extra is installed.

    Raises:
        MissingExtraError: one of its modules is missing.
    """
    for module in MODULES[extra]:
        if find_spec(module) is None and (error := missing(module, what)):
            raise error
