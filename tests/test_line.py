"""What a registry keeps of the increments that its versions have learned."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cifar_lit.data import increment
from cifar_lit.registry.registry import Registry
from cifar_lit.training.line import keep


def test_an_increment_of_other_classes_is_kept(tmp_path: Path, registry: Registry) -> None:
    names = tuple(f"kind {label}" for label in range(100))
    path = tmp_path / "new.npz"
    np.savez(path, x_new=np.zeros((2, 32, 32, 3), np.uint8), y_new=np.array([3, 97]))
    sha256 = increment.read(path, names).sha256
    datamodule = SimpleNamespace(
        increments=[path],
        learned=[{"sha256": sha256}],
        rows={sha256: {"learned": [0, 1]}},
        parent_classes=names,
    )
    keep(datamodule, registry, max_mib=10)  # type: ignore[arg-type]
    assert increment.read(registry.increments.path(sha256), names).labels.tolist() == [3, 97]
