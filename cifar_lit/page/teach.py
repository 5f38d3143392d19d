"""The tab where those who are signed in correct the network, have it learn, and see what the gate says of it."""

import asyncio
from typing import Any

import gradio as gr

from cifar_lit.errors import CifarLitError
from cifar_lit.feedback.fine_tune_service import FineTuneService
from cifar_lit.inference.service import Service
from cifar_lit.page import teach_html as html
from cifar_lit.page.answer import problem
from cifar_lit.page.teach_collect import QUIET, build_correction, build_increment, build_labelled
from cifar_lit.page.teach_desk import Desk, Increment, View
from cifar_lit.page.teach_guard import require
from cifar_lit.page.teach_style import CSS
from cifar_lit.serving.login import Login

_RUNNING_S = 1.0
_IDLE_S = 5.0
"""Another visitor may begin a fine-tuning, or add a correction."""
_SAYS_CHANGES = "element.setAttribute('aria-live', 'polite');"
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
    gr.HTML(f"<style>{CSS}</style>", elem_id="teach-style", visible="hidden")
    door = gr.HTML(html.door(enabled=login.enabled, signed_in=False), elem_id="teach-door", apply_default_css=False)
    with gr.Row(visible=False, equal_height=False, elem_id="teach-room") as room:
        with gr.Column(scale=3, min_width=320):
            gr.HTML(html.step(1, "Show it what is right", _COLLECT), elem_id="teach-collect", apply_default_css=False)
            with gr.Tabs(elem_id="teach-tabs"):
                with gr.Tab("Correct", id="teach-correct", elem_id="tab-teach-correct"):
                    corrected = build_correction(desk, login, classified)
                with gr.Tab("Add pictures", id="teach-many", elem_id="tab-teach-many"):
                    added = build_labelled(desk, login)
                with gr.Tab("Increment", id="teach-file", elem_id="tab-teach-file"):
                    tab = build_increment(desk, login)
        with gr.Column(scale=2, min_width=320):
            gr.HTML(html.step(2, "Have it learn", _LEARN), elem_id="teach-learn", apply_default_css=False)
            waiting = gr.HTML(elem_id="teach-waiting", apply_default_css=False)
            start = gr.Button("Learn from the corrections", variant="primary", elem_id="teach-start")
            put_away = gr.Button("Put them aside, unlearned", size="sm", visible=False, elem_id="teach-put-away")
            outcome = gr.HTML("", js_on_load=_SAYS_CHANGES, elem_id="teach-start-outcome", apply_default_css=False)
            progress = gr.HTML("", elem_id="teach-progress", apply_default_css=False)
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="teach-stop")
            verdict = gr.HTML("", js_on_load=_SAYS_CHANGES, elem_id="teach-verdict", apply_default_css=False)
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
        closed = html.door(enabled=login.enabled, signed_in=False)
        return ["shut", closed, gr.update(visible=False), off, off, *[gr.skip()] * (len(outputs) - 5)]

    def shown(view: View, increment: Increment | None) -> list[Any]:
        lines = view.job.log if view.job else ()
        return [
            html.door(enabled=True, signed_in=True),
            gr.update(visible=True),
            gr.Timer(active=view.changing),
            gr.Timer(active=not view.changing),
            html.waiting(view.waiting),
            gr.update(interactive=bool(view.waiting) and not view.running),
            gr.update(visible=bool(view.waiting) and not view.running),
            gr.update(interactive=increment is not None and not view.running),
            html.progress(view.job),
            gr.update(visible=view.running),
            html.verdict(view),
            gr.update(visible=view.can_undo),
            gr.update(visible=bool(lines)),
            "\n".join(lines),
        ]

    async def learn(request: gr.Request) -> str:
        require(login, request)
        try:
            await fine_tuning.start()
        except CifarLitError as error:
            return problem(str(error))
        return ""

    async def learn_increment(increment: Increment | None, request: gr.Request) -> str:
        require(login, request)
        if increment is None:
            return problem("Upload an increment first.")
        try:
            await fine_tuning.start(increment.path)
        except CifarLitError as error:
            return problem(str(error))
        return ""

    async def end(request: gr.Request) -> str:
        require(login, request)
        await fine_tuning.stop()
        return ""

    async def undo_it(request: gr.Request) -> str:
        return await bring_back(request, discard=False)

    async def undo_and_discard(request: gr.Request) -> str:
        return await bring_back(request, discard=True)

    async def bring_back(request: gr.Request, *, discard: bool) -> str:
        require(login, request)
        try:
            await fine_tuning.undo(discard=discard)
        except CifarLitError as error:
            return problem(str(error))
        return html.done("The version before answers again.")

    async def drop(request: gr.Request) -> str:
        require(login, request)
        try:
            await desk.put_away()
        except CifarLitError as error:
            return problem(str(error))
        return html.done("They were put aside.")

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
