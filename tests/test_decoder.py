"""The decoder's worker processes. Starting them takes a while, so most tests share one of two decoders."""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from hostile_images import GOOD, HOSTILE, JPEG, PNG, WEBP, content_of, encoded, png
from PIL import Image

from cifar_lit.data.images import decode
from cifar_lit.errors import ImageError, OverloadedError, SettingError
from cifar_lit.inference import decode_process
from cifar_lit.inference import decoder as decoder_module
from cifar_lit.inference.decoder import Decoder

LARGE = encoded(Image.new("RGBA", (4_000, 4_000)), compress_level=1)
"""Takes tenths of a second and hundreds of MiB."""
MEMORY = 8 * 2**20
PATIENCE_S = 30.0
"""Only a failing test waits that long."""


@dataclass
class Running:
    """A decoder and the loop that it runs in."""

    decoder: Decoder
    runner: asyncio.Runner

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    async def pixels(self, data: bytes) -> np.ndarray:
        return (await self.decoder.decode(data)).pixels

    def decode(self, data: bytes) -> np.ndarray:
        return self.run(self.pixels(data))


def running(loop_factory: Callable[[], asyncio.AbstractEventLoop], **options: Any) -> Iterator[Running]:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        decoder = Decoder(**options)
        runner.run(decoder.start())
        yield Running(decoder, runner)
        runner.run(decoder.close())


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)  # as a server's may be
        # The largest images take seconds on a busy machine.
        yield from running(uvloop.new_event_loop, workers=3, timeout_s=PATIENCE_S)


@pytest.fixture(scope="module")
def tight() -> Iterator[Running]:
    """Little time, little memory, and the standard library's loop."""
    yield from running(asyncio.new_event_loop, workers=2, timeout_s=1.0, memory_bytes=MEMORY)


def here(data: bytes) -> np.ndarray:
    """What decoding in this process gives."""
    return decode(data).network_pixels


def image(number: int) -> bytes:
    """A file whose pixels tell it from the others."""
    pixels = np.random.default_rng(number).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), ("PNG", "JPEG", "WEBP")[number % 3])


def status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))


def halt(pid: int) -> None:
    """Stops a process, and returns when it does nothing any more: it would take an image with it."""
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        assert time.monotonic() < until
        time.sleep(0.001)


def megabytes(pid: int, field: str) -> float:
    return int(status(pid, field).split()[0]) / 1024


def parent(pid: int) -> int:
    return int(status(pid, "PPid"))


def is_alive(pid: int) -> bool:
    try:
        return status(pid, "State")[0] not in "ZX"
    except (OSError, StopIteration):
        return False


def children(pid: int) -> set[int]:
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, StopIteration):
            if parent(int(folder.name)) == pid:
                found.add(int(folder.name))
    return found


def descriptors(pid: int | str = "self") -> list[str]:
    return sorted(os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


async def all_back(decoder: Decoder, number: int, *gone: int) -> None:
    await until(lambda: len(decoder.pids) == number and not set(gone) & set(decoder.pids))


def busy_one(pids: list[int], before: dict[int, float]) -> int | None:
    """The worker that is at a large image."""
    return next((pid for pid in pids if megabytes(pid, "VmData") > before[pid] + 16), None)


# What it answers


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_gives_the_same_pixels_as_in_this_process(shared: Running, name: str) -> None:
    data = content_of(GOOD[name])
    pixels = shared.decode(data)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (32, 32, 3)
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, here(data))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gives_the_same_error_as_in_this_process(shared: Running, name: str) -> None:
    data = content_of(HOSTILE[name][0])
    with pytest.raises(ImageError) as expected:
        decode(data)
    pids = shared.decoder.pids
    with pytest.raises(ImageError) as found:
        shared.decode(data)
    assert (str(found.value), found.value.fault) == (str(expected.value), expected.value.fault)
    assert shared.decoder.pids == pids


