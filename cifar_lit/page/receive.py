"""Takes in what visitors upload to the page, instead of Gradio, whose protocol this speaks.

Gradio leaves the half of a file for ever if its sender goes or is too slow, and keeps any number of files. Here
Starlette reads the form.

    FOLDER/<token>/NAME   an upload, complete

What is not complete is removed when its request ends; uploads after an hour, or earlier if there are too many of them
or of their bytes. What is left when the server ends is `scratch`'s.
"""

import asyncio
import contextlib
import errno
import re
import secrets
import shutil
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request
from gradio.utils import get_upload_folder
from gradio_client.utils import strip_invalid_filename_characters
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from cifar_lit.errors import CifarLitError, InputError, OverloadedError
from cifar_lit.serving.admission import Admission, address_of
from cifar_lit.serving.metrics import Metrics
from cifar_lit.serving.replies import RequestError, reply, status_of
from cifar_lit.serving.uploads import MAX_FILES, boundary_of

LIFETIME_S = 3600.0
MAX_KEPT_BYTES = 4 * 2**30
MAX_KEPT_FILES = 1_024
MAX_AT_ONCE, MAX_AT_ONCE_OF_ADDRESS = 32, 8
"""Forms that come at the same time."""
PATH = "/gradio_api/upload"
FIELD = "files"

_SWEEP_S = 600.0
_PROGRESS_S = 0.05
_KNOWN_WITHIN_S = 3.0
_MAX_FOLLOWED = 256
_MAX_END = 16
_MAX_FIELD_BYTES = 4096
_NAME = re.compile(rb'filename="([^"\r\n]*)"')
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Progress:
    """How far an upload is, for the page's bar."""

    name: str = ""
    num_bytes: int = 0
    done: bool = False


class _Parser(MultiPartParser):
    spool_max_size = 64 * 1024
    """Bytes of a file in memory; then it lies in a file without a name, which is gone when it is closed."""


