"""HTTP as no library would send it: bytes on a socket."""

import contextlib
import http.client
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class RawReply:
    """An answer; the names of its headers in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection to a server, on which anything can be sent."""

    def __init__(self, url: str) -> None:
        self.address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self.socket = socket.create_connection(self.address, timeout=_TIMEOUT_S)

    def send(self, data: bytes) -> bool:
        """False if the server did not want all of it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def reply(self, method: str = "POST") -> RawReply:
        response = http.client.HTTPResponse(self.socket, method=method)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return RawReply(response.status, headers, response.read())

    def is_answered(self) -> bool:
        """Waits for it, as long as the socket's timeout is."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) != b""
        except TimeoutError:
            return False

    def is_closed_by_server(self) -> bool:
        """Waits for it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    connection = Connection(url)
    with connection.socket:
        yield connection


def exchange(url: str, data: bytes, method: str = "POST") -> RawReply:
    """What is answered to these bytes, on a connection of their own."""
    with connected(url) as connection:
        connection.send(data)
        return connection.reply(method)


def head(line: str, *headers: str, host: str = "localhost") -> bytes:
    """The head of a request: its first line without the protocol, and its headers besides Host."""
    return "\r\n".join([f"{line} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode("latin-1")
