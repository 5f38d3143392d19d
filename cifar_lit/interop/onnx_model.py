"""Writes a network as ONNX: preprocessing inside, any number of images, one file. It is run before it is kept.

Input `images`, uint8 (N, 32, 32, 3), RGB; outputs `logits` and `probabilities`, float32 (N, K) for K classes. The
file's doc string says so, and its metadata names the classes.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import cifar_lit
from cifar_lit.data import synthetic
from cifar_lit.data.image_set import ImageSet
from cifar_lit.errors import CifarLitError, VersionDamagedError
from cifar_lit.extras import missing
from cifar_lit.models.networks import Network
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import describe, load_network

INPUT = "images"
OUTPUTS = ("logits", "probabilities")
MAX_DIFFERENCE = 1e-5
"""Of a probability, between ONNX Runtime and PyTorch."""
NUM_COMPARED = 100
"""Images on which a version's graph is compared; a wide network classifies some 300 a second on one CPU."""

_DOC = (
    f"Classifies images. Input {INPUT}: uint8 (N, 32, 32, 3), RGB, 0..255, any N. Outputs {OUTPUTS[0]} and "
    f"{OUTPUTS[1]}: float32 (N, K), the K classes in the order {{}}. The probabilities are the softmax of the logits "
    "divided by the temperature of the metadata."
)
_BATCHES = (1, 7, 64)
_BATCH = 500


class ExportError(CifarLitError):
    """A network could not be written as ONNX, or does not predict alike there."""


class _FromPixels(nn.Module):
    def __init__(self, network: Network, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("temperature", torch.tensor(temperature))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(images.permute(0, 3, 1, 2).to(torch.float32))
        return logits, (logits / self.temperature).softmax(1)


def dump(
    network: Network,
    class_names: Sequence[str],
    images: Tensor,
    *,
    temperature: float = 1.0,
    metadata: Mapping[str, str] | None = None,
) -> tuple[bytes, float]:
    """The network as an ONNX file, if ONNX Runtime predicts for `images` from it what PyTorch does from the network.

    Args:
        network: of any device; it is not changed.
        class_names: in label order; kept in the file's metadata as a JSON list, `class_names`.
        images: uint8 (N, 32, 32, 3) to compare on, in batches of several sizes.
        temperature: the logits are divided by it before the softmax that makes the probabilities.
        metadata: more to keep in the file.

    Returns:
        The file's content, and the largest difference of a probability.

    Raises:
        ExportError: it can't be exported, the probabilities differ by more than `MAX_DIFFERENCE`, or onnx or onnxscript
            is not installed.
    """
    told = {
        "class_names": json.dumps(list(class_names)),
        "network": json.dumps(describe(network)["network"]),
        "temperature": repr(temperature),
        "cifar_lit": cifar_lit.__version__,
        **(metadata or {}),
    }
    try:
        pixels_in = _FromPixels(copy.deepcopy(network).cpu(), temperature).eval()
        data = _exported(pixels_in, told)
        difference = _compare(pixels_in, data, images.cpu())
    except ModuleNotFoundError as error:
        raise ExportError(str(missing(error.name, "ONNX") or error)) from error
    except ExportError:
        raise
    except Exception as error:  # the network may be anybody's code
        detail = " ".join(str(error).split())[:300]
        raise ExportError(f"torch could not export the network as ONNX ({detail}).") from error
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"ONNX Runtime's probabilities differ from PyTorch's by up to {difference:.2g}, expected "
            f"{MAX_DIFFERENCE:g} or less. Try another release of onnxscript, onnxruntime or torch."
        )
    return data, difference


def of_version(version: Version) -> bytes:
    """The graph of a version that has none, from its weights; compared on synthetic images.

    Raises:
        VersionDamagedError: the weights can't be loaded, or are no finite numbers.
        ExportError: as `dump`.
    """
    network = load_network(version)
    for name, values in (*network.named_parameters(), *network.named_buffers()):
        if not values.isfinite().all():
            raise VersionDamagedError(
                f"{version.id}: {name} holds values that are no finite numbers. Restore it from a copy, or use another "
                "version."
            )
    try:
        return dump(network, version.manifest.class_names, some_images())[0]
    except ExportError as error:
        raise ExportError(f"{version.id}: {error}") from error


def some_images(data: ImageSet | None = None) -> Tensor:
    """Images to compare on, spread over a data set; synthetic ones if there is none."""
    data = data or synthetic.draw("test", NUM_COMPARED)
    return data.images[torch.linspace(0, len(data) - 1, min(len(data), NUM_COMPARED)).long()]


def _exported(network: nn.Module, metadata: Mapping[str, str]) -> bytes:
    import onnx
    import onnxscript  # noqa: F401 (torch's exporter names it only in the middle of a long error)

    with _hushed():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),),
            dynamo=True,
            input_names=[INPUT],
            output_names=OUTPUTS,
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None  # of an export to memory
    model = program.model_proto
    _strip(model)
    onnx.helper.set_model_props(model, dict(metadata))
    model.doc_string = _DOC.format(", ".join(json.loads(metadata["class_names"])))
    model.producer_name, model.producer_version = "cifar_lit", cifar_lit.__version__
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    """Takes out what the exporter notes of this machine: stack traces with the paths of source files."""
    graph = model.graph
    functions = [*model.functions, *(node for function in model.functions for node in function.node)]
    for each in (
        model,
        *functions,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        del each.metadata_props[:]
        each.doc_string = ""


def _compare(network: nn.Module, data: bytes, images: Tensor) -> float:
    """The largest difference of a probability, over all images in large batches and over the first in small ones."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        batches = [images[:size] for size in _BATCHES if size <= len(images)] + list(torch.split(images, _BATCH))
        return max(_difference(network, session, batch) for batch in batches)
    except Exception as error:  # ONNX Runtime's own are plain Exceptions
        raise ExportError(f"ONNX Runtime can't run the export ({' '.join(str(error).split())[:300]}).") from error


@torch.inference_mode()
def _difference(network: nn.Module, session: Any, images: Tensor) -> float:
    outputs = session.run(list(OUTPUTS), {INPUT: images.numpy()})
    expected = network(images)
    if [output.shape for output in outputs] != [tuple(each.shape) for each in expected]:
        return float("inf")
    return float(np.abs(outputs[1] - expected[1].numpy()).max())


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """The exporter tells of its progress in prints, warnings and logs; what goes wrong comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
