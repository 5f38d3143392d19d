"""Connections to a server that send a byte now and then: `python slow_sockets.py PORT COUNT SECONDS`.

They come within so many seconds, all at once with 0. Half of them send a byte of a head every 10 s, half a byte of a
body every second; whoever is turned away comes again at once. Prints a line when all are connected, and ends with a
JSON line when its standard input does.

Bare sockets and one loop: it shares the server's cores, where real clients would not.
"""

import heapq
import json
import random
import selectors
import socket
import sys
import time
from collections import Counter

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
BODY = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n"
KINDS = ((HEAD, 10.0), (BODY, 1.0))
"""What is sent first, and the seconds between two bytes then."""


class Drips:
    """What happens to the connections, which go by number."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: dict[int, socket.socket] = {}
        self._began: dict[int, float] = {}
        self.selector = selectors.DefaultSelector()
        self.statuses: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.longest_s = 0.0

    def connect(self, number: int) -> None:
        self._began[number] = time.monotonic()
        connection = socket.create_connection(("127.0.0.1", self._port))
        connection.sendall(KINDS[number % 2][0])
        connection.setblocking(False)
        self._sockets[number] = connection
        self.selector.register(connection, selectors.EVENT_READ, number)

    def send(self, number: int) -> float:
        """Sends a byte; gives the seconds until the next."""
        try:
            self._sockets[number].send(b"x")
        except OSError as error:  # the response has yet to be read
            self.failed[type(error).__name__] += 1
        return KINDS[number % 2][1]

    def hear(self, number: int) -> None:
        """Reads the response, and comes again."""
        connection = self._sockets.pop(number)
        self.selector.unregister(connection)
        try:
            self.statuses[connection.recv(4096).split(b" ")[1].decode()] += 1
        except (OSError, IndexError) as error:
            self.failed[type(error).__name__] += 1
        self.longest_s = max(self.longest_s, time.monotonic() - self._began[number])
        connection.close()
        self.connect(number)


def main() -> None:
    port, count, within_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    drips = Drips(port)
    drips.selector.register(sys.stdin, selectors.EVENT_READ)
    coming = [(time.monotonic() + random.uniform(0, within_s), number) for number in range(count)]
    heapq.heapify(coming)
    due: list[tuple[float, int]] = []
    while True:
        now = time.monotonic()
        while coming and coming[0][0] <= now:
            number = heapq.heappop(coming)[1]
            drips.connect(number)
            heapq.heappush(due, (now + KINDS[number % 2][1], number))
            if not coming:
                print("connected", flush=True)
        while due and due[0][0] <= now:
            at, number = heapq.heappop(due)
            heapq.heappush(due, (at + drips.send(number), number))
        next_at = min(times[0][0] for times in (coming, due) if times)
        for key, _ in drips.selector.select(max(0.0, next_at - time.monotonic())):
            if key.data is None:  # standard input has ended
                found = {
                    "responses": dict(drips.statuses),
                    "longest_s": round(drips.longest_s, 2),
                    "failed": dict(drips.failed),
                }
                print(json.dumps(found))
                return
            drips.hear(key.data)


if __name__ == "__main__":
    main()
