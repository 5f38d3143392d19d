"""`cifar-lit export`: a version's weights as npz or safetensors, or its network for Keras or as ONNX."""

import argparse
import json
import sys
from pathlib import Path

import torch

from cifar_lit import __version__
from cifar_lit.commands.data_options import add_data, find_test_set
from cifar_lit.commands.options import add_registry, registry_to_read_of
from cifar_lit.data import synthetic
from cifar_lit.errors import DataError
from cifar_lit.files import replace_synced
from cifar_lit.interop import keras_export, onnx_model, safetensors_file, weights_npz
from cifar_lit.interop.model import KINDS, Model, load_model
from cifar_lit.registry.weights import describe

_NUM_COMPARED = 1_000


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    out: Path = namespace.out
    if out.exists() and not out.is_file():
        raise DataError(f"--out {out} is a folder or a special file. Name a file.")
    model = load_model(namespace.version, registry_to_read_of(namespace))
    try:
        if namespace.format == "onnx":
            _export_onnx(model, out, _images(namespace))
        else:
            replace_synced(out, _content(model, namespace.format))
    except OSError as error:
        raise DataError(f"--out {out} can't be written: {error.strerror}. Name another file.") from error
    print(f"{model.name} as {namespace.format}: {out}, {out.stat().st_size:,} bytes")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cifar-lit export",
        description="Write a version as a file. npz and safetensors hold the weights, bit for bit, for --from and "
        "`cifar-lit import`; keras-h5 is a model for keras.models.load_model; onnx is compared with PyTorch before "
        "it is kept. Both take images (n, 32, 32, 3), 0..255.",
    )
    parser.add_argument("version", metavar="VERSION", help=f"an id, 'latest', or a file: {KINDS}")
    parser.add_argument("--format", choices=("npz", "safetensors", "keras-h5", "onnx"), required=True)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="replaced if it exists")
    add_registry(parser)
    add_data(parser)
    return parser


def _content(model: Model, kind: str) -> bytes:
    if kind == "npz":
        return weights_npz.dump(model.network, model.class_names)
    if kind == "safetensors":
        return safetensors_file.dump(model.network, model.class_names)
    return keras_export.dump(model.network)


def _images(namespace: argparse.Namespace) -> torch.Tensor:
    """Images to compare on, spread over the whole test split."""
    data = find_test_set(namespace)
    if data is None:
        data = synthetic.draw("test", min(namespace.num_synthetic, _NUM_COMPARED))
        print("No CIFAR-10 found (--data.root names it): comparing on drawn images.", file=sys.stderr)
    rows = torch.linspace(0, len(data) - 1, min(len(data), _NUM_COMPARED)).long()
    print(f"Comparing on {len(rows):,} images ({data.source}).", file=sys.stderr)
    return data.images[rows]


def _export_onnx(model: Model, out: Path, images: torch.Tensor) -> None:
    metadata = {
        "model": model.name,
        "version": model.version.id if model.version else "",
        "cifar_lit": __version__,
        "network": json.dumps(describe(model.network)["network"]),
    }
    difference = onnx_model.export(model.network, model.class_names, out, images, metadata=metadata)
    print(f"Its probabilities differ from PyTorch's by {difference:.1e} at most.", file=sys.stderr)
