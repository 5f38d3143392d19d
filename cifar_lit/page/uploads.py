"""What a visitor uploads to the page. It is never opened by a component of the page, only by our own decoder."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from gradio.utils import get_upload_folder

from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import CifarLitError, ImageError, InputError
from cifar_lit.serving.uploads import MAX_FILES

TOO_LARGE = f"at most {MAX_BYTES >> 20} MiB are taken. Choose a smaller copy, or a screenshot of it."

_AT_ONCE = 8
_MAX_NAME = 120

Value = TypeVar("Value")


def uploaded_path(upload: Any) -> Path:
    """Where the server keeps an upload. A request may claim any path: only uploads are read.

    Raises:
        InputError: it is none, or it is not kept any more.
    """
    path = Path(getattr(upload, "path", None) or "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise InputError("it is not among the uploads, which are kept for an hour. Choose it again.")
    return path


def upload_name(upload: Any) -> str:
    """What the visitor calls the file."""
    name = getattr(upload, "orig_name", None) or Path(getattr(upload, "path", None) or "").name
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"


async def read_picture(upload: Any) -> bytes:
    """The content of an uploaded picture.

    Raises:
        ImageError: it has more than `MAX_BYTES`.
        InputError: see `uploaded_path`.
    """
    path = uploaded_path(upload)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ImageError(f"the file has {size / 2**20:.1f} MiB, {TOO_LARGE}", "too_large")
    return await asyncio.to_thread(path.read_bytes)


async def do_for_each(
    uploads: Iterable[Any], work: Callable[[Any], Awaitable[Value]], words: Callable[[CifarLitError], str] = str
) -> list[tuple[str, Value | str]]:
    """Does something with each of several uploads, a few at a time; one that is bad does not spoil the others.

    Args:
        uploads: what a visitor chose.
        work: what to do.
        words: what is said of an error.

    Returns:
        Of each upload its name, and what came of it or what was wrong.

    Raises:
        InputError: there are too many.
    """
    chosen = list(uploads)
    if len(chosen) > MAX_FILES:
        raise InputError(f"These are {len(chosen)} pictures, at most {MAX_FILES} go at once. Choose fewer.")
    few = asyncio.Semaphore(_AT_ONCE)

    async def outcome(upload: Any) -> Value | str:
        async with few:
            try:
                return await work(upload)
            except CifarLitError as error:
                return words(error)

    outcomes = await asyncio.gather(*(outcome(upload) for upload in chosen))
    return [(upload_name(upload), each) for upload, each in zip(chosen, outcomes, strict=True)]
