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
        max_batch_size: most images that the model sees at once.
        max_pending: most images that may be on their way through decoder and model; more are turned away.
        deadline_s: seconds within which an image must be classified.
    """

    max_batch_size: int = 16
    max_pending: int = 64
    deadline_s: float = 10.0


@dataclass(frozen=True)
class ServedPrediction:
    """A prediction, and what it took.

    Attributes:
        prediction: of the version that it names.
        pixels: uint8 (32, 32, 3), what the network saw.
        note: what of the file was not looked at; empty if nothing was left.
        decode_s: seconds until the image was decoded, waiting for a worker included.
        queue_s: seconds that it waited for the model.
        model_s: seconds that its batch took.
        batch_size: images in its batch.
    """

    prediction: Prediction
    pixels: Pixels = field(repr=False)
    decode_s: float
    queue_s: float
    model_s: float
    batch_size: int
    note: str = ""


class Service:
    """Classifies images.

    Args:
        champion: what is served.
        decoder: where bytes become pixels.
        limits: how much is taken on.
        on_prediction: called with each prediction.
    """

    def __init__(
        self,
        champion: Champion,
        decoder: Decoder,
        limits: Limits = Limits(),  # noqa: B008
        on_prediction: Callable[[ServedPrediction], None] = lambda served: None,
    ) -> None:
        self.champion = champion
        self.limits = limits
        self._decoder = decoder
        self._on_prediction = on_prediction
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
        """Images on their way."""
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
        """Tells early whether `count` images would be turned away.

        Raises:
            InputError: more than are ever taken at once.
            OverloadedError: too many are on their way, there is nothing to serve yet, or the server is stopping.
        """
        if count > self.limits.max_pending:
            raise InputError(
                f"these are {count} images, at most {self.limits.max_pending} are taken at once. Send them in parts.",
                "too_large",
            )
        if self._draining:
            raise OverloadedError("the server is stopping. Send it again.")
        self.champion.serving  # raises if there is none  # noqa: B018
        if self._pending + count > self.limits.max_pending:
            raise OverloadedError(
                f"{self._pending} images are being classified, at most {self.limits.max_pending} are. Send it again a "
                "little later."
            )

    async def predict(self, data: bytes) -> ServedPrediction:
        """Classifies an image file.

        Raises:
            ImageError: it can't be decoded.
            OverloadedError: see `check_room`.
            DeadlineError: it took too long.
        """
        with self._taken(1):
            return await self._in_time(self._file(data))

    async def predict_all(self, files: Sequence[bytes] = (), images: Sequence[Pixels] = ()) -> list[ServedPrediction]:
        """Classifies several image files, or images, each uint8 (32, 32, 3); all of them by one version, or none.

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

    async def explain(self, data: bytes) -> tuple[ServedPrediction, npt.NDArray[np.float32]]:
        """Classifies an image file, and says where the network looked: see `Predictor.heat_map`.

        Raises:
            ImageError, OverloadedError, DeadlineError: as `predict`.
        """
        with self._taken(1):
            return await self._in_time(self._explained(data))

    async def _by_one_version(self, work: Sequence[Awaitable[ServedPrediction]]) -> list[ServedPrediction]:
        results = await _all(work)
        while len({result.prediction.version for result in results}) > 1:  # the champion changed between batches
            results = await _all([self._pixels(result.pixels, time.monotonic(), result.note) for result in results])
        return results

    async def _explained(self, data: bytes) -> tuple[ServedPrediction, npt.NDArray[np.float32]]:
        result = await self._file(data)
        predictor = self.champion.serving.predictor
        while predictor.version != result.prediction.version:  # the champion changed meanwhile
            result = await self._pixels(result.pixels, time.monotonic(), result.note)
            predictor = self.champion.serving.predictor
        heat = await self._batcher.call(lambda: predictor.heat_map(result.pixels, result.prediction.prediction))
        return result, heat

    async def _file(self, data: bytes) -> ServedPrediction:
        began = time.monotonic()
        decoded = await self._decoder.decode(data)
        return await self._pixels(decoded.pixels, began, decoded.note)

    async def _pixels(self, image: Pixels, began: float, note: str = "") -> ServedPrediction:
        decode_s = time.monotonic() - began
        done: Done[Prediction] = await self._batcher.submit(image)
        result = ServedPrediction(done.result, image, decode_s, done.queue_s, done.run_s, done.batch_size, note)
        self._on_prediction(result)
        return result

    def _run(self, images: list[Pixels]) -> list[Prediction]:
        predictor = self.champion.serving.predictor  # once a batch: a batch has one version
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
            raise DeadlineError(f"no prediction within {self.limits.deadline_s:g} s. Send it again later.") from error


async def _all(work: Sequence[Awaitable[ServedPrediction]]) -> list[ServedPrediction]:
    """All results, in order; the first error if there is one, when all have ended."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for number, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome, ImageError) and len(outcomes) > 1:
            raise ImageError(f"image {number} of {len(outcomes)}: {outcome}", outcome.fault) from outcome
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if isinstance(outcome, ServedPrediction)]
