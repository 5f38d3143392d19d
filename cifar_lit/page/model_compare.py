"""Two versions' answers to one picture of the visitor's, side by side."""

import asyncio
from typing import Any

import gradio as gr

from cifar_lit.data.images import encode_png
from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import Service
from cifar_lit.page import model_html as html
from cifar_lit.page.model_view import ModelView
from cifar_lit.page.uploads import read_picture


def build_comparison(service: Service, view: ModelView, seen: gr.State) -> None:
    """Adds the components and events to the page that is being built.

    Args:
        service: decodes the picture.
        view: answers.
        seen: changes whenever versions do.
    """
    gr.HTML(
        '<p class="m-hint">Choose two versions and a picture: see whether they differ.</p>',
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
            compared = gr.HTML(html.comparison(None), elem_id="model-compared", apply_default_css=False)
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
            sentence = f"This can't be compared: {view.words(error)}"
            raise gr.Error(sentence, duration=None, print_exception=False) from error
        png = encode_png(pixels)
        return {"answers": [each.as_dict() for each in found], "seen": html.png_url(png)}

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    seen.change(offer, [one, other], [one, other], queue=False, **quiet)
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
    answers.change(html.comparison, answers, compared, **quiet)