def test_16_megapixels_fit_into_the_memory(shared: Running) -> None:
    wide = png(4_000, 4_000, 16, 6, bytes(4_000 * (1 + 4_000 * 8)))
    assert (shared.decode(wide) == 255).all()


def test_many_at_once_get_their_own_answers(shared: Running) -> None:
    files = [image(number) for number in range(60)]

    async def work() -> list[np.ndarray]:
        return await asyncio.gather(*(shared.pixels(data) for data in files))

    for pixels, data in zip(shared.run(work()), files, strict=True):
        np.testing.assert_array_equal(pixels, here(data))


def test_waiting_callers_are_served_in_order(tight: Running) -> None:
    order = []
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))  # too large to be given to a worker that has one

    async def one(number: int) -> None:
        await tight.pixels(data)
        order.append(number)

    async def work() -> None:
        first, second = tight.decoder.pids
        halt(first)
        halt(second)
        tasks = [asyncio.create_task(one(number)) for number in range(12)]
        await asyncio.sleep(0)
        os.kill(first, signal.SIGCONT)  # the second keeps the one image that it has, so one worker does the others
        await until(lambda: len(order) == 11)
        os.kill(second, signal.SIGCONT)
        await asyncio.gather(*tasks)

    tight.run(work())
    assert order[:11] == sorted(order[:11])


@pytest.mark.parametrize("option", ["workers", "timeout_s", "memory_bytes"])
def test_a_limit_of_nothing_is_refused(option: str) -> None:
    with pytest.raises(SettingError, match=f"{option} is 0"):
        Decoder(**{option: 0})  # type: ignore[arg-type]


# Workers that die, hang or take too much


def test_an_image_whose_worker_was_killed_may_be_sent_again(shared: Running) -> None:
    async def work() -> None:
        pids = shared.decoder.pids
        before = {pid: megabytes(pid, "VmData") for pid in pids}
        task = asyncio.create_task(shared.pixels(LARGE))
        await until(lambda: busy_one(pids, before) is not None)
        os.kill(busy_one(pids, before) or 0, signal.SIGKILL)
        with pytest.raises(OverloadedError, match="was killed. Send it again"):
            await task
        await until(lambda: len(shared.decoder.pids) == 3)

    shared.run(work())


def test_a_spare_takes_the_place_of_a_worker_until_there_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = 0

    def count() -> None:
        nonlocal lost
        lost += 1

    async def work() -> None:
        decoder = Decoder(workers=1, spare=1, on_lost=count)
        await decoder.start()
        try:
            monkeypatch.setattr(subprocess, "Popen", _no_process)
            first, spare = decoder.pids
            os.kill(first, signal.SIGKILL)
            await until(lambda: decoder.pids == [spare])
            decoder.check()
            np.testing.assert_array_equal((await decoder.decode(PNG)).pixels, here(PNG))
        finally:
            await decoder.close()

    asyncio.run(work())
    assert lost == 1


def _no_process(*args: Any, **options: Any) -> Any:
    raise OSError("no more processes")


