"""Blocks that admit a visitor's events, let them name no file but an upload, and open none.

Gradio copies each file that a request names, in any value of any component, into a folder from which anybody may
download it, and fetches it first if it is an address. Whether the file is an upload it asks only in an application that
was started by `launch`; a mounted one would give away any file that the server can read. Its image components open an
upload with Pillow, here in the server; ours hand it on as it came, for our own decoder.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gradio as gr
from fastapi import Request
from gradio.utils import get_upload_folder

from cifar_lit.errors import CifarLitError
from cifar_lit.page.allowed_routes import REFUSED
from cifar_lit.serving.replies import status_of

MAX_SESSIONS = 256
"""Whose state is kept in memory, 0.3 to 1 MB each; Gradio's own limit is 10,000."""

_AUTOMATIC = ("load", "tick", "then")
"""Events of an open page that nobody causes, or that follow another one."""

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of an event that is the page's own, and no business of programs."""

MISFIT = "These values do not fit the page. Reload it, or see /gradio_api/info."

_log = logging.getLogger(__name__)


class GuardedBlocks(gr.Blocks):
    """Is made and used like `gradio.Blocks`.

    Args:
        admit: called before each event that a visitor causes; raises a `CifarLitError` to refuse it.
    """

    def __init__(self, *args: Any, admit: Callable[[Request], None] = lambda request: None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_launched = True  # Gradio's own look, at what a callback returns too
        self.state_session_capacity = MAX_SESSIONS
        self._admit = admit

    async def process_api(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Runs an event; Gradio names all of its arguments.

        Raises:
            gradio.Error: it was refused, or it failed: the log knows more, and nothing is printed.
        """
        block_fn, asked = options["block_fn"], cast(Request, options["request"].request)
        try:
            if not self._is_automatic(block_fn):
                self._admit(asked)
            if block_fn.fn is None:  # the page runs it by itself
                raise told(MISFIT)
            found: dict[str, Any] = await super().process_api(*args, **options)
        except gr.Error as error:
            setattr(
                asked.state, REFUSED, status_of(error.__cause__) if isinstance(error.__cause__, CifarLitError) else 400
            )
            raise
        except CifarLitError as error:
            setattr(asked.state, REFUSED, status_of(error))
            raise told(str(error)) from error
        except Exception as error:
            request_id = getattr(asked.state, "request_id", "-")
            _log.exception("the page's event %s failed, request %s", block_fn.api_name, request_id)
            raise told(f"Something went wrong on the server. Its log knows more, by request {request_id}.") from error
        return found

    def _is_automatic(self, block_fn: Any) -> bool:
        return bool(block_fn.targets) and all(
            event in _AUTOMATIC or isinstance(self.blocks.get(block_id), gr.State)
            for block_id, event in block_fn.targets
        )

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        """Refuses the values of an event if they name any other file, and leaves those they name closed.

        Raises:
            gradio.Error: they do.
        """
        _check(inputs)
        for component in block_fn.inputs:
            # Gradio builds a component anew in a session that changes it: a class or an instance of ours would be lost.
            for block in (component, state.get(component._id) if state else None):
                if isinstance(block, gr.Image | gr.File):
                    block.preprocess = lambda payload: payload  # type: ignore[method-assign]
        try:
            found: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            _log.warning("the values of event %s do not fit the page: %s", block_fn.api_name, type(error).__name__)
            raise told(MISFIT) from error
        return found


def text_of(event: gr.EventData, name: str) -> str:
    """What the page's script tells of an event under this name.

    Raises:
        gradio.Error: it does not: a program sent the event.
    """
    try:
        text = getattr(event, name, None)
    except TypeError:  # Gradio looks for it in whatever was sent
        text = None
    if not isinstance(text, str):
        raise told(MISFIT)
    return text


def _check(values: Any) -> None:
    folder = Path(get_upload_folder()).resolve()
    waiting = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            if "path" in value and not _is_upload(value["path"], folder):
                raise told("This names a file that was not uploaded here, or is not kept any more. Choose it again.")


def _is_upload(named: Any, folder: Path) -> bool:
    try:
        path = Path(named).resolve()
        return path.is_relative_to(folder) and path.is_file()
    except (OSError, TypeError, ValueError):
        return False


def told(sentence: str) -> gr.Error:
    """An error that a visitor reads; its cause, if it is one of ours, gives the status."""
    return gr.Error(sentence, duration=None, print_exception=False)
