"""One model, one queue, one limit: what REST and the page both ask. Knows nothing of HTTP.

bytes -> Decoder (worker processes) -> pixels -> MicroBatcher (one thread) -> Prediction
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cifar_lit.errors import DeadlineError, ImageError, InputError, OverloadedError
from cifar_lit.inference.batcher import Done, MicroBatcher
from cifar_lit.inference.champion import Champion
from cifar_lit.inference.decoder import Decoder
from cifar_lit.inference.predictor import Prediction

Pixels = npt.NDArray[np.uint8]

Value = TypeVar("Value")


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Attributes:
        max_batch_size: most pictures that the model sees at once.
        max_pending: most pictures that may be on their way through decoder and model; more are turned away.
        deadline_s: seconds within which a picture must be answered.
    """

    max_batch_size: int = 16
    max_pending: int = 64
    deadline_s: float = 10.0


@dataclass(frozen=True)
class Answer:
    """A prediction, and what it took.

    Attributes:
        prediction: of the version that it names.
        pixels: uint8 (32, 32, 3), what the network saw.
        note: what of the file was not looked at; empty if nothing was left.
        decode_s: seconds until the picture was decoded, waiting for a worker included.
        queue_s: seconds that it waited for the model.
        model_s: seconds that its batch took.
        batch_size: pictures in its batch.
    """

    prediction: Prediction
    pixels: Pixels = field(repr=False)
    decode_s: float
    queue_s: float
    model_s: float
    batch_size: int
    note: str = ""


class Service:
    """Answers pictures.

    Args:
        champion: what answers.
        decoder: where bytes become pixels.
        limits: how much is taken on.
        on_answer: called with each answer.
    """

    def __init__(
        self,
        champion: Champion,
        decoder: Decoder,
        limits: Limits = Limits(),  # noqa: B008
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> None:
        self.champion = champion
        self.limits = limits
        self._decoder = decoder
        self._on_answer = on_answer
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._batcher: MicroBatcher[Pixels, Prediction] = MicroBatcher(
            self._run,
            max_batch_size=limits.max_batch_size,
            max_waiting=limits.max_pending,
            max_age_s=limits.deadline_s,
        )

    @property
    def pending(self) -> int:
        """Pictures on their way."""
        return self._pending

    async def start(self) -> None:
        await asyncio.gather(self._decoder.start(), self.champion.start())

    async def close(self) -> None:
        """Takes nothing more, and finishes what was taken."""
        self._draining = True
        await self._idle.wait()
        await self.champion.close()
        await self._batcher.close()
        await self._decoder.close()

    def check_room(self, count: int = 1) -> None:
        """Tells early whether `count` pictures would be turned away.

        Raises:
            InputError: more than are ever taken at once.
            OverloadedError: too many are on their way, there is nothing to serve yet, or the server is stopping.
        """
        if count > self.limits.max_pending:
            raise InputError(
                f"these are {count} pictures, at most {self.limits.max_pending} are taken at once. Send them in parts.",
                "too_large",
            )
        if self._draining:
            raise OverloadedError("the server is stopping. Send it again.")
        self.champion.serving  # raises if there is none  # noqa: B018
        if self._pending + count > self.limits.max_pending:
            raise OverloadedError(
                f"{self._pending} pictures are being answered, at most {self.limits.max_pending} are. Send it again a "
                "little later."
            )

    async def predict(self, data: bytes) -> Answer:
        """Answers an image file.

        Raises:
            ImageError: it can't be decoded.
            OverloadedError: see `check_room`.
            DeadlineError: it took too long.
        """
        with self._taken(1):
            return await self._in_time(self._file(data))

    async def predict_all(self, files: Sequence[bytes] = (), images: Sequence[Pixels] = ()) -> list[Answer]:
        """Answers several image files, or pictures, each uint8 (32, 32, 3); all of them by one version, or none.

        Raises:
            ImageError: one can't be decoded; the message says which.
            InputError, OverloadedError: see `check_room`.
            DeadlineError: it took too long.
        """
        with self._taken(len(files) + len(images)):
            work = [self._file(data) for data in files] + [self._pixels(image, time.monotonic()) for image in images]
            return await self._in_time(self._by_one_version(work))

    async def decode(self, data: bytes) -> Pixels:
        """The uint8 (32, 32, 3) pixels of an image file, as the network would see them.

        Raises:
            ImageError, OverloadedError, DeadlineError: as `predict`.
        """
        with self._taken(1):
            return (await self._in_time(self._decoder.decode(data))).pixels

    async def explain(self, data: bytes) -> tuple[Answer, npt.NDArray[np.float32]]:
        """Answers an image file, and says where the network looked: see `Predictor.heat_map`.

        Raises:
            ImageError, OverloadedError, DeadlineError: as `predict`.
        """
        with self._taken(1):
            return await self._in_time(self._explained(data))

    async def _by_one_version(self, work: Sequence[Awaitable[Answer]]) -> list[Answer]:
        answers = await _all(work)
        while len({answer.prediction.version for answer in answers}) > 1:  # the champion changed between batches
            answers = await _all([self._pixels(answer.pixels, time.monotonic(), answer.note) for answer in answers])
        return answers

    async def _explained(self, data: bytes) -> tuple[Answer, npt.NDArray[np.float32]]:
        answer = await self._file(data)
        predictor = self.champion.serving.predictor
        while predictor.version != answer.prediction.version:  # the champion changed meanwhile
            answer = await self._pixels(answer.pixels, time.monotonic(), answer.note)
            predictor = self.champion.serving.predictor
        heat = await self._batcher.call(lambda: predictor.heat_map(answer.pixels, answer.prediction.prediction))
        return answer, heat

    async def _file(self, data: bytes) -> Answer:
        began = time.monotonic()
        decoded = await self._decoder.decode(data)
        return await self._pixels(decoded.pixels, began, decoded.note)

    async def _pixels(self, image: Pixels, began: float, note: str = "") -> Answer:
        decode_s = time.monotonic() - began
        done: Done[Prediction] = await self._batcher.submit(image)
        answer = Answer(done.result, image, decode_s, done.queue_s, done.run_s, done.batch_size, note)
        self._on_answer(answer)
        return answer

    def _run(self, images: list[Pixels]) -> list[Prediction]:
        predictor = self.champion.serving.predictor  # once a batch: a batch is answered by one version
        return predictor.predict(np.stack(images))

    @contextmanager
    def _taken(self, count: int) -> Iterator[None]:
        self.check_room(count)
        self._pending += count
        self._idle.clear()
        try:
            yield
        finally:
            self._pending -= count
            if not self._pending:
                self._idle.set()

    async def _in_time(self, work: Awaitable[Value]) -> Value:
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                return await work
        except TimeoutError as error:
            raise DeadlineError(f"no answer within {self.limits.deadline_s:g} s. Send it again later.") from error


async def _all(work: Sequence[Awaitable[Answer]]) -> list[Answer]:
    """All answers, in order; the first error if there is one, when all have ended."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for number, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, ImageError) and len(outcomes) > 1:
            raise ImageError(f"picture {number} of {len(outcomes)}: {outcome}", outcome.fault) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Answer)]