def test_a_spare_does_not_work_beside_the_others() -> None:
    async def work() -> None:
        decoder = Decoder(workers=1, spare=1)
        await decoder.start()
        try:
            tasks = [asyncio.create_task(decoder.decode(LARGE)) for _ in range(3)]
            while not all(task.done() for task in tasks):
                assert sum(worker.is_working for worker in decoder._workers) <= 1
                await asyncio.sleep(0.01)
        finally:
            await decoder.close()

    asyncio.run(work())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_worker_that_answers_it_is_not_ready_and_recovers(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        decoder = Decoder(workers=1, spare=1, timeout_s=1.5)
        await decoder.start()
        try:
            decoder.check()
            began = time.monotonic()
            for pid in decoder.pids:
                os.kill(pid, number)
            await until(lambda: not is_ready(decoder))
            assert time.monotonic() - began < 2 or number == signal.SIGKILL
            await until(lambda: is_ready(decoder))
            np.testing.assert_array_equal((await decoder.decode(PNG)).pixels, here(PNG))
        finally:
            await decoder.close()

    asyncio.run(work())


def is_ready(decoder: Decoder) -> bool:
    try:
        decoder.check()
    except OverloadedError:
        return False
    return True


def test_workers_killed_one_after_the_other_cost_their_own_images_only(shared: Running) -> None:
    files = [image(number) for number in range(200)]
    before = shared.decoder.pids

    async def work() -> list[np.ndarray | BaseException]:
        tasks = [asyncio.create_task(shared.pixels(data)) for data in files]
        for count, pid in enumerate(before, start=1):
            await until(lambda enough=40 * count: sum(task.done() for task in tasks) >= enough)  # type: ignore[misc]
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await all_back(shared.decoder, 3, *before)
        return answers

    wrong = 0
    for answer, data in zip(shared.run(work()), files, strict=True):
        if isinstance(answer, BaseException):
            assert isinstance(answer, OverloadedError)
            wrong += 1
        else:
            np.testing.assert_array_equal(answer, here(data))
    assert wrong <= len(before)


def test_a_worker_that_dies_over_an_image_is_replaced(shared: Running, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> int:
        pids = shared.decoder.pids
        before = {pid: megabytes(pid, "VmData") for pid in pids}
        task = asyncio.create_task(shared.pixels(LARGE))
        await until(lambda: busy_one(pids, before) is not None)
        pid = busy_one(pids, before)
        assert pid is not None
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(ImageError, match="its decoder crashed") as found:
            await task
        assert found.value.fault == "malformed"
        await all_back(shared.decoder, 3, pid)
        return pid

    pid = shared.run(work())
    assert not is_alive(pid)
    assert f"died over {len(LARGE)} bytes" in caplog.text
    np.testing.assert_array_equal(shared.decode(JPEG), here(JPEG))


def test_an_image_that_a_dying_worker_had_not_read_goes_to_another(shared: Running) -> None:
    async def work() -> list[np.ndarray]:
        pids = shared.decoder.pids
        for pid in pids:
            halt(pid)
        tasks = [asyncio.create_task(shared.pixels(data)) for data in (JPEG, PNG, padded)]
        await asyncio.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*tasks)
        await all_back(shared.decoder, 3, *pids)
        return answers

    padded = content_of(GOOD["as many bytes as are accepted"])
    for pixels, data in zip(shared.run(work()), (JPEG, PNG, padded), strict=True):
        np.testing.assert_array_equal(pixels, here(data))


def test_a_worker_that_hangs_is_replaced(tight: Running) -> None:
    async def work() -> None:
        pids = tight.decoder.pids
        for pid in pids:
            halt(pid)
        answers = await asyncio.gather(*(tight.pixels(PNG) for _ in range(6)), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, ImageError)]
        assert [error.fault for error in errors] == ["too_large"] * 2
        assert "longer than 1 s" in str(errors[0])
        for answer in answers:
            if not isinstance(answer, ImageError):
                np.testing.assert_array_equal(answer, here(PNG))
        await all_back(tight.decoder, 2, *pids)
        await until(lambda: not any(map(is_alive, pids)))

    tight.run(work())


def test_an_image_that_takes_too_much_memory_is_refused(tight: Running) -> None:
    for _ in range(3):
        with pytest.raises(ImageError, match="more than 8 MiB of memory") as found:
            tight.decode(LARGE)
        assert found.value.fault == "too_large"
        np.testing.assert_array_equal(tight.decode(PNG), here(PNG))
    with pytest.raises(ImageError, match="too many to decode"):
        tight.decode(bytes(MEMORY))


