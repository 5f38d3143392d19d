import asyncio
import logging
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from broken_versions import BROKEN, FOLDERS, STUCK, edit, network_args, point_at, rewrite
from conftest import Publish

from cifar_lit.errors import OverloadedError
from cifar_lit.inference import champion as champion_module
from cifar_lit.inference.champion import Champion, Refusal, Serving
from cifar_lit.inference.predictor import Pixels, Predictor
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX, WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")

PATIENCE_S = 60.0
"""Only a failing test waits for so long."""
POLL_S = 0.005
IMAGES = np.random.default_rng(0).integers(256, size=(3, 32, 32, 3), dtype=np.uint8)


class Followed:
    """A champion that is followed, and the changes and refusals that it tells of, in their order."""

    def __init__(self, registry: Registry) -> None:
        self.told: asyncio.Queue[str | Refusal] = asyncio.Queue()
        self.champion = Champion(
            registry, warm=(1, 2), poll_s=POLL_S, on_change=self._on_change, on_refusal=self.told.put_nowait
        )

    def _on_change(self, serving: Serving) -> None:
        assert self.champion.serving is serving
        self.told.put_nowait(serving.predictor.version)

    async def next(self) -> str | Refusal:
        return await asyncio.wait_for(self.told.get(), PATIENCE_S)

    async def refusal(self) -> Refusal:
        """The next refusal."""
        while not isinstance(told := await self.next(), Refusal):
            continue
        return told

    async def serves(self, version: str) -> None:
        """Returns when this version is served and none is refused."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.champion.ready or self.answering() != version or self.champion.refusal:
                await asyncio.sleep(POLL_S)

    def answering(self) -> str:
        """The version that answers, by what it answers and not by what it says."""
        [answer, *_] = self.champion.serving.predictor.predict(IMAGES)
        return answer.version

    async def looks(self) -> None:
        """Returns when the registry was looked at again, in any case."""
        await asyncio.sleep(20 * POLL_S)


def follow(registry: Registry, test: Callable[[Followed], Awaitable[None]], *, start: bool = True) -> None:
    async def main() -> None:
        followed = Followed(registry)
        try:
            if start:
                await followed.champion.start()
            await test(followed)
        finally:
            await followed.champion.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with three promoted versions, of which the first is the champion. Not to be changed."""
    from conftest import publish as publish_fixture

    registry = Registry(tmp_path_factory.mktemp("three") / "checkpoints")
    publish = publish_fixture.__wrapped__(registry)  # type: ignore[attr-defined]
    for seed in range(3):
        publish(seed, promote=True)
    point_at(registry.root / "v0001")
    return registry.root


@pytest.fixture
def copy(three: Path, tmp_path: Path) -> Registry:
    """A registry of one's own, with three promoted versions, of which the first is the champion."""
    shutil.copytree(three, tmp_path / "checkpoints")
    return Registry(tmp_path / "checkpoints")


# Following


def test_the_champion_is_served_and_a_promotion_and_a_rollback_are_followed(
    registry: Registry, publish: Publish
) -> None:
    publish(0, promote=True)

    async def test(followed: Followed) -> None:
        assert followed.champion.ready
        assert followed.champion.serving.manifest.id == "v0001"
        publish(1)
        publish(2, promote=True)
        assert [await followed.next(), await followed.next()] == ["v0001", "v0003"]
        assert followed.answering() == "v0003"
        registry.rollback("worse")
        assert await followed.next() == "v0001"
        assert followed.answering() == "v0001"
        assert followed.champion.refusal is None
        assert followed.told.empty()

    follow(registry, test)


def test_what_is_served_answers_as_the_version_does(copy: Registry) -> None:
    async def test(followed: Followed) -> None:
        for version_id in ("v0001", "v0002", "v0003"):
            point_at(copy.root / version_id)
            await followed.serves(version_id)
            expected = Predictor.from_version(copy.get(version_id)).predict(IMAGES)
            assert followed.champion.serving.predictor.predict(IMAGES) == expected

    follow(copy, test)


