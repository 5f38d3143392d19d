"""Clients that a server has to answer rightly whatever else happens to it: programs, the page, monitoring.

Every answer is checked: its status, and of a picture its probabilities, which are those of the version that it names.
"""

import asyncio
import io
import itertools
import json
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from gradio_client import Client, handle_file
from PIL import Image

ADDRESS = "127.0.0.2"
TOLERANCE = 1e-6
PATIENCE_S = 30.0
MOST_AT_ONCE = 200
OPEN_PAGES = 8
LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
"""A connection that the server, after 5 s, is about to close is not used again."""

Probabilities = dict[str, float]
Ask = Callable[[], Awaitable[None]]


class WrongError(Exception):
    """An answer is not what it has to be."""


@dataclass(frozen=True)
class Outcome:
    """Of one request.

    Attributes:
        at: seconds since the clients began.
        kind: of client.
        seconds: until it was answered and read.
        wrong: what was wrong with it; empty if nothing was.
    """

    at: float
    kind: str
    seconds: float
    wrong: str = ""


@dataclass(frozen=True)
class Picture:
    """A file, and what each version says of it."""

    name: str
    data: bytes = field(repr=False)
    answers: dict[str, Probabilities] = field(repr=False)

    def check(self, version: str, found: Probabilities) -> None:
        if version not in self.answers:
            raise WrongError(f"answered by {version}, which was never promoted")
        expected = self.answers[version]
        if found.keys() != expected.keys() or max(abs(found[name] - expected[name]) for name in found) > TOLERANCE:
            raise WrongError(f"not the probabilities of {version}")


class Visitor:
    """Sends what an open page sends.

    Args:
        http: whose base is the server.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.session = secrets.token_hex(6)

    async def open(self) -> None:
        await checked(self.http.get("/"))
        config = (await checked(self.http.get("/config"))).json()
        self.names = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
        self.events: list[dict[str, Any]] = config["dependencies"]

    async def upload(self, name: str, data: bytes) -> dict[str, Any]:
        answer = await checked(self.http.post("/gradio_api/upload", files={"files": (name, data)}))
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def event(self, name: str, event: str = "") -> dict[str, Any]:
        """An event by its name, or by the id of a component and what happens to it."""
        numbers = {elem_id: number for number, elem_id in self.names.items()}
        return next(
            each
            for each in self.events
            if (each["api_name"] == name if not event else [numbers.get(name), event] in each["targets"])
        )

    async def run(self, event: dict[str, Any], *data: Any) -> list[Any]:
        answer = await checked(self.http.post("/gradio_api/run/predict", json=self._order(event, data)))
        return list(answer.json()["data"])

    async def queue(self, event: dict[str, Any], *data: Any) -> list[Any]:
        await checked(self.http.post("/gradio_api/queue/join", json=self._order(event, data)))
        told = await checked(self.http.get("/gradio_api/queue/data", params={"session_hash": self.session}))
        messages = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: ")]
        done = next((each for each in messages if each["msg"] == "process_completed"), None)
        if done is None or not done["success"]:
            raise WrongError(f"the event failed: {done['output'].get('error') if done else told.text[:200]}")
        return list(done["output"]["data"])

    async def seen(self, event: dict[str, Any], *data: Any) -> dict[str, Any]:
        """What an event changes, by the component's id."""
        values = await self.queue(event, *data)
        return {self.names[number]: value for number, value in zip(event["outputs"], values, strict=True)}

    def _order(self, event: dict[str, Any], data: tuple[Any, ...]) -> dict[str, Any]:
        given = [*data, *[None] * (len(event["inputs"]) - len(data))]  # a state's value never comes from outside
        return {"data": given, "fn_index": event["id"], "session_hash": self.session}


