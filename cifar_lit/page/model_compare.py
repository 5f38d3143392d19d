"""Two versions' answers to one picture of the visitor's, side by side."""

import asyncio
from collections.abc import Mapping
from typing import Any

import gradio as gr
from jinja2 import UndefinedError

from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import Service
from cifar_lit.page.guarded import MISFIT, QUIET, told
from cifar_lit.page.model_view import ModelView
from cifar_lit.page.rendering import image_url, note, render
from cifar_lit.page.uploads import read_picture


def build_comparison(service: Service, view: ModelView, seen: gr.State) -> None:
    """Adds the components and events to the page that is being built.

    Args:
        service: decodes the picture.
        view: answers.
        seen: changes whenever versions do.
    """
    gr.HTML(
        note("Choose two versions and a picture: see whether they differ.", "m-hint"),
        elem_id="model-compare-title",
        apply_default_css=False,
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            with gr.Row():
                one = gr.Dropdown([], label="One", elem_id="model-one", allow_custom_value=True, min_width=120)
                other = gr.Dropdown(
                    [], label="The other", elem_id="model-other", allow_custom_value=True, min_width=120
                )
            picture = gr.Image(
                label="A picture", sources=["upload", "clipboard", "webcam"], elem_id="model-picture", height=260
            )
        with gr.Column(scale=3, min_width=280):
            compared = gr.HTML(comparison(None), elem_id="model-compared", apply_default_css=False)
    answers = gr.JSON(label="Answers", visible="hidden", elem_id="model-answers")
    for each in (one, other):  # else programs would be told that nothing may be chosen
        each.api_info = lambda: {"type": "string", "description": "an id such as v0001, or latest"}  # type: ignore[method-assign]

    def offer(first: str | None, second: str | None) -> list[Any]:
        ids = [entry.id for entry in reversed(view.entries()[0])]
        first = first or view.served_id or next(iter(ids), None)
        second = second or next((each for each in ids if each != first), first)
        return [gr.update(choices=ids, value=first), gr.update(choices=ids, value=second)]

    async def compare(
        image: gr.data_classes.FileData | None, version: str | None, other: str | None
    ) -> dict[str, Any] | None:
        """Has two versions answer one picture.

        Args:
            image: a JPEG, PNG, WebP, GIF, BMP, AVIF or HEIC.
            version: an id such as v0001, or latest for the one that answers now.
            other: the same.

        Returns:
            answers: of each version {"prediction", "confidence", "probabilities", "version"}; seen: the 32 x 32 pixels
            that both saw, as the data URL of a PNG.
        """
        if image is None:
            return None
        try:
            pixels = await service.decode(await read_picture(image))
            found = await asyncio.to_thread(view.compare, pixels, [str(version), str(other)])
        except CifarLitError as error:
            raise told(f"This can't be compared: {view.words(error)}") from error
        return {"answers": [each.as_dict() for each in found], "seen": image_url(pixels)}

    seen.change(offer, [one, other], [one, other], queue=False, **QUIET)
    triggers = [picture.change, one.input, other.input]
    gr.on(
        triggers,
        compare,
        [picture, one, other],
        answers,
        api_name="compare",
        concurrency_limit=1,
        show_progress="hidden",
    )
    answers.change(comparison, answers, compared, **QUIET)


def comparison(found: Mapping[str, Any] | None) -> str:
    """What `compare` found, as HTML.

    Raises:
        gradio.Error: it is something else: the page sends it back, and so may a program.
    """
    names: list[str] = []
    try:
        if found:
            one, other = (each["probabilities"] for each in found["answers"])
            names = sorted(one, key=lambda name: -max(one[name], other.get(name, 0)))
        return render("comparison", found=found, names=names)
    except (LookupError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise told(MISFIT) from error