def test_the_old_one_answers_while_the_new_one_is_loaded(copy: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()
    load = Predictor.from_version

    def load_slowly(version: Any) -> Predictor:
        if version.id == "v0002":
            loading.set()
            assert go_on.wait(PATIENCE_S)
        return load(version)

    monkeypatch.setattr(champion_module.Predictor, "from_version", load_slowly)

    async def test(followed: Followed) -> None:
        assert await followed.next() == "v0001"
        point_at(copy.root / "v0002")
        assert await asyncio.to_thread(loading.wait, PATIENCE_S)
        assert followed.champion.ready
        assert followed.answering() == "v0001"
        go_on.set()
        assert await followed.next() == "v0002"
        assert followed.answering() == "v0002"

    follow(copy, test)


def test_a_champion_that_changes_while_another_is_loaded_is_served_next(
    copy: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Predictor.from_version

    def load_late(version: Any) -> Predictor:
        if version.id == "v0002":
            point_at(copy.root / "v0003")
        return load(version)

    monkeypatch.setattr(champion_module.Predictor, "from_version", load_late)

    async def test(followed: Followed) -> None:
        point_at(copy.root / "v0002")
        assert [await followed.next() for _ in range(3)] == ["v0001", "v0002", "v0003"]

    follow(copy, test)


def test_a_new_one_has_answered_batches_of_the_given_sizes_before_it_is_served(
    copy: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    predict = Predictor.predict

    def spy(predictor: Predictor, images: Pixels) -> Any:
        sizes.append(len(images))
        return predict(predictor, images)

    monkeypatch.setattr(Predictor, "predict", spy)

    async def test(followed: Followed) -> None:
        assert sizes == [1, 2]

    follow(copy, test)


def test_a_version_that_is_served_stays_whatever_becomes_of_its_folder(copy: Registry) -> None:
    async def test(followed: Followed) -> None:
        assert await followed.next() == "v0001"
        shutil.rmtree(copy.root / "v0001")
        await followed.looks()
        assert followed.answering() == "v0001"
        assert followed.champion.refusal is None

    follow(copy, test)


def test_an_empty_registry_becomes_ready_with_the_first_promotion(registry: Registry, publish: Publish) -> None:
    async def test(followed: Followed) -> None:
        assert not followed.champion.ready
        assert followed.champion.refusal is None
        with pytest.raises(OverloadedError, match="no version can be served yet. Promote one, or send it again later"):
            followed.champion.serving  # noqa: B018
        publish()
        await followed.looks()
        assert not followed.champion.ready, "a candidate is not served"
        registry.promote("v0001", "")
        assert await followed.next() == "v0001"
        assert followed.champion.ready

    follow(registry, test)


def test_an_error_on_the_way_does_not_end_the_following(
    copy: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def fail(registry: Registry) -> str:
        failed.set()
        raise PermissionError("the disk is gone")

    async def test(followed: Followed) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Registry, "pointer", fail)
            assert await asyncio.to_thread(failed.wait, PATIENCE_S)
        point_at(copy.root / "v0002")
        await followed.serves("v0002")

    follow(copy, test)
    assert "The registry could not be looked at" in caplog.text
    assert "the disk is gone" in caplog.text


# Broken versions


def named_by(registry: Registry) -> str:
    return registry.pointer()[:100]


def restore(three: Path, folder: Path) -> None:
    """Mends a version where it lies."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        folder.chmod(0o700)
        shutil.rmtree(folder)
    shutil.copytree(three / folder.name, folder)


def test_there_are_more_than_thirty_kinds() -> None:
    assert len(BROKEN) >= 30


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_champion_is_refused_and_the_one_before_goes_on(
    three: Path, copy: Registry, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy.root / "v0002"

    async def check_refusal(followed: Followed) -> None:
        BROKEN[kind](folder)
        refusal = await followed.refusal()
        assert followed.champion.refusal == refusal
        named = named_by(copy)
        assert refusal.version == named
        assert named in refusal.reason or repr(named) in refusal.reason
        assert str(copy.root) not in refusal.reason, "a visitor is shown no path"
        assert len(refusal.reason) < 700
        assert followed.champion.ready
        assert followed.answering() == "v0001"

    async def test(followed: Followed) -> None:
        assert await followed.next() == "v0001"
        await check_refusal(followed)
        # It is mended in place.
        restore(three, folder)
        point_at(folder)
        await followed.serves("v0002")
        # Another one is promoted.
        point_at(copy.root / "v0001")
        await followed.serves("v0001")
        await check_refusal(followed)
        copy.promote("v0003", "")
        await followed.serves("v0003")

    with caplog.at_level(logging.ERROR, "cifar_lit"):
        follow(copy, test)
    assert "is refused as champion" in caplog.text


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("manifest half", "checkpoints/v0002/manifest.json is not a manifest"),
        ("status candidate", "the status of v0002 is candidate, expected promoted"),
        ("mean of 2 values", "its mean is [0.5, 0.5] and its std"),
        (
            "9 class names",
            "v0002: the logits of its model.onnx have the shape (1, 10), expected (1, 9) for 1 images and 9 class",
        ),
        ("a class name twice", "v0002: its class names are ['cat', 'cat', 'bird'"),
        ("weights with a bit flipped", "checkpoints/v0002/model.safetensors differs from its hash in manifest.json"),
        ("weights as float16", "holds torch.float16, expected torch.float32"),
        ("one weight NaN", "v0002: dense.weight holds values that are no finite numbers"),
        ("std tiny", "v0002: _scale holds values that are no finite numbers"),
        ("weights too large to compute with", "v0002: ONNX Runtime's probabilities differ from PyTorch's by up to nan"),
        ("graph with a NaN", "v0002: the probabilities of an image sum to nan, expected 1"),
        ("graph of other bytes", "v0002: its model.onnx can't be loaded ("),
        ("graph that takes other pixels", "v0002: its model.onnx takes [('pixels', 'tensor(uint8)', 32, 32, 3)] and"),
        ("a file too many", "checkpoints/v0002 holds files that its manifest does not name: ['notes.txt']"),
        ("champion missing", "no version 'v0099' in checkpoints/ (have v0001..v0003)"),
        ("champion with a path", "no version '../v0001' in checkpoints/"),
    ],
)
def test_the_reason_says_what_is_wrong(copy: Registry, kind: str, reason: str) -> None:
    async def test(followed: Followed) -> None:
        BROKEN[kind](copy.root / "v0002")
        assert reason in (await followed.refusal()).reason

    follow(copy, test)


@pytest.mark.parametrize("kind", BROKEN)
def test_with_a_broken_champion_at_the_start_the_newest_promoted_whole_one_is_served(
    copy: Registry, publish: Publish, kind: str
) -> None:
    edit(copy.root / "v0003", lambda values: values.update(status="rejected"))
    BROKEN[kind](copy.root / "v0002")
    whole = "v0001" if kind in FOLDERS else "v0002"

    async def test(followed: Followed) -> None:
        assert followed.champion.ready
        assert followed.answering() == whole
        assert await followed.next() == whole
        assert (await followed.refusal()).version == named_by(copy)

    follow(copy, test)


def test_a_refusal_ends_when_the_registry_names_the_served_one_again_and_is_told_anew_after_that(
    copy: Registry,
) -> None:
    async def test(followed: Followed) -> None:
        BROKEN["weights missing"](copy.root / "v0002")
        first = await followed.refusal()
        await followed.looks()
        assert followed.told.empty(), "what is known is not said again"
        point_at(copy.root / "v0001")
        await followed.serves("v0001")
        point_at(copy.root / "v0002")
        assert (await followed.refusal()).reason == first.reason

    follow(copy, test)


def test_when_none_is_whole_the_reason_is_told_until_one_is(three: Path, copy: Registry) -> None:
    for name in ("v0001", "v0002", "v0003"):
        (copy.root / name / WEIGHTS).write_bytes(b"")

    async def test(followed: Followed) -> None:
        assert not followed.champion.ready
        with pytest.raises(OverloadedError, match=r"\(v0001 is refused: .*v0001/model.safetensors differs from its"):
            followed.champion.serving  # noqa: B018
        restore(three, copy.root / "v0001")
        assert isinstance(await followed.next(), Refusal)
        assert await followed.next() == "v0001"
        assert followed.champion.refusal is None

    follow(copy, test)


@pytest.mark.parametrize("args", [{"width": 10**6}, {"hidden": 10**9}, {"num_classes": 10**9}])
def test_a_manifest_that_claims_a_huge_network_takes_no_memory(
    copy: Registry, monkeypatch: pytest.MonkeyPatch, args: dict[str, int]
) -> None:
    network_args(**args)(copy.root / "v0002")
    made: list[str] = []
    init = torch.nn.Module.register_parameter

    def spy(module: torch.nn.Module, name: str, parameter: Any) -> None:
        if parameter is not None and parameter.numel() > 10**6:
            made.append(parameter.device.type)
        init(module, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", spy)

    async def test(followed: Followed) -> None:
        point_at(copy.root / "v0002")
        assert "size mismatch" in (await followed.refusal()).reason

    follow(copy, test)
    assert set(made) == {"meta"}


def test_a_version_that_can_only_be_mended_by_one_file_is_served_after_that(copy: Registry) -> None:
    folder = copy.root / "v0002"
    report = (folder / "report" / "report.txt").read_bytes()
    (folder / "report" / "report.txt").write_bytes(b"x" * len(report))
    (folder / "report" / "notes.txt").touch()

    async def test(followed: Followed) -> None:
        point_at(folder)
        assert "notes.txt" in (await followed.refusal()).reason
        (folder / "report" / "notes.txt").unlink()
        assert "report/report.txt differs from its hash" in (await followed.refusal()).reason
        (folder / "report" / "report.txt").write_bytes(report)
        await followed.serves("v0002")

    follow(copy, test)


@pytest.mark.parametrize("kind", STUCK)
def test_what_holds_up_others_does_not_hold_up_the_server(copy: Registry, kind: str) -> None:
    async def test(followed: Followed) -> None:
        STUCK[kind](copy.root / "v0002")
        point_at(copy.root / "v0002")
        assert (await followed.refusal()).reason.count("v0002")
        assert followed.answering() == "v0001"
        point_at(copy.root / "v0003")
        await followed.serves("v0003")

    follow(copy, test)


def test_a_disk_that_failed_once_is_asked_again(copy: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(champion_module, "_AGAIN_S", 10 * POLL_S)
    load = Predictor.from_version
    failures = iter([OSError(5, "Input/output error")] * 3)

    def fail_first(version: Any) -> Predictor:
        if version.id == "v0002" and (error := next(failures, None)):
            raise error
        return load(version)

    monkeypatch.setattr(champion_module.Predictor, "from_version", fail_first)

    async def test(followed: Followed) -> None:
        point_at(copy.root / "v0002")
        assert [await followed.next()] == ["v0001"]
        assert (await followed.refusal()).reason == "v0002: OSError: [Errno 5] Input/output error"
        assert await followed.next() == "v0002", "the same refusal is told once"
        assert followed.champion.refusal is None

    follow(copy, test)


def test_a_graph_that_is_another_versions_are_not_mixed_up(copy: Registry) -> None:
    """With a right hash it is whole, and it is the new version that answers with it."""
    rewrite(copy.root / "v0002", (copy.root / "v0003" / ONNX).read_bytes(), ONNX)

    async def test(followed: Followed) -> None:
        point_at(copy.root / "v0002")
        await followed.serves("v0002")
        third = Predictor.from_version(copy.get("v0003")).predict(IMAGES)
        mine = followed.champion.serving.predictor.predict(IMAGES)
        assert [each.probabilities for each in mine] == [each.probabilities for each in third]

    follow(copy, test)
