"""Ways in which a published version can be broken. For tests of the server, and of the server under load.

Each function of `BROKEN` takes the folder of a promoted version that is not the champion, breaks it, and then names it
as champion: a server never sees it whole.
"""

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch

from cifar_lit.files import replace_synced
from cifar_lit.registry.version import MANIFEST, ONNX, WEIGHTS

Harm = Callable[[Path], None]


def point_at(folder: Path) -> None:
    """Names a version as champion without a look at it, as `Registry.promote` never would."""
    replace_synced(folder.parent / "champion", f"{folder.name}\n".encode())


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a version's manifest."""
    path = folder / MANIFEST
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values))


def rewrite(folder: Path, data: bytes, name: str = WEIGHTS) -> None:
    """Gives a version another file, with its right hash in the manifest."""
    (folder / name).write_bytes(data)
    edit(folder, lambda values: values["files"].update({name: hashlib.sha256(data).hexdigest()}))


def older(harm: Harm) -> Harm:
    """Harm to what an older release published, without a graph: its weights answer, by the network that it names."""

    def harm_older(folder: Path) -> None:
        (folder / ONNX).unlink()
        edit(folder, lambda values: values["files"].pop(ONNX))
        harm(folder)

    return harm_older


def graph(change: Callable[[onnx.ModelProto], object]) -> Harm:
    """Another graph, with the right hash."""

    def harm(folder: Path) -> None:
        model = onnx.load_from_string((folder / ONNX).read_bytes())
        change(model)
        rewrite(folder, model.SerializeToString(), ONNX)

    return harm


def raw_graph(change: Callable[[bytes], bytes]) -> Harm:
    """Other bytes in place of the graph, with the right hash."""
    return lambda folder: rewrite(folder, change((folder / ONNX).read_bytes()), ONNX)


def initializer(change: Callable[[onnx.TensorProto], object]) -> Callable[[onnx.ModelProto], None]:
    """Changes the weights of the logits."""

    def change_model(model: onnx.ModelProto) -> None:
        (weights,) = (each for each in model.graph.initializer if each.name.endswith("head.weight"))
        change(weights)

    return change_model