def test_no_memory_is_lost_over_files_that_are_cut_or_damaged(tight: Running) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    whole = [encoded(Image.fromarray(pixels), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")]
    whole.append(encoded(Image.fromarray(pixels), "JPEG", progressive=True))
    cut = [data[: len(data) * share // 10] for data in whole for share in (2, 5, 8)]
    damaged = [data[: len(data) // 2] + b"\0\0\0\0" + data[len(data) // 2 + 4 :] for data in whole]

    async def work(rounds: int) -> None:
        for _ in range(rounds):
            found = (tight.pixels(data) for data in (*cut, *damaged))
            assert ImageError in map(type, await asyncio.gather(*found, return_exceptions=True))

    tight.run(work(4))
    before = {pid: megabytes(pid, "VmData") for pid in tight.decoder.pids}
    tight.run(work(20))
    assert {pid: megabytes(pid, "VmData") for pid in tight.decoder.pids} == pytest.approx(before, abs=3)


@pytest.mark.parametrize("after_s", [0, 0.001, 0.05])
def test_callers_that_leave_disturb_nobody(shared: Running, after_s: float) -> None:
    async def work() -> None:
        padded = content_of(GOOD["as many bytes as are accepted"])
        leaving = [asyncio.create_task(shared.pixels(data)) for data in (LARGE, padded, WEBP, LARGE, JPEG)]
        await asyncio.sleep(after_s)
        staying = [asyncio.create_task(shared.pixels(data)) for data in files]
        for task in leaving:
            task.cancel()
        for answer in await asyncio.gather(*leaving, return_exceptions=True):
            assert isinstance(answer, asyncio.CancelledError | np.ndarray)
        for pixels, data in zip(await asyncio.gather(*staying), files, strict=True):
            np.testing.assert_array_equal(pixels, here(data))

    files = [image(number) for number in range(12)]
    pids = shared.decoder.pids
    shared.run(work())
    assert shared.decoder.pids == pids


def test_while_workers_cant_be_replaced_callers_wait(
    tight: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = 0
    start = subprocess.Popen

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal failures
        failures += 1
        if failures <= 3:
            raise OSError("no more processes")
        return start(*args, **options)

    async def work() -> np.ndarray:
        before = tight.decoder.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not tight.decoder.pids)
        pixels = await tight.pixels(PNG)
        await all_back(tight.decoder, 2, *before)
        return pixels

    monkeypatch.setattr(decoder_module, "_RETRY_S", 0.05)
    monkeypatch.setattr(subprocess, "Popen", failing)
    np.testing.assert_array_equal(tight.run(work()), here(PNG))
    assert failures == 5
    said = [record for record in caplog.records if "no more processes" in record.message]
    assert len(said) == 3
    assert {record.levelno for record in said} == {logging.ERROR}


# What a worker is


def test_workers_hold_nothing_but_their_own_socket(shared: Running) -> None:
    for pid in shared.decoder.pids:
        *streams, own = descriptors(pid)
        assert streams == ["/dev/null"] * 3
        assert own.startswith("socket:")
    sockets = [descriptors(pid)[-1] for pid in shared.decoder.pids]
    assert len(set(sockets)) == 3


def test_workers_are_children_without_threads_and_without_torch(shared: Running) -> None:
    for pid in shared.decoder.pids:
        assert parent(pid) == os.getpid()
        assert status(pid, "Threads") == "1"
        assert "torch" not in Path(f"/proc/{pid}/maps").read_text()
        assert megabytes(pid, "VmRSS") < 100


def test_workers_are_limited(tight: Running) -> None:
    for pid in tight.decoder.pids:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
        limits = {line[:25].strip(): line[26:].split()[:2] for line in lines}
        assert limits["Max core file size"] == ["0", "0"]
        assert limits["Max open files"] == ["16", "16"]
        assert limits["Max file size"] == ["0", "0"]
        assert megabytes(pid, "VmData") * 2**20 + MEMORY / 2 < int(limits["Max data size"][1])
        assert status(pid, "NoNewPrivs") == "1"
        assert status(pid, "Seccomp") == "2"
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"


def test_workers_get_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFAR_LIT_API_KEY", "secret")
    monkeypatch.setenv("LANG", "C.UTF-8")
    found = decode_process._environment()
    assert "secret" not in found.values()
    assert found["LANG"] == "C.UTF-8"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_are_ended_by_the_server_only(shared: Running, number: int) -> None:
    pids = shared.decoder.pids
    for pid in pids:
        os.kill(pid, number)
    np.testing.assert_array_equal(shared.decode(WEBP), here(WEBP))
    assert shared.decoder.pids == pids
    assert all(map(is_alive, pids))


def test_memory_and_processes_stay_as_they_were(shared: Running) -> None:
    large = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    whole = [encoded(Image.fromarray(large), kind) for kind in ("PNG", "JPEG", "WEBP")]
    cut = [data[: len(data) * 9 // 10] for data in whole]
    flipped = [data[: len(data) // 2] + b"\0\0\0\0" + data[len(data) // 2 + 4 :] for data in whole]

    async def work(rounds: int) -> None:
        for _ in range(rounds):
            files = (*whole, *cut, *flipped, b"", PNG)
            await asyncio.gather(*(shared.pixels(data) for data in files), return_exceptions=True)

    shared.run(work(6))
    pids, own = shared.decoder.pids, descriptors()
    before = {pid: megabytes(pid, "VmData") for pid in pids}
    shared.run(work(40))
    assert shared.decoder.pids == pids
    assert descriptors() == own
    assert set(pids) <= children(os.getpid())
    for pid in pids:
        assert megabytes(pid, "VmData") < before[pid] + 16


# Its end


def test_close_leaves_nothing_and_may_be_repeated() -> None:
    async def work() -> None:
        descriptors_before, children_before = descriptors(), children(os.getpid())
        decoder = Decoder(workers=2)
        with pytest.raises(RuntimeError, match="not running"):
            await decoder.decode(PNG)
        await decoder.start()
        pids = decoder.pids
        tasks = [asyncio.create_task(decoder.decode(data)) for data in (LARGE, LARGE, PNG)]
        await asyncio.sleep(0)
        await decoder.close()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(answer, RuntimeError)
        await decoder.close()
        assert decoder.pids == []
        assert not any(map(is_alive, pids))
        assert children(os.getpid()) == children_before
        assert descriptors() == descriptors_before
        with pytest.raises(RuntimeError, match="not running"):
            await decoder.decode(PNG)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_a_decoder_that_cant_start_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        before, children_before = descriptors(), children(os.getpid())
        with pytest.raises(OSError, match="ended at once"):
            await Decoder().start()
        assert set(descriptors()) <= set(before)  # those of tests before this one may go meanwhile
        assert set(children(os.getpid())) <= set(children_before)

    monkeypatch.setattr(decode_process.sys, "executable", "/bin/false")
    asyncio.run(work())


def test_workers_end_when_the_server_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    # Without a guard: nobody may run the server's main program again.
    script.write_text(
        "import asyncio\n"
        "from pathlib import Path\n"
        "from cifar_lit.inference.decoder import Decoder\n"
        "with Path(__file__).with_name('runs').open('a') as file:\n"
        "    file.write('.')\n"
        "async def main():\n"
        "    decoder = Decoder(workers=2)\n"
        "    await decoder.start()\n"
        "    data = Path(__file__).with_name('large').read_bytes()\n"
        "    work = asyncio.create_task(decoder.decode(data))\n"
        "    print(*decoder.pids, flush=True)\n"
        "    await asyncio.sleep(1000)\n"
        "asyncio.run(main())\n"
    )
    (tmp_path / "large").write_bytes(LARGE)
    with subprocess.Popen([sys.executable, "server.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            pids = [int(word) for word in server.stdout.readline().split()]
            assert len(pids) == 2
        finally:
            server.kill()
    end = time.monotonic() + PATIENCE_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (tmp_path / "runs").read_text() == "."
