"""The process that serves the application: its socket, its signals, its end."""

import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
import uvloop
from fastapi import FastAPI

from cifar_lit.errors import SettingError
from cifar_lit.memory import keep_freed_memory, share_freed_memory
from cifar_lit.serving.protocol import MAX_CONNECTIONS, Protocol, turn_away_at_the_end

_SHUTDOWN_S = 12
_BACKLOG_S = 0.2
"""So long those who have just connected are told at the end that they came too late."""
_SWITCH_S = 0.0005
_MAX_KEPT_BYTES = 4 * 2**20
"""More than a batch takes, and less than a model's weights."""


def run(app: FastAPI, host: str, port: int, *, proxies: Sequence[str] = ()) -> None:
    """Serves until SIGTERM or Ctrl-C: then takes nothing more, finishes what it took, and returns.

    Args:
        app: the application.
        host: address to listen on.
        port: to listen on.
        proxies: addresses that are believed when they tell who asked, and whether by HTTPS.

    Raises:
        SettingError: the port is taken, or the address is not this machine's.
    """
    _allow_many_connections()
    with _listen(host, port) as listener:
        # The model's thread asks for the interpreter after each of its operations; by default it waits 5 ms for it.
        sys.setswitchinterval(_SWITCH_S)
        keep_freed_memory(_MAX_KEPT_BYTES)
        share_freed_memory()
        config = uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        server = _Server(config)
        app.state.connections = server.server_state.connections
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve([listener]))
        finally:
            gc.freeze()  # the process ends: looking through all that is left takes seconds, and frees nothing


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise SettingError(
            f"{host}:{port} can't be listened on ({error}). Name another --port, or another --host."
        ) from error


def _allow_many_connections() -> None:
    """Each is an open file; by default a process may have 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Server(uvicorn.Server):
    """Ends with status 0 when it is told to end, and not by the signal once more."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # looking through all that was imported, again and again, stops the world for 0.2 s each time
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"Serving at http://{_shown(host)}:{port}/ (Ctrl-C ends it).", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.loaded_app = turn_away_at_the_end  # of connections that are made from now on
        await asyncio.sleep(_BACKLOG_S)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
