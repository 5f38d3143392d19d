"""How exactly weights survive going out and in: npz, ONNX and Keras HDF5, over all test images.

    python benchmarks/interop.py --root DIR [--version latest] [--reference DIR]

`--reference` is a folder with keras_cifar10.h5 and keras_cifar10_probs.npz (`x`, pixels; `probs`, what Keras predicts).
Ends with one JSON line, and keeps it in benchmarks/results/.
"""

import argparse
import json
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from cifar_lit.data.image_set import ImageSet
from cifar_lit.data.sources import read_split
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.interop import keras_file, onnx_model, weights_npz
from cifar_lit.interop.model import load_model
from cifar_lit.registry.registry import Registry

HERE = Path(__file__).parent
BATCH = 500


def of_version(reference: str, test_set: ImageSet) -> dict[str, Any]:
    model = load_model(reference, Registry(HERE.parent / "checkpoints"))
    evaluation = evaluate(model.network, test_set)
    with tempfile.TemporaryDirectory() as folder:
        npz = Path(folder, "weights.npz")
        npz.write_bytes(weights_npz.dump(model.network, model.class_names))
        read, _ = weights_npz.load(npz)
        graph, _ = onnx_model.dump(model.network, model.class_names, test_set.images)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        predictions = [session.run(None, {"images": batch.numpy()})[1] for batch in torch.split(test_set.images, BATCH)]
        sizes = {"npz_bytes": npz.stat().st_size, "onnx_bytes": len(graph)}
    probs = torch.from_numpy(np.concatenate(predictions))
    return {
        "version": model.name,
        "acc": evaluation.metrics["acc"],
        "npz_max_probability_difference": float((evaluate(read, test_set).probs - evaluation.probs).abs().max()),
        "onnx_max_probability_difference": float((probs - evaluation.probs).abs().max()),
        "onnx_other_predictions": int((probs.argmax(1) != evaluation.preds).sum()),
        **sizes,
    }


@torch.inference_mode()
def of_keras(reference: Path, test_set: ImageSet) -> dict[str, Any]:
    network = keras_file.load(reference / "keras_cifar10.h5")
    with np.load(reference / "keras_cifar10_probs.npz", allow_pickle=False) as predictions:
        images, expected = torch.from_numpy(predictions["x"]), torch.from_numpy(predictions["probs"])
    probs = network(images.permute(0, 3, 1, 2)).softmax(1)
    return {
        "keras_images": len(images),
        "keras_max_probability_difference": float((probs - expected).abs().max()),
        "keras_acc": evaluate(network, test_set).metrics["acc"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="CIFAR-10, as cifar_lit reads it")
    parser.add_argument("--version", default="latest", help="of this repository's checkpoints")
    parser.add_argument("--reference", type=Path, help="folder of a model that Keras made")
    arguments = parser.parse_args()
    test_set = read_split("test", arguments.root)
    result = {
        "benchmark": f"probabilities over {len(test_set):,} test images ({test_set.source}), before and after",
        **of_version(arguments.version, test_set),
        **(of_keras(arguments.reference, test_set) if arguments.reference else {}),
        "releases": {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "h5py")},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (HERE / "results" / "interop.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
