"""`cifar-lit export`: a version's weights as npz or safetensors, or its network for Keras or as ONNX."""

import argparse
import sys
from pathlib import Path

from cifar_lit.commands.data_options import add_data, find_test_set
from cifar_lit.commands.options import add_registry, registry_to_read_of
from cifar_lit.data import synthetic
from cifar_lit.errors import DataError
from cifar_lit.files import replace_synced
from cifar_lit.interop import keras_export, onnx_model, safetensors_file, weights_npz
from cifar_lit.interop.model import KINDS, Model, load_model


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    out: Path = namespace.out
    if out.exists() and not out.is_file():
        raise DataError(f"--out {out} is a folder or a special file. Name a file.")
    model = load_model(namespace.version, registry_to_read_of(namespace))
    try:
        replace_synced(out, _content(model, namespace))
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


def _content(model: Model, namespace: argparse.Namespace) -> bytes:
    if namespace.format == "npz":
        return weights_npz.dump(model.network, model.class_names)
    if namespace.format == "safetensors":
        return safetensors_file.dump(model.network, model.class_names)
    if namespace.format == "onnx":
        return _onnx(model, namespace)
    return keras_export.dump(model.network)


def _onnx(model: Model, namespace: argparse.Namespace) -> bytes:
    data = find_test_set(namespace)
    if data is None:
        data = synthetic.draw("test", onnx_model.NUM_COMPARED)
        print("No CIFAR-10 found (--data.root names it): comparing on synthetic images.", file=sys.stderr)
    images = onnx_model.some_images(data)
    print(f"Comparing on {len(images):,} images ({data.source}).", file=sys.stderr)
    content, difference = onnx_model.dump(
        model.network,
        model.class_names,
        images,
        temperature=model.network.temperature,
        metadata={"model": model.name, "version": model.version.id if model.version else ""},
    )
    print(f"Its probabilities differ from PyTorch's by {difference:.1e} at most.", file=sys.stderr)
    return content
