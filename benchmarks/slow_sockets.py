"""Connections to a server that send a byte now and then: `python slow_sockets.py PORT COUNT SECONDS`.

They come within so many seconds, all at once with 0. Half of them send a byte of a head every 10 s, half a byte of a
body every second; whoever is turned away comes again. Prints a line when all are connected, and ends with a JSON line
when its standard input does.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
BODY = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"


class Drips:
    """What happens to the connections."""

    def __init__(self, port: int, within_s: float) -> None:
        self._port = port
        self._within_s = within_s
        self.num_connected = 0
        self.statuses: Counter[str] = Counter()
        self.longest_s = 0.0

    async def drip(self, number: int) -> None:
        begin, pause_s = ((HEAD, 10.0), (BODY, 1.0))[number % 2]
        await asyncio.sleep(random.uniform(0, self._within_s))
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            began = time.monotonic()
            writer.write(begin)
            self.num_connected += 1
            answer = asyncio.ensure_future(reader.readline())
            while not answer.done():
                await asyncio.wait([answer], timeout=pause_s)
                writer.write(b"x")
            with contextlib.suppress(OSError):
                self.statuses[(await answer).split(b" ")[1].decode()] += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
            writer.close()


async def main() -> None:
    port, count, within_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    drips = Drips(port, within_s)
    tasks = [asyncio.create_task(drips.drip(number)) for number in range(count)]
    while drips.num_connected < count:
        await asyncio.sleep(0.01)
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    failed = Counter(type(end).__name__ for end in ends if not isinstance(end, asyncio.CancelledError))
    found = {"answers": dict(drips.statuses), "longest_s": round(drips.longest_s, 2), "failed": dict(failed)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
