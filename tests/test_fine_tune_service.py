"""The fine-tuning service, with real commands in real processes, on synthetic images."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import WEAK
from finetuning import QUICK, SYNTHETIC, tree

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.data import corrected_images, corrections, increment, synthetic
from cifar_lit.errors import CifarLitError, DataError, SettingError
from cifar_lit.feedback import fine_tune_service
from cifar_lit.feedback.fine_tune_job import LOG, FineTuneJob, Job, error_of
from cifar_lit.feedback.fine_tune_service import BusyError, FineTuneService
from cifar_lit.inference.predictor import Pixels, Predictor
from cifar_lit.page.rendering import render
from cifar_lit.page.teach_desk import View
from cifar_lit.registry.version import Version

MORE = synthetic.draw("train", 4_000)
OPTIONS = [*SYNTHETIC, *QUICK, "--trainer.accelerator", "cpu"]
ENDLESS = ["--trainer.max_epochs", "100000"]

MakeFineTuneService = Callable[..., FineTuneService]


@pytest.fixture
def root(parents: Path, tmp_path: Path) -> Path:
    """A registry whose champion, v0001, has much to learn."""
    root = Path(shutil.copytree(parents, tmp_path / "checkpoints"))
    FineTuneService(root, tmp_path / "teach").registry.promote("v0001", "for these tests")
    return root


@pytest.fixture
def fine_tuning(root: Path, tmp_path: Path) -> MakeFineTuneService:
    return lambda *options: FineTuneService(root, tmp_path / "teach", options=[*OPTIONS, *options], nice=0)


def mistaken(predictor: Predictor) -> tuple[Pixels, str, str]:
    """An image that the predictor takes for another class, with its own class second: image, class, and mistake."""
    for image, label in zip(MORE.images[3_000:].numpy(), MORE.labels[3_000:].tolist(), strict=True):
        (answer,) = predictor.predict(image[None])
        _, second, *_ = sorted(answer.probabilities, key=answer.probabilities.__getitem__, reverse=True)
        if second == CLASS_NAMES[label]:
            return image, second, answer.prediction
    raise AssertionError


async def until(told: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not told():
            await asyncio.sleep(0.01)


OTHERS: set[int] = set()
"""Processes that tests of other files began in this worker, such as a browser."""


@pytest.fixture(autouse=True)
def _others() -> None:
    OTHERS.clear()
    OTHERS.update(children())


def children(group: int | None = None) -> set[int]:
    """Processes of this test's (or of the given group) that are alive."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent, own_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            wanted = int(own_group) == group if group is not None else int(parent) == os.getpid()
            if wanted and state != "Z":
                found.add(int(entry.name))
    return found - OTHERS


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_correction_becomes_a_champion_that_no_longer_makes_the_mistake(
    fine_tuning: MakeFineTuneService, tmp_path: Path
) -> None:
    async def test() -> None:
        one = fine_tuning()
        one.sweep()
        pixels, label, said = mistaken(Predictor.from_version(one.registry.get("v0001")))
        assert one.num_corrections == 0
        assert one.correct(pixels, label, said=said, version="v0001") == 1
        assert one.job is None
        seen: list[Job] = [await one.start()]
        with pytest.raises(BusyError, match=r"A fine-tuning runs already \(.*%\)\. Wait for it, or stop it\."):
            await one.start()
        with pytest.raises(BusyError, match="Another server's fine-tuning runs already"):
            await fine_tuning().start()
        await until(lambda: seen[-1].stage == "learning" or watch(one, seen))
        later, _ = MORE.images[3_001], one.correct(MORE.images[3_001].numpy(), "frog", said="cat", version="v0001")
        await until(lambda: watch(one, seen))
        job = await one.wait()
        assert job is not None
        assert (job.state, job.version, job.done) == ("promoted", "v0003", 1.0), job
        done = [each.done for each in seen]
        assert done == sorted(done)
        assert {"learning", "publishing"} <= {each.stage for each in seen}
        champion = one.registry.resolve("latest")
        assert (champion.id, champion.manifest.parent, champion.manifest.reason) == ("v0003", "v0001", job.reason)
        assert job.figures["old"].before == one.registry.get("v0001").manifest.metrics["val/acc"]
        assert job.figures["old"].after == champion.manifest.metrics["val/acc"]
        assert job.figures["learned"].count == 1
        assert Predictor.from_version(champion).predict(pixels[None])[0].prediction == label
        # What was learned is put away, what came meanwhile is not, and the rest is tidied up
        assert one.num_corrections == 1
        (rest,) = corrected_images.read(one.corrections)[0].images
        assert torch.equal(rest, later)
        assert corrected_images.read(one.corrections / "used" / "v0003")[0].labels.tolist() == [
            CLASS_NAMES.index(label)
        ]
        digest = champion.manifest.data["increments"][0]["sha256"]
        assert set(one.registry.increments.sizes()) == {digest}
        assert files(tmp_path / "teach" / "jobs") == {".lock", f"{job.id}/{LOG}"}
        assert (tmp_path / "teach" / "jobs" / job.id / LOG).read_text().endswith(f"promoted: {job.reason}\n")
        assert children() == set()

        # The next one replays what was learned; labels that look wrong are rejected, and stay to be looked at
        rows = (MORE.labels == WEAK).nonzero().squeeze(1)[:20]
        for image in MORE.images[rows]:
            one.correct(image, CLASS_NAMES[WEAK - 1], said="frog", version="v0003")
        await one.start()
        job = await one.wait()
        assert job is not None
        assert (job.state, job.version) == ("rejected", "v0004"), job
        assert "earlier increments" not in job.reason
        assert one.registry.resolve("latest").id == "v0003"
        assert one.num_corrections == 21
        assert set(one.registry.increments.sizes()) == {digest}  # of what is rejected nothing is kept
        with pytest.raises(SettingError, match="There is nothing to undo"):
            await one.undo(discard=False)

    def watch(one: FineTuneService, seen: list[Job]) -> bool:
        assert one.job is not None
        seen.append(one.job)
        return one.job.state != "running"

    asyncio.run(test())