class GoodClients:
    """All of them, at rates that do not depend on the answers.

    Args:
        port: of the server, on this machine.
        small: pictures of 32x32.
        photograph: of some 32 kB.
        large: a photograph of 12 megapixels.
        folder: for the file that `gradio_client` sends.

    Attributes:
        outcomes: of all requests.
    """

    def __init__(self, port: int, small: list[Picture], photograph: Picture, large: Picture, folder: Path) -> None:
        self.outcomes: list[Outcome] = []
        self._url = f"http://127.0.0.1:{port}"
        self._small: Iterator[Picture] = itertools.cycle(small)
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
        async with client(self._url) as self._http:
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

        async with asyncio.TaskGroup() as group:
            coming: set[asyncio.Task[None]] = set()
            async for _ in ticks(per_second, until):
                if len(coming) < MOST_AT_ONCE:
                    task = group.create_task(one())
                    coming.add(task)
                    task.add_done_callback(coming.discard)
                else:
                    self.outcomes.append(Outcome(time.monotonic() - began, kind, 0, f"{MOST_AT_ONCE} are on their way"))

    async def _predict(self, picture: Picture, **sent: Any) -> None:
        found = (await checked(self._http.post("/predict", **sent))).json()
        picture.check(found["version"], found["probabilities"])

    async def _predict_small(self) -> None:
        picture = next(self._small)
        await self._predict(picture, content=picture.data, headers={"Content-Type": "image/jpeg"})

    async def _predict_photograph(self) -> None:
        await self._predict(self._photograph, files={"file": (self._photograph.name, self._photograph.data)})

    async def _predict_large(self) -> None:
        await self._predict(self._large, content=self._large.data, headers={"Content-Type": "image/jpeg"})

    async def _infer(self) -> None:
        picture = self._photograph
        size = len(picture.data) + 4
        tensor = {
            "name": "image",
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": size},
        }
        head = json.dumps({"inputs": [tensor]}).encode()
        body = head + len(picture.data).to_bytes(4, "little") + picture.data
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = await checked(self._http.post("/v2/models/cifar10/infer", content=body, headers=headers))
        found = answer.json()
        (values,) = (each["data"] for each in found["outputs"] if each["name"] == "probabilities")
        picture.check(found["model_version"], dict(zip(picture.answers["v0001"], values, strict=True)))

    async def _page_run(self) -> None:
        picture = next(self._small)
        upload = await self._visitor.upload(picture.name, picture.data)
        check_page(picture, *await self._visitor.run(self._visitor.event("predict"), upload))

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
        answer = await checked(self._http.get(path))
        said = {"/ready": "ready", "/version": "v000", "/metrics": "cifar_lit_requests_total", "/health": "ok"}
        if said[path] not in answer.text:
            raise WrongError(f"{path} says {answer.text[:200]}")

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


def check_page(picture: Picture, label: Any, sentence: str) -> None:
    found = {each["label"]: each["confidence"] for each in label["confidences"]}
    picture.check(sentence.rpartition("Answered by ")[2].rstrip("."), found)


async def checked(answer: Awaitable[httpx.Response]) -> httpx.Response:
    found = await answer
    if found.status_code != 200:
        raise WrongError(f"{found.status_code}: {found.text[:200]}")
    return found


@asynccontextmanager
async def client(url: str, address: str = ADDRESS) -> Any:
    """One that comes from an address of its own."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=LIMITS)
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=PATIENCE_S, trust_env=False) as found:
        yield found


async def ticks(per_second: float, until: asyncio.Event) -> Any:
    """So many times a second, whatever is done between, until it is over."""
    due = time.monotonic()
    while True:
        due += 1 / per_second
        with suppress(TimeoutError):
            await asyncio.wait_for(until.wait(), max(0.0, due - time.monotonic()))
        if until.is_set():
            return
        yield


def answers_of(data: bytes, predictors: dict[str, Any]) -> dict[str, Probabilities]:
    return {version: each.predict_bytes(data).probabilities for version, each in predictors.items()}


def small_pictures(count: int = 16) -> list[tuple[str, bytes]]:
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
