"""Somebody who signs in on the page, has it learn, and is there when the process that learns is killed."""

import asyncio
import io
import itertools
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
from good_clients import KnownImage
from visitor import Visitor, WrongError, client

from cifar_lit.cifar10 import CLASS_NAMES

ADDRESS = "127.0.0.3"
PASSWORD = "a long password for the soak"
TUNE_FOR_S = (5.0, 15.0, 30.0)
"""Of a fine-tuning, in turn, before its process is killed."""
TOLD_WITHIN_S = 10.0


class Administrator:
    """Knows the password.

    Args:
        url: of the server.
        images: of which predictions are corrected.
        processes: gives the process ids of a fine-tuning, the one to be killed first.
    """

    def __init__(self, url: str, images: list[KnownImage], processes: Callable[[], list[int]]) -> None:
        self._url = url
        self._images = itertools.cycle(images)
        self._processes = processes

    async def fine_tune(self, number: int) -> dict[str, Any]:
        """Gives the state that the page tells after the kill, and the reason.

        Args:
            number: a correction is learned if it is even, else an increment.

        Raises:
            WrongError: it could not be begun.
        """
        async with client(self._url, ADDRESS) as http:
            http.timeout = httpx.Timeout(180)  # an increment's check reads CIFAR-10
            signed_in = await http.post("/login", data={"password": PASSWORD})
            if signed_in.status_code != 303:
                raise WrongError(f"sign-in: {signed_in.status_code}")
            visitor = Visitor(http)
            await visitor.open()
            if number % 2:
                upload = await visitor.upload("new.npz", _increment(number))
                told = (await visitor.seen(visitor.event("teach-increment", "change"), upload))["teach-audit"]
                start = "teach-start-file"
            else:
                told = await self._correct(visitor)
                start = "teach-start"
            begun = await visitor.seen(visitor.event(start, "click"))
            if begun["teach-start-outcome"]:
                raise WrongError(f"{begun['teach-start-outcome']} after {told}"[:300])
            await asyncio.sleep(TUNE_FOR_S[number % len(TUNE_FOR_S)])
            (pid, *_) = self._processes()
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            await asyncio.sleep(0.2)
            while time.monotonic() < killed + TOLD_WITHIN_S:
                seen = await visitor.seen(_arrival(visitor))
                if state := re.search(r'data-state="(\w+)"', str(seen["teach-verdict"])):
                    reason = re.search(r"<strong>Why:</strong> ([^<]*)", seen["teach-verdict"])
                    told_after_s = round(time.monotonic() - killed, 1)
                    about = {"of": "increment" if number % 2 else "correction", "told_after_s": told_after_s}
                    return {**about, "state": state[1], "reason": reason[1] if reason else ""}
                await asyncio.sleep(0.2)
            return {"state": "running", "reason": f"{TOLD_WITHIN_S:g} s after its process was killed"}

    async def _correct(self, visitor: Visitor) -> str:
        """Corrects a prediction, to a class that it is not."""
        image = next(self._images)
        upload = await visitor.upload(image.name, image.data)
        seen = (await visitor.seen(visitor.event("teach-picture", "change"), upload))["teach-seen"]
        said = re.search(r'id="teach-said">(\w+)<', seen)
        if said is None:
            raise WrongError(f"no prediction to correct: {seen[:200]}")
        label = next(name for name in CLASS_NAMES if name != said[1])
        return str((await visitor.seen(visitor.event("teach-add", "click"), None, label))["teach-outcome"])


def _arrival(visitor: Visitor) -> dict[str, Any]:
    """The event of the page's arrival that shows how learning stands."""
    number = next(number for number, name in visitor.names.items() if name == "teach-verdict")
    return next(each for each in visitor.events if number in each["outputs"] and not each["inputs"])


def _increment(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 200)
    buffer = io.BytesIO()
    np.savez(buffer, x_new=images, y_new=labels)
    return buffer.getvalue()
