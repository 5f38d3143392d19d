"""The three ways of telling the network what it should know: a correction, labelled pictures, an increment."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import ServedPrediction
from cifar_lit.page.answer import sorry
from cifar_lit.page.guarded import QUIET
from cifar_lit.page.rendering import SAYS_CHANGES, note, render, script
from cifar_lit.page.teach_desk import Desk, Increment
from cifar_lit.serving.login import Login
from cifar_lit.serving.uploads import MAX_FILES

_LOOK_FIRST = note("What the network takes it for will stand here.")


@dataclass(frozen=True)
class IncrementTab:
    """What the rest of the page needs of it.

    Attributes:
        increment: state, the `Increment` that was uploaded, or None.
        start: begins to learn from it.
        changed: the event after which `increment` may be another one.
    """

    increment: gr.State
    start: gr.Button
    changed: Dependency


def build_correction(desk: Desk, login: Login, classified: gr.Image | None) -> Dependency:
    """Adds the components and events to the page that is being built; gives the event that adds a correction.

    Args:
        desk: does the work.
        login: knows who may.
        classified: where the picture is that the visitor had classified before.
    """
    answer = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            picture = gr.Image(
                label="A picture that it gets wrong",
                sources=["upload", "clipboard", "webcam"],
                height=220,
                format="png",
                buttons=[],
                placeholder="Drop a picture here,\nor click to choose one",
                alt_text="The picture that you chose",
                elem_id="teach-picture",
            )
            carry = gr.Button(
                "Take the picture from Classify", size="sm", visible=classified is not None, elem_id="teach-carry"
            )
        with gr.Column(min_width=240):
            seen = gr.HTML(
                _LOOK_FIRST,
                js_on_load=SAYS_CHANGES + script("into_view", FIRST="#teach-picture", LAST="#teach-add"),
                elem_id="teach-seen",
                apply_default_css=False,
            )
            again = gr.Button("Ask again", size="sm", visible=False, elem_id="teach-again")
    label = gr.Radio(list(CLASS_NAMES), label="It really shows", elem_id="teach-label")
    add = gr.Button("Add this correction", variant="primary", interactive=False, elem_id="teach-add")
    outcome = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="teach-outcome", apply_default_css=False)

    async def look(upload: Any, request: gr.Request) -> list[Any]:
        login.require(request)
        if upload is None:
            return [None, _LOOK_FIRST, gr.update(interactive=False), gr.update(visible=False), ""]
        try:
            found = await desk.look(upload)
        except CifarLitError as error:
            said = note(sorry(error), "problem")
            return [None, said, gr.update(interactive=False), gr.update(visible=True), ""]
        return [found, render("correction", answer=found), gr.update(interactive=True), gr.update(visible=True), ""]

    async def correct(found: ServedPrediction | None, name: str | None, request: gr.Request) -> str:
        login.require(request)
        if found is None:
            return note("Choose a picture first.", "problem")
        if not name:
            return note("Choose what it really shows.", "problem")
        said = found.prediction
        if name == said.prediction:
            return note(
                f"{said.version} says {name} already. To have it learn the picture all the same, add it among the "
                "labelled pictures.",
                "problem",
            )
        try:
            await desk.correct(found, name)
        except CifarLitError as error:
            return note(f"This can't be added: {error}", "problem")
        return note(f"Added: it is {name}, not {said.prediction}.", "t-done")

    looked = [answer, seen, add, again, outcome]
    picture.change(look, picture, looked, trigger_mode="always_last", **QUIET)
    picture.change(lambda: None, None, label, queue=False, **QUIET)
    again.click(look, picture, looked, **QUIET)
    if classified is not None:
        carry.click(None, classified, picture, js="(picture) => picture", **QUIET)
    return add.click(correct, [answer, label], outcome, **QUIET)


def build_labelled(desk: Desk, login: Login) -> Dependency:
    """Adds the components and events to the page that is being built; gives the event that adds pictures."""
    label = gr.Radio(list(CLASS_NAMES), label="All of them show", elem_id="teach-many-label")
    files = gr.File(
        label=f"Up to {MAX_FILES} pictures",
        file_count="multiple",
        file_types=["image"],
        height=150,
        elem_id="teach-pictures",
    )
    add = gr.Button("Add these pictures", variant="primary", elem_id="teach-add-many")
    outcome = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="teach-many-outcome", apply_default_css=False)

    async def add_all(uploads: Any, name: str | None, request: gr.Request) -> AsyncIterator[list[Any]]:
        login.require(request)
        if not uploads or not name:
            yield [gr.skip(), note("Choose pictures first." if name else "Choose what they show.", "problem")]
            return
        yield [gr.skip(), note("Looking at the picture …")]
        try:
            rows = await desk.add_all(uploads, name)
        except CifarLitError as error:
            yield [gr.skip(), note(str(error), "problem")]
        else:
            yield [None, render("added", rows=rows, label=name)]  # or a second click would add them once more

    return add.click(add_all, [files, label], [files, outcome], **QUIET)


def build_increment(desk: Desk, login: Login) -> IncrementTab:
    """Adds the components and events to the page that is being built."""
    increment = gr.State(None)
    gr.HTML(render("increment_help"), elem_id="teach-increment-help", apply_default_css=False)
    file = gr.File(label="An increment, up to 200 MiB", file_types=[".npz"], height=130, elem_id="teach-increment")
    audit = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="teach-audit", apply_default_css=False)
    start = gr.Button("Learn from this increment", variant="primary", interactive=False, elem_id="teach-start-file")

    async def check(upload: Any, before: Increment | None, request: gr.Request) -> AsyncIterator[list[Any]]:
        login.require(request)
        desk.forget(before)
        if upload is None:
            yield [None, ""]
            return
        yield [None, note("Checking the increment …")]
        try:
            found = await desk.take(upload)
        except CifarLitError as error:
            yield [None, note(f"This can't be checked: {error}", "problem")]
        else:
            yield [found if found.readable else None, render("audited", increment=found)]

    changed = file.change(check, [file, increment], [increment, audit], trigger_mode="always_last", **QUIET)
    return IncrementTab(increment, start, changed)
