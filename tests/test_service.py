import asyncio
import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from broken_versions import point_at
from torchvision.io import encode_jpeg, encode_png

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import DeadlineError, ImageError, InputError, OverloadedError
from cifar_lit.inference.champion import Champion
from cifar_lit.inference.decode_process import NetworkImage
from cifar_lit.inference.decoder import Decoder
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.inference.service import Limits, Pixels, ServedPrediction, Service
from cifar_lit.registry.registry import Registry

PATIENCE_S = 60.0
"""Only a failing test waits for so long."""
BAD = b"bad"
SIZE = 32 * 32 * 3
IMAGES = torch.randint(256, (48, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FILES = [image.numpy().tobytes() for image in IMAGES]
"""What `Raw` decodes."""


class Raw:
    """A decoder of raw pixels; it can be held up."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.closed = False

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True

    async def decode(self, data: bytes) -> NetworkImage:
        await self.open.wait()
        assert not self.closed
        if data == BAD:
            raise ImageError("it is no image.", "unsupported")
        return NetworkImage(np.frombuffer(data, np.uint8).reshape(32, 32, 3).copy(), "")


class Fixed:
    """Answers with its name as version, as soon as it may; tells that it has begun."""

    class_names = list(CLASS_NAMES)

    def __init__(self, version: str, after_batch: Callable[[], None] = lambda: None) -> None:
        self.version = version
        self.batches: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self._after_batch = after_batch

    def predict(self, images: Pixels) -> list[Prediction]:
        self.begun.set()
        assert self.may_answer.wait(PATIENCE_S)
        self.batches.append(len(images))
        if self.error:
            raise self.error
        probs = dict.fromkeys(CLASS_NAMES, 0.1)
        self._after_batch()
        return [Prediction("cat", 0.1, probs, self.version) for _ in images]

    def heat_map(self, image: Pixels, class_name: str) -> tuple[str, str, int]:
        return self.version, class_name, int(image[0, 0, 0])


class Stage:
    """A champion that is changed by hand."""

    def __init__(self, *predictors: Fixed) -> None:
        self.predictors = list(predictors)
        self.ready = True

    @property
    def serving(self) -> SimpleNamespace:
        if not self.ready:
            raise OverloadedError("no version can be served yet.")
        return SimpleNamespace(predictor=self.predictors[0])

    def change(self) -> None:
        if len(self.predictors) > 1:
            self.predictors.pop(0)

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Play:
    """A service with a decoder and a model that do as they are told."""

    def __init__(self, *predictors: Fixed, **limits: Any) -> None:
        self.decoder = Raw()
        self.stage = Stage(*(predictors or (Fixed("v0001"),)))
        self.model = self.stage.predictors[0]
        self.answers: list[ServedPrediction] = []
        self.service = Service(self.stage, self.decoder, Limits(**limits), self.answers.append)  # type: ignore[arg-type]


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Runs a test in an event loop, and sees to it that no task and no thread of the model is left."""

    async def watched() -> None:
        await asyncio.wait_for(test(), 4 * PATIENCE_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a task is left"

    asyncio.run(watched())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model")], "a thread is left"


def begin(calls: Sequence[Awaitable[Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.ensure_future(call) for call in calls]


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# How much is taken


@pytest.mark.parametrize("limit", [1, 3, 64])
def test_exactly_max_pending_are_on_their_way_and_one_more_is_turned_away_at_once(limit: int) -> None:
    async def test() -> None:
        play = Play(max_pending=limit)
        service = play.service
        for _ in range(2):
            play.decoder.open.clear()
            tasks = begin([service.predict(FILES[0]) for _ in range(limit)])
            await ticks()
            assert service.pending == limit
            [extra] = begin([service.predict(FILES[0])])
            await ticks(1)
            assert extra.done(), "it is turned away while the others are on their way"
            with pytest.raises(
                OverloadedError, match=f"{limit} images are being classified, at most {limit} are. Send"
            ):
                await extra
            with pytest.raises(OverloadedError):
                service.check_room()
            assert service.pending == limit
            play.decoder.open.set()
            assert len(await asyncio.gather(*tasks)) == limit
            assert service.pending == 0
        await service.close()

    run(test)


def test_the_limit_holds_while_the_model_is_busy() -> None:
    async def test() -> None:
        play = Play(max_pending=5, max_batch_size=2)
        play.model.may_answer.clear()
        tasks = begin([play.service.predict(FILES[0]) for _ in range(5)])
        assert await asyncio.to_thread(play.model.begun.wait, PATIENCE_S)
        await ticks()
        with pytest.raises(OverloadedError, match="5 images are being classified"):
            await play.service.predict(FILES[0])
        # The place of one who leaves while he waits for the model is free for another.
        tasks.pop().cancel()
        await ticks()
        assert play.service.pending == 4
        tasks += begin([play.service.predict(FILES[0])])
        await ticks()
        play.model.may_answer.set()
        assert len(await asyncio.gather(*tasks)) == 5
        await play.service.close()

    run(test)


def test_several_images_are_taken_together_or_not_at_all() -> None:
    async def test() -> None:
        play = Play(max_pending=4)
        service = play.service
        play.decoder.open.clear()
        tasks = begin([service.predict_all(FILES[:3])])
        await ticks()
        assert service.pending == 3
        with pytest.raises(OverloadedError, match="3 images are being classified, at most 4 are"):
            await service.predict_all(FILES[:2])
        assert service.pending == 3
        tasks += begin([service.predict_all(images=[IMAGES[0].numpy()])])
        await ticks()
        assert service.pending == 4
        play.decoder.open.set()
        assert [len(answers) for answers in await asyncio.gather(*tasks)] == [3, 1]
        assert service.pending == 0
        await service.close()

    run(test)


def test_more_than_are_ever_taken_is_no_matter_of_waiting() -> None:
    async def test() -> None:
        play = Play(max_pending=4)
        with pytest.raises(InputError, match="these are 5 images, at most 4 are taken at once. Send them") as caught:
            await play.service.predict_all(FILES[:5])
        assert caught.value.fault == "too_large"
        assert len(await play.service.predict_all(FILES[:4])) == 4
        assert await play.service.predict_all() == []
        await play.service.close()

    run(test)


def test_nothing_is_taken_before_there_is_a_version() -> None:
    async def test() -> None:
        play = Play()
        play.stage.ready = False
        with pytest.raises(OverloadedError, match="no version can be served yet"):
            play.service.check_room(0)
        for call in (play.service.predict(FILES[0]), play.service.predict_all(FILES), play.service.explain(FILES[0])):
            with pytest.raises(OverloadedError, match="no version can be served yet"):
                await call
        play.stage.ready = True
        play.service.check_room(0)
        await play.service.predict(FILES[0])
        await play.service.close()

    run(test)


# What goes wrong on the way


async def check_free(play: Play) -> None:
    """Nothing is on its way any more, and there is room for as many as ever."""
    assert play.service.pending == 0
    play.service.check_room(play.service.limits.max_pending)
    answer = await play.service.predict(FILES[7])
    assert answer.prediction.version == "v0001"
    assert answer.pixels.tobytes() == FILES[7]
    await play.service.close()


def test_errors_leave_nothing_pending() -> None:
    async def test() -> None:
        play = Play(max_pending=3)
        for _ in range(5):
            with pytest.raises(ImageError, match="^it is no image.$"):
                await play.service.predict(BAD)
            with pytest.raises(ImageError):
                await play.service.explain(BAD)
            with pytest.raises(ImageError):
                await play.service.predict_all([FILES[0], BAD])
        play.model.error = RuntimeError("the model failed")
        for _ in range(5):
            with pytest.raises(RuntimeError, match="the model failed"):
                await play.service.predict_all(FILES[:3])
        play.model.error = None
        await check_free(play)

    run(test)


@pytest.mark.parametrize("where", ["decoder", "model"])
def test_callers_who_leave_leave_nothing_pending(where: str) -> None:
    async def test() -> None:
        play = Play(max_pending=6, max_batch_size=2)
        if where == "decoder":
            play.decoder.open.clear()
        else:
            play.model.may_answer.clear()
        calls = [play.service.predict(FILES[0]), play.service.predict_all(FILES[:4]), play.service.explain(FILES[0])]
        tasks = begin(calls)
        await ticks(10)
        assert play.service.pending == 6
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert play.service.pending == 0
        play.decoder.open.set()
        play.model.may_answer.set()
        await check_free(play)
        assert len(play.answers) == 1, "nobody is answered who has left"

    run(test)


@pytest.mark.parametrize("where", ["decoder", "model"])
def test_deadlines_leave_nothing_pending(where: str) -> None:
    async def test() -> None:
        play = Play(max_pending=6, max_batch_size=2, deadline_s=0.05)
        if where == "decoder":
            play.decoder.open.clear()
        else:
            play.model.may_answer.clear()
        calls = [play.service.predict(FILES[0]), play.service.predict_all(FILES[:4]), play.service.explain(FILES[0])]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["no prediction within 0.05 s. Send it again later."] * 3
        assert {type(outcome) for outcome in outcomes} == {DeadlineError}
        assert play.service.pending == 0
        play.decoder.open.set()
        play.model.may_answer.set()
        await play.service.close()
        assert not play.answers

    run(test)


@pytest.mark.parametrize(("bad", "number"), [({0}, 1), ({2}, 3), ({4}, 5), ({1, 3}, 2)])
def test_of_several_images_the_bad_one_is_named_and_none_is_answered(bad: set[int], number: int) -> None:
    async def test() -> None:
        play = Play()
        files = [BAD if index in bad else FILES[index] for index in range(5)]
        with pytest.raises(ImageError, match=f"^image {number} of 5: it is no image") as caught:
            await play.service.predict_all(files)
        assert caught.value.fault == "unsupported"
        await check_free(play)

    run(test)


def test_a_bad_image_of_another_caller_changes_nothing() -> None:
    async def test() -> None:
        play = Play()
        outcomes = await asyncio.gather(
            *(play.service.predict(data) for data in (FILES[0], BAD, FILES[1], BAD, FILES[2])), return_exceptions=True
        )
        assert [type(outcome) is ImageError for outcome in outcomes] == [False, True, False, True, False]
        await check_free(play)

    run(test)


# Which version answers


def test_several_images_are_answered_by_one_version_though_the_champion_changes_between_batches() -> None:
    async def test() -> None:
        predictors = [Fixed(f"v000{number}", lambda: play.stage.change()) for number in (1, 2, 3)]
        play = Play(*predictors, max_batch_size=2)
        answers = await play.service.predict_all(FILES[:3], [IMAGES[5].numpy()])
        assert {answer.prediction.version for answer in answers} == {"v0003"}
        assert [answer.pixels.tobytes() for answer in answers] == [*FILES[:3], FILES[5]]
        assert predictors[0].batches
        await play.service.close()

    run(test)


def test_an_explanation_is_of_the_version_that_answered_though_the_champion_changes() -> None:
    async def test() -> None:
        predictors = [Fixed(f"v000{number}", lambda: play.stage.change()) for number in (1, 2, 3)]
        play = Play(*predictors)
        answer, heat = await play.service.explain(FILES[3])
        assert heat == ("v0003", "cat", int(IMAGES[3, 0, 0, 0]))
        assert answer.prediction.version == "v0003"
        await play.service.close()

    run(test)


# The end


@pytest.mark.parametrize("where", ["decoder", "model"])
def test_close_finishes_what_is_on_its_way_and_takes_nothing_more(where: str) -> None:
    async def test() -> None:
        play = Play(max_batch_size=2)
        service = play.service
        if where == "decoder":
            play.decoder.open.clear()
        else:
            play.model.may_answer.clear()
        tasks = begin([service.predict(FILES[0]), service.predict_all(FILES[:4]), service.explain(FILES[3])])
        await ticks(10)
        closing = asyncio.create_task(service.close())
        await ticks()
        with pytest.raises(OverloadedError, match="the server is stopping"):
            service.check_room(0)
        for call in (service.predict(FILES[0]), service.predict_all(FILES[:2]), service.explain(FILES[0])):
            with pytest.raises(OverloadedError, match="the server is stopping. Send it again"):
                await call
        assert not closing.done()
        assert not play.decoder.closed
        play.decoder.open.set()
        play.model.may_answer.set()
        await closing
        assert play.decoder.closed
        one, several, (explained, _) = await asyncio.gather(*tasks)
        assert [answer.pixels.tobytes() for answer in (one, *several, explained)] == [FILES[0], *FILES[:4], FILES[3]]
        assert service.pending == 0

    run(test)


# With the real decoder and real versions


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with two promoted versions that answer differently; v0001 is the champion. Not to be changed."""
    from conftest import publish as publish_fixture

    registry = Registry(tmp_path_factory.mktemp("two") / "checkpoints")
    publish = publish_fixture.__wrapped__(registry)  # type: ignore[attr-defined]
    publish(1, promote=True)
    publish(2, promote=True)
    point_at(registry.root / "v0001")
    return registry.root


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Registry:
    shutil.copytree(two, tmp_path / "checkpoints")
    return Registry(tmp_path / "checkpoints")


def images() -> list[bytes]:
    """Files of several formats and sizes."""
    scene = IMAGES[:40].permute(0, 3, 1, 2)
    files = []
    for index, image in enumerate(scene):
        enlarged = image.repeat_interleave(1 + index % 3, 1).repeat_interleave(1 + index % 4, 2)
        encoded = encode_png(enlarged) if index % 2 else encode_jpeg(enlarged, 90)
        files.append(encoded.numpy().tobytes())
    return files


def test_answers_are_the_predictors_whatever_the_batch(copy: Registry) -> None:
    """With worker processes that decode, and a real network; bad files among the good."""
    files = images()
    predictor = Predictor.from_version(copy.get("v0001"))
    expected = [predictor.predict_bytes(data) for data in files]

    def check(answers: Sequence[ServedPrediction], wanted: Sequence[Prediction]) -> None:
        for answer, prediction in zip(answers, wanted, strict=True):
            assert answer.prediction.version == "v0001"
            assert answer.prediction.prediction == prediction.prediction
            assert answer.prediction.probabilities == pytest.approx(prediction.probabilities, abs=1e-6)
            assert (answer.pixels.shape, answer.pixels.dtype) == ((32, 32, 3), np.uint8)
            assert min(answer.decode_s, answer.queue_s, answer.model_s) >= 0

    async def test() -> None:
        told: list[ServedPrediction] = []
        service = Service(Champion(copy, poll_s=0.01), Decoder(workers=2), Limits(max_batch_size=7), told.append)
        await service.start()
        try:
            service.check_room(0)
            singly = [await service.predict(data) for data in files[:5]]
            check(singly, expected[:5])
            assert {answer.batch_size for answer in singly} == {1}
            check(await asyncio.gather(*map(service.predict, files)), expected)
            together = await service.predict_all(files)
            check(together, expected)
            decoded = await service.predict_all(images=[answer.pixels for answer in together])
            check(decoded, expected)
            assert max(answer.batch_size for answer in decoded) == 7
            explained, heat = await service.explain(files[9])
            check([explained], [expected[9]])
            shown = predictor.heat_map(explained.pixels, expected[9].prediction)
            assert np.array_equal(heat, shown)
            assert len(told) == 5 + 40 + 40 + 40 + 1
            with pytest.raises(ImageError, match="image 2 of 3: this is a text, expected a JPEG"):
                await service.predict_all([files[0], b"hello", files[1]])
            with pytest.raises(ImageError):
                await service.predict(files[0][:-40])
            assert service.pending == 0
            leaving = begin([service.predict(data) for data in files])
            await ticks(2)
            for task in leaving[::2]:
                task.cancel()
            answers = await asyncio.gather(*leaving[1::2])
            check(answers, expected[1::2])
            assert service.pending == 0
            last = begin([service.predict(data) for data in files])
            await ticks(1)
        finally:
            await service.close()
        check(await asyncio.gather(*last), expected)

    run(test)


def change_champions(registry: Registry, *, num_changes: int, num_requests: int) -> None:
    """Asks without a pause while the champion changes, and holds each answer against the version that it names."""
    probs = {
        version_id: np.array(
            [
                list(each.probabilities.values())
                for each in Predictor.from_version(registry.get(version_id)).predict(IMAGES.numpy())
            ]
        )
        for version_id in ("v0001", "v0002")
    }
    assert np.abs(probs["v0001"] - probs["v0002"]).max(1).min() > 0.01, "the two can be told apart by any image"

    async def test() -> None:
        changes: asyncio.Queue[str] = asyncio.Queue()
        champion = Champion(
            registry,
            warm=(1, 16),
            poll_s=0.002,
            on_change=lambda serving: changes.put_nowait(serving.predictor.version),
        )
        service = Service(champion, Raw(), Limits(max_pending=64))  # type: ignore[arg-type]
        await service.start()
        answered: Counter[str] = Counter()
        sizes: Counter[int] = Counter()
        numbers = itertools.count()
        changing = True

        def check(answer: ServedPrediction, index: int) -> None:
            row = np.array(list(answer.prediction.probabilities.values()))
            assert np.abs(row - probs[answer.prediction.version][index]).max() < 1e-6
            answered[answer.prediction.version] += 1
            sizes[answer.batch_size] += 1

        async def ask() -> None:
            while changing or answered.total() < num_requests:
                number = next(numbers)
                index = number % len(FILES)
                if number % 10:
                    check(await service.predict(FILES[index]), index)
                else:
                    answers = await service.predict_all(FILES[index : index + 3])
                    assert len({answer.prediction.version for answer in answers}) == 1
                    for offset, answer in enumerate(answers):
                        check(answer, index + offset)

        async def change() -> None:
            nonlocal changing
            assert await changes.get() == "v0001"
            for number in range(1, num_changes + 1):
                named = ("v0001", "v0002")[number % 2]
                await asyncio.to_thread(registry.promote, named, "the next")
                assert await changes.get() == named
                while answered.total() < number * num_requests // num_changes:
                    await asyncio.sleep(0.001)
            changing = False

        async with asyncio.TaskGroup() as group:
            group.create_task(change())
            for _ in range(16):
                group.create_task(ask())
        assert changes.empty()
        assert champion.refusal is None
        assert answered.total() >= num_requests
        assert min(answered["v0001"], answered["v0002"]) > num_requests // 4
        assert max(sizes) > 1
        assert service.pending == 0
        await service.close()

    run(test)


def test_20_changes_during_2000_requests_and_each_answer_is_of_the_version_it_names(copy: Registry) -> None:
    change_champions(copy, num_changes=20, num_requests=2000)


@pytest.mark.slow
def test_200_changes_during_100000_requests_and_each_answer_is_of_the_version_it_names(copy: Registry) -> None:
    change_champions(copy, num_changes=200, num_requests=100_000)
