"""A version's ancestors, which of them judge, and what is kept of what they have learned."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cifar_lit.data import increment
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import Version
from cifar_lit.training.line import keep, line, references, remembered

Publish = Callable[..., Version]


def measured(version: Version, acc: float, **data: object) -> Version:
    manifest = version.manifest
    return Version(version.path, replace(manifest, metrics={"val/acc": acc}, data={**manifest.data, **data}))


def test_a_line_is_a_version_and_its_ancestors_as_far_as_they_are_whole(registry: Registry, publish: Publish) -> None:
    for parent in (None, "v0001", "v0001", "v0002"):
        publish(parent=parent)
    assert [each.id for each in line(registry, registry.get("v0004"))] == ["v0001", "v0002", "v0004"]
    assert line(registry, None) == []
    (registry.root / "v0001" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="what v0002 was fine-tuned from can't be used to judge: .*v0001"):
        assert [each.id for each in line(registry, registry.get("v0004"))] == ["v0002", "v0004"]


def test_the_first_and_the_best_version_that_were_measured_alike_are_the_references(publish: Publish) -> None:
    first, second, third = (publish(), publish(parent="v0001"), publish(parent="v0002"))
    data = first.manifest.data
    rising = [measured(first, 0.8), measured(second, 0.9), measured(third, 0.85)]
    assert [each.id for each in references(rising, data)] == ["v0001", "v0002"]
    falling = [measured(first, 0.8), measured(second, 0.7), measured(third, 0.8)]
    assert [each.id for each in references(falling, data)] == ["v0001"]
    other = {"split": {"seed": 1, "val_fraction": 0.2}}
    assert [each.id for each in references([measured(first, 0.9, **other), *rising[1:]], data)] == ["v0002"]
    assert references([], data) == references([measured(first, 0.9, train={"sha256": None})], data) == []


def test_what_a_line_has_learned_is_remembered_once_with_its_rows_if_they_are_known(
    registry: Registry, publish: Publish
) -> None:
    one, other = ({"name": f"{name}.npz", "sha256": name * 64, "count": 3} for name in "ab")
    versions = [
        measured(publish(), 0.8, increments=[one]),
        measured(publish(parent="v0001"), 0.8, increments=[one, other]),
    ]
    registry.increments.folder.mkdir()
    registry.increments.path("b" * 64).touch()
    first, second = remembered(registry, versions)
    assert (first.name, first.version, first.path, first.learned, first.held_out) == ("a.npz", "v0001", None, None, ())
    assert (second.version, second.path) == ("v0002", registry.increments.path("b" * 64))


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
