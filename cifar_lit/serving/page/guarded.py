"""Blocks that let a request name no file but an upload, and that open none.

Gradio copies each file that a request names, in any value of any component, into a folder from which anybody may
download it, and fetches it first if it is an address. Whether the file is an upload it asks only in an application that
was started by `launch`; a mounted one would give away any file that the server can read. Its image components open an
upload with Pillow, here in the server; ours hand it on as it came, for our own decoder.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder


class GuardedBlocks(gr.Blocks):
    """Is made and used like `gradio.Blocks`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.has_launched = True  # Gradio's own look, at what a callback returns too

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
        found: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        return found


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
                sentence = "This names a file that was not uploaded here, or is not kept any more. Choose it again."
                raise gr.Error(sentence, print_exception=False)


def _is_upload(named: Any, folder: Path) -> bool:
    try:
        path = Path(named).resolve()
        return path.is_relative_to(folder) and path.is_file()
    except (OSError, TypeError, ValueError):
        return False