class Uploads:
    """The uploads of one server.

    Args:
        max_file_bytes: of one file.
        known: paths of complete uploads; Gradio hands those out that are in it.
        admission: says whose are taken.
        metrics: where they are counted.
    """

    def __init__(self, max_file_bytes: int, known: set[str], admission: Admission, metrics: Metrics) -> None:
        self._max_file_bytes = max_file_bytes
        self._known = known
        self._admission = admission
        self._metrics = metrics
        self._coming: Counter[str] = Counter()  # forms, by address
        self._complete: OrderedDict[Path, tuple[float, int]] = OrderedDict()  # since when, and bytes; oldest first
        self._num_bytes = 0
        self._followed: OrderedDict[str, Progress] = OrderedDict()

    def add_to(self, app: FastAPI) -> None:
        """Adds the routes. To be called before the page is mounted."""
        app.add_api_route(PATH, self._receive, methods=["POST"], include_in_schema=False)
        app.add_api_route(f"{PATH}_progress", self._tell, methods=["GET"], include_in_schema=False)
        outer = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
            async with outer(app) as state:
                sweeping = asyncio.create_task(self._sweep_now_and_then())
                try:
                    yield state
                finally:
                    sweeping.cancel()

        app.router.lifespan_context = lifespan

    async def _sweep_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self._sweep()

    async def _sweep(self) -> None:
        """Removes uploads that are too old, and the oldest if there are too many of them or of their bytes."""
        found: list[Path] = []
        for path, (since, size) in self._complete.items():
            few = self._num_bytes <= MAX_KEPT_BYTES and len(self._complete) - len(found) <= MAX_KEPT_FILES
            if few and since > time.monotonic() - LIFETIME_S:
                break
            found.append(path)
            self._num_bytes -= size
        for path in found:
            del self._complete[path]
            self._known.discard(str(path))
        for path in found:
            await asyncio.to_thread(shutil.rmtree, path.parent, ignore_errors=True)
        self._metrics.kept_uploads.set(len(self._complete))
        self._metrics.kept_upload_bytes.set(self._num_bytes)

    async def _receive(self, request: Request, upload_id: str = "") -> Response:
        progress = self._follow(upload_id)
        address = address_of(request)
        self._coming[address] += 1
        try:
            self._admission.check_visitor(request)
            if self._coming.total() > MAX_AT_ONCE or self._coming[address] > MAX_AT_ONCE_OF_ADDRESS:
                raise OverloadedError("Too many files are coming at once. Send it again a little later.")
            paths = await self._read(request, progress)
        except CifarLitError as error:  # in words alone: the page shows the body as it is
            return PlainTextResponse(str(error), status_of(error))
        finally:
            self._coming -= Counter([address])
            progress.done = True
        self._metrics.uploads.inc(len(paths))
        for path in paths:
            size = path.stat().st_size
            self._complete[path] = (time.monotonic(), size)
            self._num_bytes += size
            self._known.add(str(path))
        await self._sweep()
        return reply([str(path) for path in paths])

    async def _read(self, request: Request, progress: Progress) -> list[Path]:
        """The files of a form, when all of it has come; otherwise nothing of it stays."""
        boundary_of(request.headers.get("content-type", ""))
        stream = _watched(request.stream(), progress)
        try:
            parser = _Parser(
                request.headers, stream, max_files=MAX_FILES, max_fields=MAX_FILES, max_part_size=_MAX_FIELD_BYTES
            )
            form = await parser.parse()
            try:
                files = [each for each in form.getlist(FIELD) if isinstance(each, UploadFile)]
                return await asyncio.to_thread(self._keep, files)
            finally:
                await form.close()
        except MultiPartException as error:
            raise InputError(f"The form can't be read ({error.message})", "malformed") from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise RequestError(507, "There is no room for this file now. Send it again later.") from error

    def _keep(self, files: Sequence[UploadFile]) -> list[Path]:
        folder = Path(get_upload_folder())
        paths: list[Path] = []
        try:
            for each in files:
                if (each.size or 0) > self._max_file_bytes:
                    most = f"{self._max_file_bytes:,}"
                    raise InputError(f"The file has more than {most} bytes. Choose a smaller one.", "too_large")
                paths.append(folder / secrets.token_hex(16) / _safe(each.filename or ""))
                paths[-1].parent.mkdir(parents=True)
                with paths[-1].open("wb") as file:
                    shutil.copyfileobj(each.file, file)
        except BaseException:
            for path in paths:
                shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return paths

    def _follow(self, upload_id: str) -> Progress:
        progress = Progress()
        if upload_id:
            self._followed[upload_id[:100]] = progress
            while len(self._followed) > _MAX_FOLLOWED:
                self._followed.popitem(last=False)
        return progress

    async def _tell(self, upload_id: str = "") -> Response:
        until = time.monotonic() + _KNOWN_WITHIN_S
        while (progress := self._followed.get(upload_id[:100])) is None:
            if time.monotonic() > until:
                return PlainTextResponse("Upload not found", 404)
            await asyncio.sleep(_PROGRESS_S)
        return StreamingResponse(_events(progress), media_type="text/event-stream")


async def _watched(stream: AsyncIterator[bytes], progress: Progress) -> AsyncGenerator[bytes]:
    """A form's bytes. Its progress is told under the name that stood there last, as the page's bar knows a file."""
    end = b""
    async for chunk in stream:
        if names := _NAME.findall(chunk):
            progress.name = names[-1].decode("utf-8", "replace")
        progress.num_bytes += len(chunk)
        end = (end + chunk)[-_MAX_END:]
        yield chunk
    if not end.rstrip().endswith(b"--"):  # the parser would leave out a file that is cut off, and say nothing
        raise MultiPartException("it ends before its last boundary.")


def _safe(path: str) -> str:
    """A name for a file that tells its visitor of it, and nothing to the system."""
    name = path.replace("\\", "/").rpartition("/")[2]
    found = strip_invalid_filename_characters("".join(each for each in name if each.isprintable()))
    return found if found not in ("", ".", "..") else "file"


async def _events(progress: Progress) -> AsyncIterator[bytes]:
    """What the page's bar listens to, until the upload ends."""
    told = 0
    while True:
        done = progress.done
        if progress.num_bytes > told:
            size, told = progress.num_bytes - told, progress.num_bytes
            yield _event({"msg": "update", "orig_name": progress.name, "chunk_size": size})
        if done:
            yield _event({"msg": "done"})
            return
        await asyncio.sleep(_PROGRESS_S)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"