@pytest.mark.parametrize("discard", [False, True])
def test_what_was_promoted_can_be_undone_with_the_correction_back_or_discarded(
    discard: bool, fine_tuning: MakeFineTuneService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def learn(tuning: FineTuneJob, increment: Path | None) -> Version:
        """A fine-tuning that needs no training."""
        await asyncio.to_thread(corrections.copy, tuning._places.corrections, tuning._copied)
        tuning.taken.set()
        version = one.registry.promote("v0002", "learned")
        tuning._change(version=version.id, parent="v0001")
        return version

    async def test() -> None:
        with pytest.raises(SettingError, match="There is nothing to undo: no fine-tuning has ended"):
            await one.undo(discard=False)
        one.correct(MORE.images[3_000].numpy(), "cat", said="dog", version="v0001")
        await one.start()
        assert (await one.wait() or Job("")).state == "promoted"
        assert one.num_corrections == 0
        one.correct(MORE.images[3_001].numpy(), "frog", said="dog", version="v0002")
        one.registry.promote("v0001", "by another")
        with pytest.raises(CifarLitError, match="the champion is v0001, no longer v0002"):
            await one.undo(discard=discard)
        assert (one.job or Job("")).state == "promoted"
        one.registry.promote("v0002", "again")
        await one.undo(discard=discard)
        assert one.registry.resolve("latest").id == "v0001"
        assert one.registry.get("v0002").manifest.status == "rejected"
        assert one.registry.get("v0002").manifest.reason.startswith("undone on the page (first: ")
        assert (one.job or Job("")).state == "undone"
        labels = [CLASS_NAMES.index("frog")] if discard else [CLASS_NAMES.index("cat"), CLASS_NAMES.index("frog")]
        assert corrected_images.read(one.corrections)[0].labels.tolist() == labels
        assert (one.corrections / "used" / "v0002").is_dir() == discard
        with pytest.raises(SettingError, match="There is nothing to undo"):
            await one.undo(discard=discard)
        assert one.registry.resolve("latest").id == "v0001"

    one = fine_tuning()
    monkeypatch.setattr(FineTuneJob, "_learn", learn)
    asyncio.run(test())


def test_an_upload_is_audited_in_another_process_and_a_bad_one_named_in_words(
    fine_tuning: MakeFineTuneService, root: Path, tmp_path: Path
) -> None:
    async def test() -> None:
        one = fine_tuning()
        good, bad = one.new_upload(), one.new_upload()
        data = MORE.subset(torch.arange(700, 730))
        data.labels[:3] = (data.labels[:3] + 1) % 10
        increment.write(good, data)
        bad.write_bytes(b"PK\x03\x04rubbish")
        found = await one.check(good)
        assert found.as_json is not None
        assert found.as_json["count"] == 30
        assert found.as_json["version"] == "v0001"
        assert found.as_json["not_checked"] == []  # the data set was found by the service's options
        assert found.ok == found.as_json["ok"]
        assert "the file, 30 images: airplane" in found.text
        refused = await one.check(bad)
        assert (refused.ok, refused.as_json, refused.image) == (False, None, None)
        assert refused.text.startswith("the file: ")
        for text in (found.text, refused.text, json.dumps(found.as_json)):
            assert str(tmp_path) not in text

        before = tree(root)
        await one.start(bad)
        job = await one.wait()
        assert job is not None
        assert (job.state, job.version, job.figures) == ("failed", None, {})
        assert job.reason.startswith("increment.npz: ")
        assert str(tmp_path) not in job.reason
        assert tree(root) == before

    asyncio.run(test())


def test_a_check_that_takes_too_long_is_ended(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        one = FineTuneService(root, tmp_path / "teach", check_timeout_s=0.05)
        increment.write(tmp_path / "a.npz", MORE.subset(torch.arange(3)))
        with pytest.raises(DataError, match="the check took longer than 0.05 s and was ended"):
            await one.check(tmp_path / "a.npz")
        assert children() == set()

    asyncio.run(test())


@pytest.mark.parametrize("ending", ["stop", "close"])
def test_stopping_ends_the_child_and_its_group_and_leaves_the_registry_alone(
    ending: str, fine_tuning: MakeFineTuneService, root: Path, tmp_path: Path
) -> None:
    async def test() -> None:
        one, before = fine_tuning(*ENDLESS), tree(root)
        increment.write(tmp_path / "a.npz", MORE.subset(torch.arange(700, 760)))
        await one.start(tmp_path / "a.npz")
        (tmp_path / "a.npz").unlink()  # a visitor's file may go as soon as it was taken
        await until(lambda: one.job is None or one.job.stage == "learning" or one.job.state != "running")
        (child,) = children()
        assert os.getpgid(child) == child
        await getattr(one, ending)()
        job = one.job
        assert job is not None
        assert (job.state, job.version) == ("stopped", None), job
        assert job.reason == "It was stopped before a version was made."
        assert children() == children(child) == set()
        assert tree(root) == before
        assert files(tmp_path / "teach" / "jobs") == {".lock", f"{job.id}/{LOG}"}

    asyncio.run(test())


def test_a_fine_tuning_that_takes_too_long_is_ended_and_said_so(root: Path, tmp_path: Path) -> None:
    async def test() -> None:
        options = [*OPTIONS, *ENDLESS]
        one, before = (
            FineTuneService(root, tmp_path / "teach", options=options, nice=0, learn_timeout_s=0.3),
            tree(root),
        )
        one.correct(MORE.images[3_000].numpy(), "cat", said="dog", version="v0001")
        await one.start()
        job = await one.wait()
        assert job is not None
        assert (job.state, job.version) == ("failed", None), job
        assert job.reason.startswith("It took longer than 0.005 minutes and was ended. Give it fewer images")
        assert children() == set()
        assert tree(root) == before
        assert one.num_corrections == 1
        assert files(tmp_path / "teach" / "jobs") == {".lock", f"{job.id}/{LOG}"}
        assert job.reason in render("outcome", view=View(job, 1, ""))
        assert (await one.start()).state == "running", "the next one can begin"
        await one.stop()

    asyncio.run(test())


def test_a_version_that_is_being_published_is_not_given_up(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        one = FineTuneService(root, tmp_path / "teach", learn_timeout_s=0.05)
        one.correct(MORE.images[3_000].numpy(), "cat", said="dog", version="v0001")

        async def learn(tuning: FineTuneJob, increment: Path | None) -> Version:
            tuning.taken.set()
            tuning._change(stage="publishing")
            await asyncio.sleep(0.3)
            return one.registry.get("v0001")

        monkeypatch.setattr(FineTuneJob, "_learn", learn)
        monkeypatch.setattr(FineTuneJob, "_put_away", lambda tuning, version: None)
        await one.start()
        job = await one.wait()
        assert job is not None
        assert job.state == "promoted"

    asyncio.run(test())


def test_a_fine_tuning_that_is_stopped_at_once_lets_the_next_one_begin(fine_tuning: MakeFineTuneService) -> None:
    async def test() -> None:
        one = fine_tuning()
        one.correct(MORE.images[3_000].numpy(), "cat", said="dog", version="v0001")
        for _ in range(2):
            starting = asyncio.ensure_future(one.start())
            await asyncio.sleep(0)
            assert one.job is not None
            job = await one.stop()
            assert job is not None
            assert job.state == (await starting).state == "stopped"
        assert one.num_corrections == 1

    asyncio.run(test())


def test_there_must_be_something_to_learn(fine_tuning: MakeFineTuneService, tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(SettingError, match="There is no correction to learn from. Correct a prediction first."):
            await fine_tuning().start()
        with pytest.raises(SettingError, match="The increment is not there any more. Upload it again."):
            await fine_tuning().start(tmp_path / "gone.npz")

    asyncio.run(test())


SERVER = """
import asyncio, sys
from pathlib import Path
from cifar_lit.feedback.fine_tune_service import FineTuneService

async def main():
    fine_tuning = FineTuneService(Path(sys.argv[1]), Path(sys.argv[2]), options=sys.argv[4:])
    await fine_tuning.start(Path(sys.argv[3]))
    while fine_tuning.job.stage != "learning" and fine_tuning.job.state == "running":
        await asyncio.sleep(0.01)
    print(fine_tuning.job.state, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_a_killed_server_takes_its_fine_tuning_along_and_the_next_one_sweeps(
    fine_tuning: MakeFineTuneService, root: Path, tmp_path: Path
) -> None:
    increment.write(tmp_path / "a.npz", MORE.subset(torch.arange(700, 760)))
    before = tree(root)
    command = [sys.executable, "-c", SERVER, root, tmp_path / "teach", tmp_path / "a.npz", *OPTIONS, *ENDLESS]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "running\n"
        (child,) = (int(each) for each in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())
        assert os.getpriority(os.PRIO_PROCESS, child) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
        orphan = tmp_path / "teach" / "uploads" / f"{server.pid}-1.npz"
        orphan.parent.mkdir()
        orphan.write_bytes(b"half")
        server.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while children(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert children(child) == set()
    assert tree(root) == before
    one = fine_tuning()
    one.sweep()
    left = files(tmp_path / "teach")
    assert len(left) == 2, left
    assert {Path(each).name for each in left} == {".lock", LOG}
    one.sweep()
    assert files(tmp_path / "teach") == left


def test_sweeping_removes_uploads_after_an_hour_and_of_processes_that_are_gone(
    fine_tuning: MakeFineTuneService,
) -> None:
    one = fine_tuning()
    new, old, report = one.new_upload(), one.new_upload(), one.new_upload().with_suffix("")
    for path in (new, old):
        path.write_bytes(b"")
    report.mkdir()
    (report / "audit.txt").write_text("")
    for path in (old, report):
        os.utime(path, (0, time.time() - 3_700))
    with subprocess.Popen(["true"]) as gone:
        pass
    orphan = one.uploads / f"{gone.pid}-a.npz"
    orphan.write_bytes(b"")
    one.sweep()
    assert files(one.uploads) == {new.name}
    assert not report.exists()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["warning: odd", "error: a.npz: no.", "Mend it."], "a.npz: no.\nMend it."),
        (["error: first", "error: last"], "last"),
        (["Traceback"], ""),
    ],
)
def test_the_reason_is_the_last_error_that_a_command_told(lines: list[str], reason: str) -> None:
    assert error_of(lines) == reason


def test_a_full_disk_never_leaves_a_fine_tuning_running(
    fine_tuning: MakeFineTuneService, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(FineTuneJob):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self._log_file = Path("/dev/full").open("w")  # noqa: SIM115

    def no_room(*args: object) -> None:
        raise OSError(28, "No space left on device")

    async def test() -> None:
        found = fine_tuning()
        found.correct(np.zeros((32, 32, 3), np.uint8), "cat", said="dog", version="v0001")
        for _ in range(2):
            await found.start()
            job = await found.wait()
            assert job is not None
            assert (job.state, "No space left on device" in job.reason) == ("failed", True)

    monkeypatch.setattr(fine_tune_service, "FineTuneJob", Full)
    monkeypatch.setattr(corrections, "copy", no_room)
    asyncio.run(test())
