"""Clients that a server has to serve rightly whatever else happens to it: programs, the page, monitoring.

Every response is checked: its status, and for an image its probabilities, which are those of the version that it names.
"""

import asyncio
import io
import itertools
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from pace import at_rate
from PIL import Image
from visitor import PATIENCE_S, Visitor, WrongError, checked, client

ADDRESS = "127.0.0.2"
TOLERANCE = 1e-6
MOST_AT_ONCE = 200
OPEN_PAGES = 8

Probabilities = dict[str, float]
Ask = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """Of one request.

    Attributes:
        at: seconds since the clients began.
        kind: of client.
        seconds: until its response was read.
        wrong: what was wrong with it; empty if nothing was.
    """

    at: float
    kind: str
    seconds: float
    wrong: str = ""


@dataclass(frozen=True)
class KnownImage:
    """A file, and what each version says of it."""

    name: str
    data: bytes = field(repr=False)
    predictions: dict[str, Probabilities] = field(repr=False)

    def check(self, version: str, found: Probabilities) -> None:
        if version not in self.predictions:
            raise WrongError(f"served by {version}, which was never promoted")
        expected = self.predictions[version]
        if found.keys() != expected.keys() or max(abs(found[name] - expected[name]) for name in found) > TOLERANCE:
            raise WrongError(f"not the probabilities of {version}")


