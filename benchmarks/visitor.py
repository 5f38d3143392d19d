"""A visitor of the page, who sends what an open page sends."""

import json
import secrets
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import httpx

PATIENCE_S = 30.0
LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
"""A connection that the server, after 5 s, is about to close is not used again."""


class WrongError(Exception):
    """A response is not what it has to be."""


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
        response = await checked(self.http.post("/gradio_api/upload", files={"files": (name, data)}))
        return {"path": response.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def event(self, name: str, event: str = "") -> dict[str, Any]:
        """An event by its name, or by the id of a component and what happens to it."""
        numbers = {elem_id: number for number, elem_id in self.names.items()}
        return next(
            each
            for each in self.events
            if (each["api_name"] == name if not event else [numbers.get(name), event] in each["targets"])
        )

    async def run(self, event: dict[str, Any], *data: Any) -> list[Any]:
        response = await checked(self.http.post("/gradio_api/run/predict", json=self._order(event, data)))
        return list(response.json()["data"])

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


async def checked(response: Awaitable[httpx.Response]) -> httpx.Response:
    found = await response
    if found.status_code != 200:
        raise WrongError(f"{found.status_code}: {found.text[:200]}")
    return found


@asynccontextmanager
async def client(url: str, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """One that comes from an address of its own."""
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=LIMITS)
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=PATIENCE_S, trust_env=False) as found:
        yield found
