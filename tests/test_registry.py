import contextlib
import errno
import fcntl
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from cifar_lit.errors import RegistryError, VersionDamagedError, VersionNotFoundError
from cifar_lit.models.networks import Network
from cifar_lit.registry import registry as registry_module
from cifar_lit.registry.manifest import SCHEMA, About
from cifar_lit.registry.registry import ChampionChangedError, Registry
from cifar_lit.registry.version import Version
from cifar_lit.registry.weights import load_network

FILES = {
    "README.md",
    "model.safetensors",
    "model.onnx",
    "config.yaml",
    "report/metrics.json",
    "report/report.txt",
    "report/confusion_matrix.png",
    "report/curves.png",
}

Publish = Callable[..., Version]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Content of every file below `folder`, and None for every folder, by path."""
    paths = sorted(folder.rglob("*")) if folder.exists() else []
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(version: Version, **values: object) -> None:
    path = version.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# Publishing


def test_ids_count_up_from_v0001(registry: Registry, publish: Publish) -> None:
    assert [publish().id for _ in range(3)] == ["v0001", "v0002", "v0003"]
    assert registry.ids() == ["v0001", "v0002", "v0003"]


def test_ids_go_on_past_v9999_and_are_listed_in_number_order(registry: Registry, publish: Publish) -> None:
    shutil.copytree(publish().path, registry.root / "v9999")
    assert publish().id == "v10000"
    assert registry.ids() == ["v0001", "v9999", "v10000"]


def test_a_published_version_gives_the_same_logits(registry: Registry, publish: Publish, network: Network) -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    loaded = load_network(registry.get(publish().id))
    with torch.inference_mode():
        assert torch.equal(loaded(images), network(images))
    assert not loaded.training


def test_a_version_holds_the_named_files_and_no_other(publish: Publish) -> None:
    version = publish()
    found = {name for name, content in tree(version.path).items() if content is not None}
    assert found == FILES | {"manifest.json"}
    assert set(version.manifest.files) == FILES


def test_the_registry_holds_versions_history_and_champion(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    assert {path.name for path in registry.root.iterdir()} == {"v0001", "history.jsonl", "champion", ".lock"}
    assert (registry.root / "champion").read_text() == "v0001\n"


def test_the_manifest_says_what_the_version_is(registry: Registry, publish: Publish) -> None:
    publish()
    before = datetime.now(UTC).replace(microsecond=0)
    manifest = json.loads((publish(seed=3, parent="v0001").path / "manifest.json").read_text())
    assert list(manifest)[:6] == ["schema", "id", "parent", "status", "reason", "created_at"]
    assert manifest["schema"] == SCHEMA == 3
    assert (manifest["id"], manifest["parent"], manifest["status"]) == ("v0002", "v0001", "candidate")
    assert before <= datetime.fromisoformat(manifest["created_at"]) <= datetime.now(UTC)
    assert manifest["network"]["name"] == "ThreeBlockCNN"
    assert manifest["network"]["args"]["width"] == 4
    assert len(manifest["class_names"]) == 10
    assert manifest["metrics"] == {"val/acc": 0.25, "test/acc": 0.125}
    assert manifest["data"]["train"]["count"] == 100
    assert (manifest["seed"], manifest["code"]["torch"], manifest["training"]) == (3, "0", {"epochs": 3})
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in manifest["files"].values())


def test_the_history_tells_every_event_with_time_and_reason(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    publish(promote=True)
    registry.rollback("it was worse")
    registry.keep_as_candidate(publish().id, "not better")
    registry.reject("v0003", "too large")
    events = [(event["event"], event["id"], event["reason"]) for event in registry.history.read()]
    assert events == [
        ("publish", "v0001", ""),
        ("promote", "v0001", "it is better"),
        ("publish", "v0002", ""),
        ("promote", "v0002", "it is better"),
        ("rollback", "v0001", "it was worse"),
        ("publish", "v0003", ""),
        ("candidate", "v0003", "not better"),
        ("reject", "v0003", "too large"),
    ]
    assert all(datetime.fromisoformat(event["time"]).tzinfo for event in registry.history.read())


@pytest.mark.parametrize("removed", ["v0001", "v0003"])
def test_the_id_of_a_removed_version_is_not_used_again(registry: Registry, publish: Publish, removed: str) -> None:
    for _ in range(3):
        publish()
    shutil.rmtree(registry.root / removed)
    assert publish().id == "v0004"


def test_ids_are_not_used_again_after_all_versions_were_removed(registry: Registry, publish: Publish) -> None:
    for _ in range(2):
        shutil.rmtree(publish().path)
    assert publish().id == "v0003"


def test_a_version_copied_in_keeps_its_id_after_removal(registry: Registry, publish: Publish) -> None:
    copy = shutil.copytree(publish().path, registry.root / "v0005")
    edit_manifest(Version(copy, registry.get("v0001").manifest), id="v0005")
    assert publish().id == "v0006"
    shutil.rmtree(copy)
    shutil.rmtree(registry.root / "v0006")
    assert publish().id == "v0007"


@pytest.mark.parametrize("filled", [False, True])
def test_a_stray_folder_is_not_overwritten(registry: Registry, publish: Publish, filled: bool) -> None:
    publish()
    stray = registry.root / "v0007"
    stray.mkdir()
    if filled:
        (stray / "notes.txt").write_text("mine")
    before = tree(stray)
    assert publish().id == "v0008"
    assert tree(stray) == before


def test_a_stray_file_with_the_name_of_a_version_is_not_overwritten(registry: Registry, publish: Publish) -> None:
    publish()
    (registry.root / "v0002").write_text("mine")
    assert publish().id == "v0003"
    assert (registry.root / "v0002").read_text() == "mine"


def test_a_torn_last_line_of_the_history_is_closed_and_left_out(registry: Registry, publish: Publish) -> None:
    publish()
    history = registry.root / "history.jsonl"
    with history.open("ab") as file:
        file.write(b'{"time": "2026-01-01T00:0')
    assert [event["id"] for event in registry.history.read()] == ["v0001"]
    publish()
    assert [event["id"] for event in registry.history.read()] == ["v0001", "v0002"]
    assert history.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("line", [b"[]", b"7", b'{"event": "publish"}', b"\xff\xfe"])
def test_a_line_of_the_history_that_is_no_event_is_left_out(registry: Registry, publish: Publish, line: bytes) -> None:
    publish()
    with (registry.root / "history.jsonl").open("ab") as file:
        file.write(line + b"\n")
    assert publish().id == "v0002"
    assert [event["id"] for event in registry.history.read()] == ["v0001", "v0002"]


def test_what_a_dead_process_left_is_swept(registry: Registry, publish: Publish) -> None:
    version = publish(promote=True)
    (registry.root / ".staging-dead" / "report").mkdir(parents=True)
    (registry.root / ".staging-dead" / "report" / "half").write_bytes(b"abc")
    (registry.root / ".champion.tmp").write_bytes(b"v00")
    (version.path / ".manifest.json.tmp").write_bytes(b"{")
    version.verify()
    publish()
    assert not [name for name in tree(registry.root) if ".staging-" in name or name.endswith(".tmp")]


def test_the_staging_folder_of_a_living_process_is_not_swept(registry: Registry, publish: Publish) -> None:
    publish()
    staging = registry.root / ".staging-alive"
    staging.mkdir()
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        publish()
        assert staging.is_dir()
    finally:
        os.close(descriptor)
    publish()
    assert not staging.exists()


def test_no_sweep_takes_a_staging_folder_before_it_is_held(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = registry_module.hold

    def hold_late(path: Path, timeout_s: float) -> AbstractContextManager[None]:
        if path.name.startswith(".staging-"):
            with contextlib.suppress(RegistryError):
                registry.check_writable()  # another process comes first; it sweeps if it gets the lock
        return hold(path, timeout_s)

    monkeypatch.setattr(registry_module, "_LOCK_TIMEOUT_S", 0.0)
    monkeypatch.setattr(registry_module, "hold", hold_late)
    assert publish().id == "v0001"


# Damage


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("harm", [flip_a_byte, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_noticed(
    registry: Registry, publish: Publish, name: str, harm: Callable[[Path], object]
) -> None:
    version = publish()
    harm(version.path / name)
    with pytest.raises(VersionDamagedError, match=re.escape(str(version.path / name))):
        registry.resolve(version.id)
    with pytest.raises(VersionDamagedError, match=re.escape(name)):
        version.read(name)
    assert name in registry.verify()[version.id]


def test_damaged_weights_are_not_loaded(registry: Registry, publish: Publish) -> None:
    flip_a_byte(publish().path / "model.safetensors")
    with pytest.raises(VersionDamagedError, match="differs from its hash"):
        load_network(registry.get("v0001"))


@pytest.mark.parametrize("name", ["model.pkl", "report/more.txt"])
def test_a_file_that_the_manifest_does_not_name_is_noticed(registry: Registry, publish: Publish, name: str) -> None:
    (publish().path / name).write_bytes(b"")
    with pytest.raises(VersionDamagedError, match=f"manifest does not name: .*{name}"):
        registry.resolve("v0001")


def test_a_link_to_a_folder_is_noticed(registry: Registry, publish: Publish, tmp_path: Path) -> None:
    (publish().path / "more").symlink_to(tmp_path)
    with pytest.raises(VersionDamagedError, match="manifest does not name: .*more"):
        registry.resolve("v0001")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": "v0002"}, "is that of v0002. Give the folder its name back"),
        ({"schema": 4}, "has schema 4, this code reads 1 to 3. Update cifar_lit"),
        ({"colour": "red"}, "missing or unknown fields: colour"),
        ({"files": None}, "values of the wrong kind: files"),
        ({"status": "best"}, "values of the wrong kind: status"),
    ],
)
def test_a_wrong_manifest_is_refused(
    registry: Registry, publish: Publish, values: dict[str, object], message: str
) -> None:
    edit_manifest(publish(), **values)
    with pytest.raises(VersionDamagedError, match=message):
        registry.get("v0001")
    assert re.search(message, registry.verify()["v0001"] or "")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b"{}"])
def test_a_manifest_that_is_not_json_of_ours_is_refused(registry: Registry, publish: Publish, content: bytes) -> None:
    (publish().path / "manifest.json").write_bytes(content)
    with pytest.raises(VersionDamagedError, match=r"manifest.json is not a manifest .* Restore the version"):
        registry.get("v0001")


def test_versions_leaves_out_what_cannot_be_read_with_a_warning(
    registry: Registry, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish()
    (publish().path / "manifest.json").unlink()
    assert [version.id for version in registry.versions()] == ["v0001"]
    assert "v0002/manifest.json can't be read" in caplog.text


# Resolving


def test_resolve_by_id_and_latest(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    publish()
    assert registry.resolve("latest").id == "v0001"
    assert registry.resolve("v0002").id == "v0002"


@pytest.mark.parametrize("reference", ["v0004", "v1", "", "newest", "../v0001", "champion", "v0001/report"])
def test_resolve_with_unknown_version_names_what_is_there(registry: Registry, publish: Publish, reference: str) -> None:
    for _ in range(3):
        publish()
    with pytest.raises(VersionNotFoundError, match=r"no version .*checkpoints/ \(have v0001..v0003\).*'latest'"):
        registry.resolve(reference)


def test_resolve_in_an_empty_registry_says_how_to_fill_it(registry: Registry) -> None:
    with pytest.raises(VersionNotFoundError, match=r"no version 'v0001' in .* \(it is empty\)"):
        registry.resolve("v0001")
    with pytest.raises(VersionNotFoundError, match="no version was promoted yet. Train one with `cifar-lit fit`"):
        registry.resolve("latest")
    assert (registry.champion(), registry.versions(), registry.history.read(), registry.verify()) == (None, [], [], {})
    assert not registry.root.exists(), "reading makes no folder"


def test_the_registry_folder_comes_from_the_argument_the_environment_or_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", "elsewhere")
    assert Registry("here").root == Path("here")
    assert Registry().root == Path("elsewhere")
    monkeypatch.delenv("CIFAR_LIT_REGISTRY")
    assert Registry().root == Path("checkpoints")


# Status


def test_a_new_version_is_a_candidate_and_not_served(registry: Registry, publish: Publish) -> None:
    assert publish().manifest.status == "candidate"
    assert registry.champion() is None


@pytest.mark.parametrize(("status", "event"), [("rejected", "reject"), ("candidate", "candidate")])
def test_a_version_can_appear_with_its_status_and_the_reason(
    registry: Registry, publish: Publish, status: Any, event: str
) -> None:
    publish(promote=True)
    about = About(network={}, class_names=[], mean=[], std=[], metrics={}, data={}, seed=None, code={}, parent="v0001")
    version = registry.publish({"config.yaml": b""}, about, status=status, reason="it forgets")
    manifest = registry.get("v0002").manifest
    assert manifest == version.manifest
    assert (manifest.status, manifest.reason, manifest.parent) == (status, "it forgets", "v0001")
    events = registry.history.read()[-2:]
    assert [(each["event"], each["id"], each["reason"]) for each in events] == [
        ("publish", "v0002", ""),
        (event, "v0002", "it forgets"),
    ]
    assert registry.resolve("latest").id == "v0001"


def test_promote_makes_the_champion(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    promoted = registry.promote(publish().id, "higher val/acc")
    assert (promoted.manifest.status, promoted.manifest.reason) == ("promoted", "higher val/acc")
    assert registry.champion() == promoted
    assert registry.get("v0001").manifest.status == "promoted"


def test_promote_of_a_damaged_version_is_refused(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    flip_a_byte(publish().path / "config.yaml")
    with pytest.raises(VersionDamagedError, match=r"config.yaml differs from its hash"):
        registry.promote("v0002", "")
    assert registry.resolve("latest").id == "v0001"


def test_promote_instead_of_a_champion_that_no_longer_is_raises(registry: Registry, publish: Publish) -> None:
    publish()
    publish()
    registry.promote("v0001", "", instead_of=None)
    with pytest.raises(ChampionChangedError, match="champion is v0001, no longer None. Compare again"):
        registry.promote("v0002", "", instead_of=None)
    registry.promote("v0002", "", instead_of="v0001")
    with pytest.raises(ChampionChangedError, match="champion is v0002, no longer v0001"):
        registry.promote("v0001", "", instead_of="v0001")
    assert registry.resolve("latest").id == "v0002"


def test_a_version_can_be_promoted_when_no_promoted_one_is_whole(registry: Registry, publish: Publish) -> None:
    flip_a_byte(publish(promote=True).path / "model.safetensors")
    assert registry.promote(publish().id, "").id == "v0002"
    assert registry.resolve("latest").id == "v0002"


def test_keep_as_candidate_enters_the_reason(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    version = registry.keep_as_candidate(publish().id, "not above v0001")
    assert (version.manifest.status, version.manifest.reason) == ("candidate", "not above v0001")
    assert registry.promote("v0002", "by hand").id == registry.resolve("latest").id == "v0002"


def test_reject_keeps_the_champion(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    assert registry.reject(publish().id, "worse").manifest.status == "rejected"
    assert registry.resolve("latest").id == "v0001"
    with pytest.raises(RegistryError, match="v0001 is the champion. Roll back or promote another version first"):
        registry.reject("v0001", "")


def test_a_damaged_version_can_be_rejected(registry: Registry, publish: Publish) -> None:
    flip_a_byte(publish(promote=True).path / "model.safetensors")
    assert registry.reject("v0001", "damaged").manifest.status == "rejected"
    assert registry.champion() is None


def test_a_change_by_hand_keeps_the_first_reason_beside_its_own(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    registry.reject(publish().id, "old accuracy fell")
    for _ in range(2):  # it does not grow
        registry.promote("v0002", "I looked at them")
        assert registry.get("v0002").manifest.reason == "I looked at them (first: old accuracy fell)"
        registry.rollback("worse")
        assert registry.get("v0002").manifest.reason == "worse (first: old accuracy fell)"
    reasons = [event["reason"] for event in registry.history.read() if event["id"] == "v0002"]
    assert reasons[:3] == ["", "old accuracy fell", "I looked at them"]
    registry.promote(publish().id, "val/acc is above")
    assert registry.get("v0003").manifest.reason == "val/acc is above"


def test_a_rollback_of_another_champion_than_the_one_meant_changes_nothing(
    registry: Registry, publish: Publish
) -> None:
    for _ in range(2):
        publish(promote=True)
    with pytest.raises(ChampionChangedError, match="the champion is v0002, no longer v0001"):
        registry.rollback("undone", champion_id="v0001")
    assert registry.resolve("latest").id == "v0002"
    assert registry.rollback("undone", champion_id="v0002").id == "v0001"


def test_kept_increments_are_listed_and_dropped_by_how_they_begin(registry: Registry) -> None:
    store = registry.increments
    assert store.sizes() == {}
    assert store.drop("") == []
    store.folder.mkdir(parents=True)
    names = ["a" * 64, "ab" * 32, "b" * 64]
    for name in names:
        store.path(name).write_bytes(b"12345")
    (store.folder / ".half.npz.0123.tmp").write_bytes(b"")
    (store.folder / "notes.txt").write_bytes(b"mine")
    assert store.sizes() == dict.fromkeys(names, 5)
    with pytest.raises(RegistryError, match="no increment whose SHA-256 begins with 'c'. `cifar-lit versions"):
        store.drop("c")
    assert store.drop("a") == names[:2]
    assert store.drop("") == names[2:]
    assert [path.name for path in store.folder.iterdir()] == ["notes.txt"]


def test_rollbacks_go_back_one_champion_at_a_time(registry: Registry, publish: Publish) -> None:
    for _ in range(3):
        publish(promote=True)
    assert registry.rollback("worse").id == registry.resolve("latest").id == "v0002"
    assert registry.get("v0003").manifest.status == "rejected"
    assert registry.get("v0003").manifest.reason == "worse (first: it is better)"
    assert registry.rollback("worse").id == registry.resolve("latest").id == "v0001"
    with pytest.raises(RegistryError, match="no other promoted version was served before v0001. Promote one by its id"):
        registry.rollback("worse")
    assert registry.resolve("latest").id == "v0001"


def test_rollback_follows_the_order_of_serving_not_of_ids(registry: Registry, publish: Publish) -> None:
    for _ in range(3):
        publish()
    for version_id in ("v0003", "v0001", "v0002"):
        registry.promote(version_id, "")
    assert registry.rollback("").id == "v0001"
    assert registry.promote("v0002", "after all").id == "v0002"
    assert registry.rollback("").id == "v0001"
    assert registry.rollback("").id == "v0003"


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda path: flip_a_byte(path / "config.yaml")])
def test_rollback_passes_over_versions_that_are_gone_or_damaged(
    registry: Registry, publish: Publish, harm: Callable[[Path], object]
) -> None:
    for _ in range(3):
        publish(promote=True)
    harm(registry.root / "v0002")
    assert registry.rollback("").id == "v0001"


def test_rollback_without_a_champion_raises(registry: Registry, publish: Publish) -> None:
    publish()
    with pytest.raises(VersionNotFoundError, match="no version was promoted yet"):
        registry.rollback("")


# The champion's pointer is a hint


def test_the_pointer_is_what_was_promoted_or_rolled_back_to(registry: Registry, publish: Publish) -> None:
    assert registry.pointer() == ""
    publish()
    assert registry.pointer() == ""
    publish(promote=True)
    assert registry.pointer() == "v0002"
    registry.promote("v0001", "")
    assert registry.pointer() == "v0001"
    registry.rollback("")
    assert registry.pointer() == "v0002"


@pytest.mark.parametrize(
    ("content", "pointer"),
    [
        (b"", ""),
        (b" \n", ""),
        (b"\xff\xfe\n", ""),
        (b"newest\n", "newest"),
        (b"  v0099\r\n\n", "v0099"),
        (b"../v0001\n", "../v0001"),
    ],
)
def test_the_pointer_is_told_as_it_is_whether_or_not_it_can_be_served(
    registry: Registry, publish: Publish, content: bytes, pointer: str
) -> None:
    publish(promote=True)
    (registry.root / "champion").write_bytes(content)
    assert registry.pointer() == pointer
    assert registry.resolve("latest").id == "v0001"


def test_a_pointer_that_is_gone_or_a_folder_names_nothing(registry: Registry, publish: Publish) -> None:
    publish(promote=True)
    (registry.root / "champion").unlink()
    assert registry.pointer() == ""
    (registry.root / "champion").mkdir()
    assert registry.pointer() == ""


@pytest.mark.parametrize(
    "pointer", [None, b"", b"\xff\xfe\n", b"newest\n", b"v0099\n", b"v0003\n", b"v0004\n", b"../v0001\n"]
)
def test_a_bad_pointer_gives_the_newest_whole_promoted_version(
    registry: Registry, publish: Publish, pointer: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    publish(promote=True)
    publish(promote=True)
    publish()  # v0003 was never promoted
    flip_a_byte(publish(promote=True).path / "model.safetensors")  # v0004 is damaged
    path = registry.root / "champion"
    path.unlink() if pointer is None else path.write_bytes(pointer)
    with caplog.at_level(logging.WARNING, "cifar_lit"):
        assert registry.resolve("latest").id == "v0002"
    assert "which can't be served; v0002 takes its place" in caplog.text


def test_a_good_pointer_gives_no_warning(
    registry: Registry, publish: Publish, caplog: pytest.LogCaptureFixture
) -> None:
    publish(promote=True)
    publish(promote=True)
    registry.rollback("")
    assert registry.resolve("latest").id == "v0001"
    assert not caplog.records


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_a_champion_without_any_whole_version_raises(registry: Registry, publish: Publish, name: str) -> None:
    (publish(promote=True).path / name).write_bytes(b"x")
    publish()
    with pytest.raises(VersionDamagedError, match="no promoted version is whole. `cifar-lit versions verify` says"):
        registry.resolve("latest")


# Failing disks


def fail_from(monkeypatch: pytest.MonkeyPatch, operation: str, number: int, code: int) -> Callable[[], bool]:
    """Makes `os.<operation>` fail from its `number`-th call on; tells whether it did."""
    real, calls = getattr(os, operation), itertools.count(1)
    failed = False

    def failing(*args: object, **kwargs: object) -> object:
        nonlocal failed
        if next(calls) < number:
            return real(*args, **kwargs)
        failed = True
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, operation, failing)
    return lambda: failed


@pytest.mark.parametrize("operation", ["fsync", "rename", "write", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failing_disk_leaves_nothing_of_a_version(
    registry: Registry, publish: Publish, operation: str, code: int
) -> None:
    publish(promote=True)
    before = tree(registry.root)
    for number in itertools.count(1):
        problem = None
        with pytest.MonkeyPatch.context() as patch:
            fail_from(patch, operation, number, code)
            try:
                version = publish()
            except RegistryError as error:
                problem = str(error)
        if problem is None:
            break
        assert re.search(f"no version was published: {os.strerror(code)}.*Free space", problem)
        assert tree(registry.root) == before
    assert number > 1
    assert version.id == "v0002"


@pytest.mark.parametrize("operation", ["fsync", "replace", "write"])
@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_a_failing_disk_leaves_the_old_champion_or_the_new(
    registry: Registry, publish: Publish, operation: str, action: str
) -> None:
    publish(promote=True)
    publish(promote=True)
    publish()
    for number in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(RegistryError):
            failed = fail_from(patch, operation, number, errno.ENOSPC)
            registry.promote("v0003", "") if action == "promote" else registry.rollback("")
        assert registry.resolve("latest").id in ({"v0002", "v0003"} if action == "promote" else {"v0002", "v0001"})
        assert set(registry.verify().values()) == {None}
        assert not [name for name in tree(registry.root) if name.endswith(".tmp")]
        if not failed():
            break
    assert number > 1


def test_a_file_that_cannot_be_opened_leaves_nothing_of_a_version(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    before = tree(registry.root)
    path_open = Path.open

    def refuse(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
        if "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return path_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RegistryError, match="no version was published: No space left on device"):
        publish()
    monkeypatch.undo()
    assert tree(registry.root) == before


def test_a_write_cut_short_is_finished(registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    publish(promote=True)
    assert [event["event"] for event in registry.history.read()] == ["publish", "promote"]


def test_a_registry_below_a_file_is_refused(tmp_path: Path, publish: Publish) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "checkpoints"):
        registry = Registry(root)
        with pytest.raises(RegistryError, match="can't be written: .* --registry"):
            registry.check_writable()
        with pytest.raises(RegistryError, match="no version was published: .* --registry"):
            registry.publish({}, publish().manifest)
        with pytest.raises(RegistryError, match="can't be read: Not a directory. .* --registry"):
            registry.resolve("latest")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_registry_without_permission_is_refused(registry: Registry, publish: Publish) -> None:
    publish()
    before = tree(registry.root)
    registry.root.chmod(0o500)
    try:
        with pytest.raises(RegistryError, match="can't be written: Permission denied"):
            registry.check_writable()
        with pytest.raises(RegistryError, match="no version was published: Permission denied"):
            publish()
        assert tree(registry.root) == before
    finally:
        registry.root.chmod(0o700)


def test_check_writable_leaves_nothing_but_the_lock(registry: Registry) -> None:
    registry.check_writable()
    assert tree(registry.root) == {".lock": b""}


def test_a_lock_held_too_long_is_an_error(
    registry: Registry, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    before = tree(registry.root)
    monkeypatch.setattr(registry_module, "_LOCK_TIMEOUT_S", 0.1)
    with (registry.root / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RegistryError, match="another process has held the lock for 0.1 s. Wait for it to finish"):
            publish()
        assert tree(registry.root) == before
        assert registry.resolve("v0001").id == "v0001", "reading needs no lock"
    assert publish().id == "v0002"
