"""The tab that shows every version, compares two of them, and lets those who are signed in choose what is served."""

import asyncio
import logging
from typing import Any

import gradio as gr
from gradio.events import api

from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import Service
from cifar_lit.page.guarded import QUIET, text_of, told
from cifar_lit.page.model_compare import build_comparison
from cifar_lit.page.model_view import REASON, Change, ModelView, warning
from cifar_lit.page.rendering import note, render, script
from cifar_lit.serving.login import OFF, Login

_REFRESH_S = 3.0

_log = logging.getLogger(__name__)

Updates = list[Any]


def build_model(service: Service, login: Login) -> None:
    """Adds the tab's components and events to the page that is being built."""
    view = ModelView(service)
    with gr.Tabs(elem_id="model-tabs"):
        with gr.Tab("All versions", id="model-all", elem_id="tab-model-all"):
            seen = _build_versions(view, login)
        with gr.Tab("Compare two", id="model-compare", elem_id="tab-model-compare"):
            build_comparison(service, view, seen)
        with gr.Tab("History", id="model-history", elem_id="tab-model-history"):
            _build_history(view, seen)

    def versions() -> list[dict[str, Any]]:
        """All versions, oldest first, as `cifar-lit versions list --json` prints them."""
        try:
            return view.catalogue.summaries()
        except CifarLitError as error:
            raise told(view.words(error)) from error

    api(versions, api_name="versions")


def _build_versions(view: ModelView, login: Login) -> gr.State:
    """The list, the chosen version, and what may be done with it; gives what changes with them."""
    gr.HTML(
        note(
            "Each training makes a new one. The one that answers is the newest that proved to be good enough. Choose "
            "one to read its report.",
            "m-hint",
        ),
        elem_id="model-title",
        apply_default_css=False,
    )
    listed = gr.HTML(elem_id="model-versions", js_on_load=script("choose_version"), apply_default_css=False)
    with gr.Row(equal_height=True, elem_id="model-choice"):
        chosen = gr.Dropdown(
            [], label="Chosen version", elem_id="model-version", allow_custom_value=True, min_width=160
        )
        refresh = gr.Button("Refresh", elem_id="model-refresh", scale=0, min_width=120)
    account = gr.HTML(elem_id="model-account", apply_default_css=False)
    with gr.Row(visible=False, elem_id="model-actions") as actions:
        promote = gr.Button("Serve it", elem_id="model-promote", variant="primary")
        rollback = gr.Button("Go back to the version before", elem_id="model-rollback")
    with gr.Group(visible=False, elem_id="model-confirm") as confirm:
        question = gr.HTML(elem_id="model-question", apply_default_css=False, padding=True)
        with gr.Row():
            yes = gr.Button("Yes, do it", elem_id="model-yes", variant="primary")
            no = gr.Button("Cancel", elem_id="model-no")
    outcome = gr.HTML(elem_id="model-outcome", apply_default_css=False)
    details = gr.HTML(elem_id="model-details", apply_default_css=False)
    seen, pending = gr.State(0), gr.State(None)
    shown = [seen, listed, chosen, details, promote, rollback]

    def show(version_id: str | None = None) -> Updates:
        """New values of `shown`."""
        stamp = view.stamp()
        entries, problem = view.entries()
        ids = [entry.id for entry in reversed(entries)]
        if version_id not in ids:
            version_id = view.served_id if view.served_id in ids else next(iter(ids), None)
        table = warning(problem) if problem else view.table(version_id)
        return [
            stamp,
            table,
            gr.update(choices=ids, value=version_id),
            view.details(version_id),
            *offer(version_id),
        ]

    def show_if_new(stamp: int, version_id: str | None) -> Updates:
        view.catalogue.check_next(view.entries()[0])
        return show(version_id) if view.stamp() != stamp else [gr.skip()] * len(shown)

    def offer(version_id: str | None) -> Updates:
        """What the buttons say."""
        served = view.served_id
        text = f"{version_id} answers already" if version_id == served else f"Let {version_id} answer"
        return [
            gr.update(value=text, interactive=version_id not in (served, None)),
            gr.update(interactive=bool(served)),
        ]

    def choose(version_id: str | None) -> Updates:
        return [view.table(version_id), view.details(version_id), *offer(version_id)]

    def choose_row(event: gr.EventData) -> Updates:
        version_id = text_of(event, "value")
        return [version_id, *choose(version_id)]

    def greet(request: gr.Request) -> Updates:
        signed_in = login.knows(request)
        account = render("account", enabled=login.enabled, signed_in=signed_in, off=OFF)
        return [account, gr.update(visible=signed_in)]

    def ask_promote(version_id: str | None, request: gr.Request) -> Updates:
        login.require(request)
        return ask(lambda: view.pending("promote", str(version_id)))

    def ask_rollback(request: gr.Request) -> Updates:
        login.require(request)
        return ask(lambda: view.pending("rollback"))

    def ask(make: Any) -> Updates:
        try:
            change: Change = make()
        except CifarLitError as error:
            return [None, "", gr.update(visible=False), warning(view.words(error))]
        if change.action == "promote":
            replacing = f", replacing {change.champion}" if change.champion else ""
            text = f"Promote {change.version}{replacing}?"
        else:
            text = (
                f"Roll back to the version that was served before {change.champion}? {change.champion} is marked as "
                "rejected."
            )
        return [change, note(text, "m-question"), gr.update(visible=True), ""]

    async def act(change: Change | None, request: gr.Request) -> Updates:
        login.require(request)
        told = ""
        if change is not None:
            try:
                champion_id = await asyncio.to_thread(view.apply, change)
                _log.info("%s was made the champion %s", champion_id, REASON)
                told = await view.outcome(champion_id)
            except CifarLitError as error:
                told = warning(f"Nothing was changed: {view.words(error)}")
        return [None, gr.update(visible=False), told]

    def forget() -> Updates:
        return [None, gr.update(visible=False)]

    # When the page is loaded, and not through Gradio's queue: that is a stream and 5 ms of the server's time for each.
    gr.on(None, show, None, shown, queue=False, **QUIET)
    gr.on(None, greet, None, [account, actions], queue=False, **QUIET)
    gr.Timer(_REFRESH_S).tick(show_if_new, [seen, chosen], shown, queue=False, **QUIET)
    refresh.click(show, chosen, shown, **QUIET)
    chosen.input(choose, chosen, [listed, details, promote, rollback], **QUIET)
    row = listed.select(choose_row, None, [chosen, listed, details, promote, rollback], **QUIET)
    row.then(None, None, None, js=script("show_version"))
    asked = [pending, question, confirm, outcome]
    promote.click(ask_promote, chosen, asked, **QUIET)
    rollback.click(ask_rollback, None, asked, **QUIET)
    no.click(forget, None, [pending, confirm], **QUIET)
    acted = yes.click(act, pending, [pending, confirm, outcome], api_visibility="private", show_progress="minimal")
    acted.then(show, chosen, shown, **QUIET)
    return seen


def _build_history(view: ModelView, seen: gr.State) -> None:
    """What was served when."""
    gr.HTML(note("Which version answered when, and why.", "m-hint"), elem_id="model-history-title")
    periods = gr.HTML(elem_id="model-periods", apply_default_css=False)
    seen.change(lambda: render("history", periods=view.catalogue.periods()), None, periods, queue=False, **QUIET)