class GoodClients:
    """All of them, at rates that do not depend on the responses.

    Args:
        port: of the server, on this machine.
        small: images of 32x32.
        photograph: of some 32 kB.
        large: a photograph of 12 megapixels.
        folder: for the file that `gradio_client` sends.

    Attributes:
        outcomes: of all requests.
    """

    def __init__(
        self, port: int, small: list[KnownImage], photograph: KnownImage, large: KnownImage, folder: Path
    ) -> None:
        self.outcomes: list[Outcome] = []
        self._url = f"http://127.0.0.1:{port}"
        self._small: Iterator[KnownImage] = itertools.cycle(small)
        self._photograph, self._large = photograph, large
        self._path = folder / photograph.name
        self._path.write_bytes(photograph.data)
        self.kinds: dict[str, tuple[float, Ask]] = {
            "32x32": (10, self._predict_small),
            "photograph": (4, self._predict_photograph),
            "12 Mpx": (0.1, self._predict_large),
            "inference protocol": (1, self._infer),
            "page: run": (3, self._page_run),
            "page: queue": (1, self._page_queue),
            "page: opened": (1, self._page_open),
            "gradio_client": (0.2, self._gradio_client),
            **{path: (2, lambda path=path: self._get(path)) for path in ("/ready", "/version", "/metrics", "/health")},
        }
        """By name: requests a second, and what makes one. 28.3 a second in all."""

    async def run(self, began: float, until: asyncio.Event) -> None:
        async with client(self._url, ADDRESS) as self._http:
            self._visitor = Visitor(self._http)
            await self._visitor.open()
            self._gradio = await asyncio.to_thread(
                Client, self._url, verbose=False, httpx_kwargs={"timeout": PATIENCE_S}
            )
            async with asyncio.TaskGroup() as group:
                for _ in range(OPEN_PAGES):
                    group.create_task(self._stay(until))
                for kind, (per_second, ask) in self.kinds.items():
                    group.create_task(self._repeat(kind, per_second, ask, began, until))
            await asyncio.to_thread(self._gradio.close)

    async def _repeat(self, kind: str, per_second: float, ask: Ask, began: float, until: asyncio.Event) -> None:
        async def one() -> None:
            start, wrong = time.monotonic(), ""
            try:
                await ask()
            except (httpx.HTTPError, WrongError) as error:
                wrong = str(error) or type(error).__name__
            except Exception as error:  # what a client does not understand is wrong as well
                wrong = f"{type(error).__name__}: {error}"[:300]
            self.outcomes.append(Outcome(start - began, kind, time.monotonic() - start, wrong))

        def full() -> None:
            self.outcomes.append(Outcome(time.monotonic() - began, kind, 0, f"{MOST_AT_ONCE} are on their way"))

        await at_rate(per_second, until, one, most_at_once=MOST_AT_ONCE, on_full=full)

    async def _predict(self, image: KnownImage, **sent: Any) -> None:
        found = (await checked(self._http.post("/predict", **sent))).json()
        image.check(found["version"], found["probabilities"])

    async def _predict_small(self) -> None:
        image = next(self._small)
        await self._predict(image, content=image.data, headers={"Content-Type": "image/jpeg"})

    async def _predict_photograph(self) -> None:
        await self._predict(self._photograph, files={"file": (self._photograph.name, self._photograph.data)})

    async def _predict_large(self) -> None:
        await self._predict(self._large, content=self._large.data, headers={"Content-Type": "image/jpeg"})

    async def _infer(self) -> None:
        image = self._photograph
        size = len(image.data) + 4
        tensor = {
            "name": "image",
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": size},
        }
        head = json.dumps({"inputs": [tensor]}).encode()
        body = head + len(image.data).to_bytes(4, "little") + image.data
        headers = {"Inference-Header-Content-Length": str(len(head))}
        response = await checked(self._http.post("/v2/models/cifar10/infer", content=body, headers=headers))
        found = response.json()
        (values,) = (each["data"] for each in found["outputs"] if each["name"] == "probabilities")
        image.check(found["model_version"], dict(zip(image.predictions["v0001"], values, strict=True)))

    async def _page_run(self) -> None:
        image = next(self._small)
        upload = await self._visitor.upload(image.name, image.data)
        check_page(image, *await self._visitor.run(self._visitor.event("predict"), upload))

    async def _page_queue(self) -> None:
        visitor = self._another()  # each has a stream of its own
        upload = await visitor.upload(self._photograph.name, self._photograph.data)
        check_page(self._photograph, *await visitor.queue(visitor.event("predict"), upload))

    async def _page_open(self) -> None:
        visitor = Visitor(self._http)
        await visitor.open()
        (line,) = await visitor.run(visitor.event("follow"), None)
        if not re.search(r"v000[12]", line):
            raise WrongError(f"the page's status names no version: {line[:200]}")

    async def _gradio_client(self) -> None:
        found = await asyncio.to_thread(self._gradio.predict, handle_file(self._path), api_name="/predict")
        check_page(self._photograph, *found)

    async def _get(self, path: str) -> None:
        response = await checked(self._http.get(path))
        said = {"/ready": "ready", "/version": "v000", "/metrics": "cifar_lit_requests_total", "/health": "ok"}
        if said[path] not in response.text:
            raise WrongError(f"{path} says {response.text[:200]}")

    async def _stay(self, until: asyncio.Event) -> None:
        """An open page, which listens to its heartbeat, and comes again if it is closed."""
        while not until.is_set():
            visitor = self._another()
            with suppress(httpx.HTTPError, TimeoutError):
                async with (
                    asyncio.timeout(60),
                    self._http.stream("GET", f"/gradio_api/heartbeat/{visitor.session}") as stream,
                ):
                    async for _ in stream.aiter_bytes():
                        if until.is_set():
                            return
            await asyncio.sleep(1)

    def _another(self) -> Visitor:
        """A visitor with a new session who has the page already."""
        visitor = Visitor(self._http)
        visitor.names, visitor.events = self._visitor.names, self._visitor.events
        return visitor


def check_page(image: KnownImage, label: Any, sentence: str) -> None:
    found = {each["label"]: each["confidence"] for each in label["confidences"]}
    image.check(sentence.rpartition("Answered by ")[2].rstrip("."), found)


def predictions_of(data: bytes, predictors: dict[str, Any]) -> dict[str, Probabilities]:
    return {version: each.predict_bytes(data).probabilities for version, each in predictors.items()}


def small_images(count: int = 16) -> list[tuple[str, bytes]]:
    """Names and JPEG files: CIFAR-10's if CIFAR_LIT_DATA names an image folder, else parts of docs/cat.jpg."""
    folder = Path(os.environ.get("CIFAR_LIT_DATA", "")) / "test"
    if os.environ.get("CIFAR_LIT_DATA") and folder.is_dir():
        found = [sorted(each.iterdir())[number] for number in range(2) for each in sorted(folder.iterdir())]
        return [(path.name, path.read_bytes()) for path in found[:count]]
    photograph = Image.open(Path(__file__).parent.parent / "docs" / "cat.jpg")
    made = []
    for number in range(count):
        buffer = io.BytesIO()
        photograph.resize((32, 32), box=(number, number, number + 200, number + 200)).save(buffer, "JPEG")
        made.append((f"{number}.jpg", buffer.getvalue()))
    return made
