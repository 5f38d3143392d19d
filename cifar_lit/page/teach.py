"""The tab where those who are signed in correct the network, have it learn, and see what the gate says of it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import gradio as gr

from cifar_lit.errors import CifarLitError
from cifar_lit.feedback.fine_tune_service import FineTuneService
from cifar_lit.inference.service import Service
from cifar_lit.page.guarded import QUIET
from cifar_lit.page.rendering import SAYS_CHANGES, note, render
from cifar_lit.page.teach_collect import build_correction, build_increment, build_labelled
from cifar_lit.page.teach_desk import Desk, Increment, View
from cifar_lit.serving.login import OFF, Login

_RUNNING_S = 1.0
_IDLE_S = 5.0
"""Another visitor may begin a fine-tuning, or add a correction."""
_UNDONE = "The version before answers again."
_COLLECT = (
    "Pictures wait here until a version that has learned them answers everybody; if the gate stops it, they go on "
    "waiting. The last class that was given to a picture counts."
)
_LEARN = (
    "The network learns the new beside the old. A gate then measures both, and lets the result answer "
    "everybody only if it is good enough."
)


def build_teach(
    service: Service, fine_tuning: FineTuneService, login: Login, classified: gr.Image | None = None
) -> None:
    """Adds the tab's components and events to the page that is being built.

    Args:
        service: answers pictures.
        fine_tuning: keeps corrections, checks increments and fine-tunes.
        login: knows who may.
        classified: where the picture is that the visitor had classified, so that it can be corrected.
    """
    desk = Desk(service, fine_tuning)
    door = gr.HTML(_door(login), elem_id="teach-door", apply_default_css=False)
    with gr.Row(visible=False, equal_height=False, elem_id="teach-room") as room:
        with gr.Column(scale=3, min_width=320):
            gr.HTML(
                render("step", number=1, title="Show it what is right", text=_COLLECT),
                elem_id="teach-collect",
                apply_default_css=False,
            )
            with gr.Tabs(elem_id="teach-tabs"):
                with gr.Tab("Correct", id="teach-correct", elem_id="tab-teach-correct"):
                    corrected = build_correction(desk, login, classified)
                with gr.Tab("Add pictures", id="teach-many", elem_id="tab-teach-many"):
                    added = build_labelled(desk, login)
                with gr.Tab("Increment", id="teach-file", elem_id="tab-teach-file"):
                    tab = build_increment(desk, login)
        with gr.Column(scale=2, min_width=320):
            gr.HTML(
                render("step", number=2, title="Have it learn", text=_LEARN),
                elem_id="teach-learn",
                apply_default_css=False,
            )
            waiting = gr.HTML(elem_id="teach-waiting", apply_default_css=False)
            start = gr.Button("Learn from the corrections", variant="primary", elem_id="teach-start")
            put_away = gr.Button("Put them aside, unlearned", size="sm", visible=False, elem_id="teach-put-away")
            outcome = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="teach-start-outcome", apply_default_css=False)
            progress = gr.HTML("", elem_id="teach-progress", apply_default_css=False)
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="teach-stop")
            verdict = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="teach-verdict", apply_default_css=False)
            with gr.Row(visible=False, elem_id="teach-undo-row") as undo_row:
                undo = gr.Button("Undo", size="sm", elem_id="teach-undo")
                undo_drop = gr.Button("Undo, and discard what it learned from", size="sm", elem_id="teach-undo-drop")
            with gr.Accordion("Log", open=False, visible=False, elem_id="teach-log-accordion") as details:
                log = gr.Textbox(
                    show_label=False, container=False, lines=10, max_lines=10, interactive=False, elem_id="teach-log"
                )
    seen = gr.State("")
    quick, slow = gr.Timer(_RUNNING_S, active=False), gr.Timer(_IDLE_S, active=False)
    outputs = [seen, door, room, quick, slow]
    outputs += [waiting, start, put_away, tab.start, progress, stop, verdict, undo_row, details, log]

    async def refresh(before: str, increment: Increment | None, request: gr.Request) -> list[Any]:
        """New values of `outputs`; nothing of learning for those who are not signed in."""
        if not login.knows(request):
            return shut() if before != "shut" else [gr.skip()] * len(outputs)
        view = await asyncio.to_thread(desk.view)
        now = repr((view, increment is not None))
        return [gr.skip()] * len(outputs) if now == before else [now, *shown(view, increment)]

    async def arrive(request: gr.Request) -> list[Any]:
        return await refresh("", None, request)

    def shut() -> list[Any]:
        off = gr.Timer(active=False)
        return ["shut", _door(login), gr.update(visible=False), off, off, *[gr.skip()] * (len(outputs) - 5)]

    def shown(view: View, increment: Increment | None) -> list[Any]:
        lines = view.job.log if view.job else ()
        return [
            _door(login, signed_in=True),
            gr.update(visible=True),
            gr.Timer(active=view.changing),
            gr.Timer(active=not view.changing),
            render("waiting", count=view.waiting),
            gr.update(interactive=bool(view.waiting) and not view.running),
            gr.update(visible=bool(view.waiting) and not view.running),
            gr.update(interactive=increment is not None and not view.running),
            render("progress", job=view.job),
            gr.update(visible=view.running),
            render("outcome", view=view),
            gr.update(visible=view.can_undo),
            gr.update(visible=bool(lines)),
            "\n".join(lines),
        ]

    async def outcome_of(request: gr.Request, work: Callable[[], Awaitable[object]], done: str = "") -> str:
        """Does what only those may have done who are signed in, and says how it went."""
        login.require(request)
        try:
            await work()
        except CifarLitError as error:
            return note(str(error), "problem")
        return note(done, "t-done") if done else ""

    async def learn(request: gr.Request) -> str:
        return await outcome_of(request, fine_tuning.start)

    async def learn_increment(increment: Increment | None, request: gr.Request) -> str:
        login.require(request)
        if increment is None:
            return note("Upload an increment first.", "problem")
        return await outcome_of(request, partial(fine_tuning.start, increment.path))

    async def end(request: gr.Request) -> str:
        return await outcome_of(request, fine_tuning.stop)

    async def undo_it(request: gr.Request) -> str:
        return await outcome_of(request, partial(fine_tuning.undo, discard=False), _UNDONE)

    async def undo_and_discard(request: gr.Request) -> str:
        return await outcome_of(request, partial(fine_tuning.undo, discard=True), _UNDONE)

    async def drop(request: gr.Request) -> str:
        return await outcome_of(request, desk.put_away, "They were put aside.")

    inputs = [seen, tab.increment]
    gr.on(None, arrive, None, outputs, queue=False, **QUIET)  # when the page is loaded
    for timer in (quick, slow):
        timer.tick(refresh, inputs, outputs, queue=False, **QUIET)
    events = [
        corrected,
        added,
        tab.changed,
        start.click(learn, None, outcome, **QUIET),
        tab.start.click(learn_increment, tab.increment, outcome, **QUIET),
        stop.click(end, None, outcome, **QUIET),
        put_away.click(drop, None, outcome, **QUIET),
        undo.click(undo_it, None, outcome, **QUIET),
        undo_drop.click(undo_and_discard, None, outcome, **QUIET),
    ]
    for event in events:
        event.then(refresh, inputs, outputs, queue=False, **QUIET)


def _door(login: Login, *, signed_in: bool = False) -> str:
    """What stands before, or above, what only those may use who are signed in."""
    return render("door", enabled=login.enabled, signed_in=signed_in, off=OFF)
