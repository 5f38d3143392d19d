import json

import pytest

from cifar_lit.errors import VersionDamagedError
from cifar_lit.registry.manifest import About, Manifest

ABOUT = About(
    network={"name": "ThreeBlockCNN", "args": {"width": 32}},
    class_names=["cat", "dog"],
    mean=[0.5, 0.5, 0.5],
    std=[0.25, 0.25, 0.25],
    metrics={"val/acc": 0.1 + 0.2},
    data={"source": "generated"},
    seed=7,
    code={"torch": "2"},
    parent="v0001",
)
MANIFEST = Manifest(**vars(ABOUT), id="v0002", status="promoted", reason="better", files={"config.yaml": "0" * 64})


def test_a_manifest_comes_back_as_it_was() -> None:
    assert Manifest.from_json(MANIFEST.to_json(), "here") == MANIFEST


def test_a_manifest_of_the_first_schema_comes_back_in_todays() -> None:
    values = json.loads(MANIFEST.to_json()) | {"schema": 1}
    del values["temperature"]
    values["standing"] = values.pop("status")
    manifest = Manifest.from_json(json.dumps(values).encode(), "here")
    assert manifest == MANIFEST
    assert Manifest.from_json(manifest.to_json(), "here") == MANIFEST


def test_a_manifest_of_the_second_schema_calls_its_status_standing() -> None:
    values = json.loads(MANIFEST.to_json()) | {"schema": 2, "temperature": 1.5}
    values["standing"] = values.pop("status")
    manifest = Manifest.from_json(json.dumps(values).encode(), "here")
    assert (manifest.schema, manifest.status, manifest.temperature) == (3, "promoted", 1.5)
    values["schema"] = 3
    with pytest.raises(VersionDamagedError, match="missing or unknown fields: standing, status"):
        Manifest.from_json(json.dumps(values).encode(), "here")


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), "1", None])
def test_a_temperature_that_is_none_is_refused(temperature: object) -> None:
    values = json.loads(MANIFEST.to_json()) | {"temperature": temperature}
    with pytest.raises(VersionDamagedError, match="values of the wrong kind: temperature"):
        Manifest.from_json(json.dumps(values).encode(), "here")


def test_a_manifest_is_json_that_starts_with_what_a_reader_looks_for() -> None:
    values = json.loads(MANIFEST.to_json())
    assert list(values)[:6] == ["schema", "id", "parent", "status", "reason", "created_at"]
    assert MANIFEST.to_json().endswith(b"}\n")


@pytest.mark.parametrize("name", ["id", "files", "metrics", "parent"])
def test_a_missing_field_is_named(name: str) -> None:
    values = json.loads(MANIFEST.to_json())
    del values[name]
    with pytest.raises(VersionDamagedError, match=f"^here has missing or unknown fields: {name}. Restore"):
        Manifest.from_json(json.dumps(values).encode(), "here")


@pytest.mark.parametrize(
    ("name", "value"), [("network", "ThreeBlockCNN"), ("class_names", {}), ("metrics", []), ("status", None)]
)
def test_a_value_of_the_wrong_kind_is_named(name: str, value: object) -> None:
    values = json.loads(MANIFEST.to_json()) | {name: value}
    with pytest.raises(VersionDamagedError, match=f"^here has fields with values of the wrong kind: {name}. Restore"):
        Manifest.from_json(json.dumps(values).encode(), "here")