def rename(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    """Renames an input or an output, wherever it is used."""

    def change(model: onnx.ModelProto) -> None:
        for each in (*model.graph.input, *model.graph.output):
            each.name = new if each.name == old else each.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return change


def keep_outside(tensor: onnx.TensorProto) -> None:
    """Has the values in another file, which ONNX allows."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../champion")


def manifest(content: bytes) -> Harm:
    return lambda folder: _keep((folder / MANIFEST).write_bytes(content))


def fields(**values: Any) -> Harm:
    return lambda folder: edit(folder, lambda manifest: manifest.update(values))


def described(**values: Any) -> Harm:
    return older(fields(**values))


def network_args(**values: Any) -> Harm:
    return older(lambda folder: edit(folder, lambda manifest: manifest["network"]["args"].update(values)))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    """Other tensors, with the right hash."""

    def harm(folder: Path) -> None:
        state = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        change(state)
        rewrite(folder, safetensors.torch.save(state))

    return older(harm)


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Harm:
    return weights(lambda state: state.update({name: change(state[name]).contiguous()}))


def all_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Harm:
    return weights(lambda state: state.update({name: change(value) for name, value in state.items()}))


def raw_weights(change: Callable[[bytes], bytes]) -> Harm:
    """Other bytes in place of the weights, with the right hash."""
    return older(lambda folder: rewrite(folder, change((folder / WEIGHTS).read_bytes())))


def one_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


def pointer(content: bytes) -> Harm:
    return lambda folder: replace_synced(folder.parent / "champion", content)


def half(name: str) -> Harm:
    return lambda folder: _keep(os.truncate(folder / name, (folder / name).stat().st_size // 2))


def flip_a_bit(name: str) -> Harm:
    def harm(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return harm


def gone(name: str) -> Harm:
    return lambda folder: (folder / name).unlink()


def linked(name: str, target: str) -> Harm:
    """A symbolic link in the place of a file, or a new one."""

    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return harm


def piped(name: str) -> Harm:
    """A pipe in the place of a file: who opens it waits for ever."""

    def harm(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return harm


def folder_at(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return harm


def without_folder(then: Callable[[Path], object]) -> Harm:
    def harm(folder: Path) -> None:
        shutil.rmtree(folder)
        then(folder)

    return harm


def header_claims(size: int) -> Callable[[bytes], bytes]:
    return lambda data: struct.pack("<Q", size) + data[8:]


def claims_a_tensor_of(num_bytes: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        claim = {"head.bias": {"dtype": "F32", "shape": [num_bytes // 4], "data_offsets": [0, num_bytes]}}
        header = json.dumps(claim).encode()
        return struct.pack("<Q", len(header)) + header + bytes(64)

    return change


def pickled(data: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save(safetensors.torch.load(data), buffer)
    return buffer.getvalue()


def _like(tensor: onnx.TensorProto, value: float) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.full(tensor.dims, value, np.float32), tensor.name)


def _keep(result: object) -> None:
    """For a lambda whose result is of no interest."""


FOLDERS: dict[str, Harm] = {
    # The manifest
    "manifest missing": gone(MANIFEST),
    "manifest empty": manifest(b""),
    "manifest half": half(MANIFEST),
    "manifest not JSON": manifest(b"version: 2\n"),
    "manifest not text": manifest(bytes(range(256))),
    "manifest a list": manifest(b"[1, 2]"),
    "manifest null": manifest(b"null"),
    "manifest a folder": folder_at(MANIFEST),
    "manifest of another schema": fields(schema=4),
    "manifest without a schema": lambda folder: edit(folder, lambda values: _keep(values.pop("schema"))),
    "manifest of another version": fields(id="v0001"),
    "manifest with an unknown field": fields(colour="red"),
    "manifest without a field": lambda folder: edit(folder, lambda values: _keep(values.pop("metrics"))),
    "manifest with a list for a dict": fields(network=["ThreeBlockCNN"]),
    "manifest with a dict for a list": fields(class_names={"airplane": 0}),
    "status unknown": fields(status="splendid"),
    "status candidate": fields(status="candidate"),
    "status rejected": fields(status="rejected"),
    "files not named": fields(files={}),
    "files named outside": lambda folder: edit(
        folder, lambda values: values["files"].update({"../champion": "0" * 64})
    ),
    # What it says of the network
    "network unknown": described(network={"name": "Transformer", "args": {}}),
    "network without a name": described(network={}),
    "network named by a list": described(network={"name": [], "args": {}}),
    "network arguments missing": described(network={"name": "ThreeBlockCNN"}),
    "network arguments null": described(network={"name": "ThreeBlockCNN", "args": None}),
    "network arguments unknown": network_args(wings=2),
    "network of width 10^6": network_args(width=10**6),
    "network of width 10^12": network_args(width=10**12),
    "network of width 10^30": network_args(width=10**30),
    "network of width 0": network_args(width=0),
    "network of width -1": network_args(width=-1),
    "network of width half": network_args(width=0.5),
    "network of depth 9": network_args(depth=9),
    "network of another width": network_args(width=5),
    "mean of 2 values": described(mean=[0.5, 0.5]),
    "mean of 1 value": described(mean=[0.5]),
    "mean of words": described(mean=["a", "b", "c"]),
    "mean huge": described(mean=[10**400, 0, 0]),
    "mean NaN": described(mean=[0.5, float("nan"), 0.5]),
    "std zero": described(std=[0.25, 0.0, 0.25]),
    "std negative": described(std=[0.25, -0.25, 0.25]),
    "std infinite": described(std=[0.25, float("inf"), 0.25]),
    "std tiny": described(std=[1e-44, 0.25, 0.25]),
    "9 class names": lambda folder: edit(folder, lambda values: _keep(values["class_names"].pop())),
    "11 class names": lambda folder: edit(folder, lambda values: values["class_names"].append("unicorn")),
    "no class names": fields(class_names=[]),
    "a class name twice": lambda folder: edit(
        folder, lambda values: values.update(class_names=["cat", "cat", *values["class_names"][2:]])
    ),
    "class names of numbers": fields(class_names=list(range(10))),
    "class names of lists": fields(class_names=[[] for _ in range(10)]),
    "a class name empty": lambda folder: edit(
        folder, lambda values: values.update(class_names=["", *values["class_names"][1:]])
    ),
    # The weights
    "weights missing": gone(WEIGHTS),
    "weights empty": lambda folder: _keep((folder / WEIGHTS).write_bytes(b"")),
    "weights half": half(WEIGHTS),
    "weights with a bit flipped": flip_a_bit(WEIGHTS),
    "weights a folder": folder_at(WEIGHTS),
    "weights linked to nowhere": linked(WEIGHTS, "nowhere"),
    "weights linked to another file": linked(WEIGHTS, "config.yaml"),
    "weights linked to themselves": linked(WEIGHTS, WEIGHTS),
    "weights empty with the right hash": raw_weights(lambda data: b""),
    "weights half with the right hash": raw_weights(lambda data: data[: len(data) // 2]),
    "weights a byte short with the right hash": raw_weights(lambda data: data[:-1]),
    "weights a byte long with the right hash": raw_weights(lambda data: data + b"\0"),
    "weights of other bytes": raw_weights(lambda data: bytes(range(256)) * 16),
    "weights in a pickle": raw_weights(pickled),
    "weights with a header of 2^60 bytes": raw_weights(header_claims(2**60)),
    "weights with a header of 2^64-1 bytes": raw_weights(header_claims(2**64 - 1)),
    "weights with a header of 0 bytes": raw_weights(header_claims(0)),
    "weights with a tensor of 2^60 bytes": raw_weights(claims_a_tensor_of(2**60)),
    "weights under other names": weights(lambda state: state.update({f"model.{n}": state.pop(n) for n in list(state)})),
    "weights without a tensor": weights(lambda state: state.pop("head.bias")),
    "weights without any tensor": weights(lambda state: state.clear()),
    "weights with a tensor too many": weights(lambda state: state.update({"tail.bias": torch.zeros(10)})),
    "weights with 5,000 tensors too many": weights(
        lambda state: state.update({f"tail.{n}": torch.zeros(1) for n in range(5000)})
    ),
    "weights of another shape": tensor("head.weight", lambda values: values[:9]),
    "weights turned around": tensor("head.weight", lambda values: values.T),
    "weights of no shape": tensor("head.bias", lambda values: values[0]),
    "weights as float16": all_tensors(lambda values: values.half() if values.is_floating_point() else values),
    "weights as float64": all_tensors(lambda values: values.double() if values.is_floating_point() else values),
    "weights as int8": all_tensors(lambda values: values.to(torch.int8)),
    "one tensor as bfloat16": tensor("dense.weight", lambda values: values.bfloat16()),
    "weights all NaN": all_tensors(lambda values: values * torch.nan if values.is_floating_point() else values),
    "one weight NaN": tensor("dense.weight", one_value(float("nan"))),
    "one weight infinite": tensor("dense.weight", one_value(float("inf"))),
    "one bias minus infinity": tensor("head.bias", one_value(float("-inf"))),
    "weights too large to compute with": tensor("dense.weight", lambda values: torch.full_like(values, 3e38)),
    "a variance below zero": tensor("blocks.0.2.running_var", one_value(-5.0)),
    # The graph
    "graph missing": gone(ONNX),
    "graph half": half(ONNX),
    "graph with a bit flipped": flip_a_bit(ONNX),
    "graph a folder": folder_at(ONNX),
    "graph linked to another file": linked(ONNX, WEIGHTS),
    "graph not named": lambda folder: edit(
        folder, lambda values: _keep(values.update(files={}, network={"name": "Transformer"}))
    ),
    "graph empty with the right hash": raw_graph(lambda data: b""),
    "graph half with the right hash": raw_graph(lambda data: data[: len(data) // 2]),
    "graph of other bytes": raw_graph(lambda data: bytes(range(256)) * 16),
    "graph without nodes": graph(lambda model: model.graph.ClearField("node")),
    "graph with an unknown node": graph(lambda model: setattr(model.graph.node[0], "op_type", "Dream")),
    "graph of a newer format": graph(lambda model: setattr(model.opset_import[0], "version", 9_999)),
    "graph that takes other pixels": graph(rename("images", "pixels")),
    "graph that takes floats": graph(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 1)),
    "graph that gives no logits": graph(rename("logits", "scores")),
    "graph with a NaN": graph(initializer(lambda head: head.CopyFrom(_like(head, np.nan)))),
    "graph with an infinity": graph(initializer(lambda head: head.CopyFrom(_like(head, np.inf)))),
    "graph with values in another file": graph(initializer(keep_outside)),
    "graph with too few values": graph(initializer(lambda head: setattr(head, "raw_data", head.raw_data[:-4]))),
    "graph with a tensor of 2^60 values": graph(initializer(lambda head: head.dims.__setitem__(0, 2**60))),
    # The folder
    "a file too many": lambda folder: _keep((folder / "notes.txt").write_text("mine")),
    "a file too many in the report": lambda folder: _keep((folder / "report" / "notes.txt").write_text("mine")),
    "a link too many": linked("notes.txt", MANIFEST),
    "a linked folder too many": linked("more", "report"),
    "a report missing": gone("report/report.txt"),
    "a report altered": flip_a_bit("report/metrics.json"),
    "the report's folder missing": lambda folder: shutil.rmtree(folder / "report"),
    "the settings empty": lambda folder: _keep((folder / "config.yaml").write_bytes(b"")),
    "the folder missing": without_folder(lambda folder: None),
    "the folder empty": without_folder(Path.mkdir),
    "the folder a file": without_folder(Path.touch),
    "the folder linked to nowhere": without_folder(lambda folder: folder.symlink_to("nowhere")),
    "the folder linked to another version": without_folder(lambda folder: folder.symlink_to("v0001")),
    "the folder a copy of another version": without_folder(
        lambda folder: shutil.copytree(folder.parent / "v0001", folder)
    ),
}
STUCK: dict[str, Harm] = {
    "manifest nested deeply": manifest(b"[" * 100_000),
    "manifest a pipe": piped(MANIFEST),
    "weights a pipe": piped(WEIGHTS),
    "a report a pipe": piped("report/report.txt"),
    "weights of 2 GiB": lambda folder: os.truncate(folder / WEIGHTS, 2**31),  # holes take no room on the disk
    "files named oddly": lambda folder: edit(folder, lambda values: values["files"].update({"a\0b": "0" * 64})),
}
"""More of them, which hold up a `Registry` that promotes another version. Go on with `point_at`."""
if os.geteuid() != 0:  # root may read everything
    FOLDERS |= {
        "the weights unreadable": lambda folder: (folder / WEIGHTS).chmod(0),
        "the manifest unreadable": lambda folder: (folder / MANIFEST).chmod(0),
        "the folder unreadable": lambda folder: folder.chmod(0),
    }

POINTERS: dict[str, Harm] = {
    "champion missing": pointer(b"v0099\n"),
    "champion a word": pointer(b"newest\n"),
    "champion 'latest'": pointer(b"latest\n"),
    "champion with a path": pointer(b"../v0001\n"),
    "champion with an absolute path": pointer(b"/etc/passwd\n"),
    "champion a dot": pointer(b".\n"),
    "champion two": pointer(b"v0001\nv0002\n"),
    "champion with a zero byte": pointer(b"v0001\0\n"),
    "champion of a megabyte": pointer(b"v0001" * 200_000),
    "champion not text": pointer(b"\xff\xfe\x00"),
    "champion empty": pointer(b""),
    "champion's file missing": lambda folder: (folder.parent / "champion").unlink(),
}


def _broken(harm: Harm) -> Harm:
    def break_and_name(folder: Path) -> None:
        harm(folder)
        point_at(folder)

    return break_and_name


BROKEN: dict[str, Harm] = {name: _broken(harm) for name, harm in FOLDERS.items()} | POINTERS
