"""The tab where a visitor has pictures classified."""

from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt

from cifar_lit.data.formats import ACCEPTED
from cifar_lit.data.images import MAX_BYTES
from cifar_lit.errors import CifarLitError
from cifar_lit.inference.service import ServedPrediction, Service
from cifar_lit.page import answer as shown
from cifar_lit.page.examples import load_examples
from cifar_lit.page.guarded import text_of, told
from cifar_lit.page.rendering import SAYS_CHANGES, note, render, script
from cifar_lit.page.uploads import do_for_each, read_picture
from cifar_lit.serving.uploads import MAX_FILES

_THUMBNAIL = 128
HINT = note("The answer will stand here. Choose a picture, paste one, use the camera, or try an example.")

Pixels = npt.NDArray[np.uint8]
Outcome = ServedPrediction | str


@dataclass
class _Turn:
    """Which picture a visitor looks at: answers to those before come too late.

    Attributes:
        number: goes up with each picture, and when it is taken away.
    """

    number: int = 0

    def next(self) -> int:
        self.number += 1
        return self.number


def build_classify(service: Service) -> gr.Image:
    """Adds the tab's components and events to the page that is being built; gives that of the visitor's picture."""
    turn, turn_of_many = gr.State(_Turn()), gr.State(_Turn())
    with gr.Row(equal_height=False, elem_id="classify"):
        image = gr.Image(
            label="Your picture",
            sources=["upload", "clipboard", "webcam"],
            height=320,
            format="png",
            buttons=["fullscreen"],
            placeholder="Drop a picture here,\nor click to choose one",
            alt_text="The picture that you chose",
            elem_id="picture",
        )
        verdict = gr.HTML(
            HINT, js_on_load=SAYS_CHANGES + script("into_view", FIRST="#picture", LAST="#answer"), elem_id="answer"
        )
        details = gr.HTML("", elem_id="seen")
        examples = gr.HTML(
            render("examples", examples=load_examples(), side=_THUMBNAIL),
            js_on_load=script("choose_example"),
            elem_id="examples",
        )
    with gr.Accordion("Several pictures at once", open=False, elem_id="several"):
        files = gr.File(
            label=f"Up to {MAX_FILES} pictures",
            file_count="multiple",
            file_types=["image"],
            height=160,
            elem_id="pictures",
        )
        answers = gr.HTML("", js_on_load=SAYS_CHANGES, elem_id="answers")
    # Shapes of what programs are answered; the page itself has HTML.
    label = gr.Label(label="Probabilities", visible=False)
    sentence = gr.Markdown(label="Sentence", visible=False)
    results = gr.JSON(label="Answers", visible=False)

    async def show(image: Any, turn: _Turn) -> Any:
        number = turn.next()
        shown_answer = (HINT, "") if image is None else await _shown_answer(service, image)
        return shown_answer if number == turn.number else (gr.skip(), gr.skip())

    async def show_many(files: Any, turn: _Turn) -> Any:
        number = turn.next()
        try:
            html = shown.table(await _answers(service, files)) if files else ""
        except CifarLitError as error:
            html = note(str(error), "problem")
        return html if number == turn.number else gr.skip()

    async def predict(image: Any) -> tuple[dict[str, float] | None, str]:
        if image is None:
            return None, ""
        try:
            answer = await service.predict(await read_picture(image))
        except CifarLitError as error:
            raise told(shown.sorry(error)) from error
        found = answer.prediction
        said = f"**{found.prediction}**, with {found.confidence:.1%} confidence. Answered by {found.version}."
        return found.probabilities, said + shown.noted(answer)

    async def predict_many(files: Any) -> list[dict[str, Any]]:
        """Classifies several image files, up to 64; gives a list in their order. Each item has `filename`, and either
        `prediction`, `confidence`, `probabilities`, `version` and perhaps `note`, or `error`: one bad picture does not
        spoil the others."""
        rows = await _answers(service, files or [])
        return [{"filename": name, **_as_dict(outcome)} for name, outcome in rows]

    # None of it goes through Gradio's queue, which looks twenty times a second: the service has its own.
    private: dict[str, Any] = {"queue": False, "trigger_mode": "multiple", "api_visibility": "private"}
    image.change(show, [image, turn], [verdict, details], **private)
    files.change(show_many, [files, turn_of_many], answers, **private)
    examples.select(_chosen, None, image, show_progress="hidden", **private)
    offer = (
        f"Classifies an image file ({ACCEPTED}, up to {MAX_BYTES >> 20} MiB); gives the probability of each class and "
        "a sentence."
    )
    gr.on([], predict, image, [label, sentence], api_name="predict", api_description=offer, queue=False)
    gr.on([], predict_many, files, results, api_name="predict_many", queue=False)
    return image


async def _shown_answer(service: Service, image: Any) -> tuple[str, str]:
    """The answer and its details, as HTML."""
    try:
        answer, heat = await service.explain(await read_picture(image))
    except CifarLitError as error:
        return note(shown.sorry(error), "problem"), ""
    return shown.verdict(answer), shown.details(answer, heat)


async def _answers(service: Service, uploads: Any) -> list[tuple[str, Outcome]]:
    """Of each upload its name, and its answer or what is wrong with it.

    Raises:
        InputError: there are too many.
    """

    async def answer(upload: Any) -> ServedPrediction:
        return await service.predict(await read_picture(upload))

    return await do_for_each(uploads, answer, shown.sorry)


def _as_dict(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, str):
        return {"error": outcome}
    return outcome.prediction.as_dict() | ({"note": outcome.note} if outcome.note else {})


def _chosen(event: gr.EventData) -> Pixels | None:
    name = text_of(event, "name")
    return next((example.pixels for example in load_examples() if example.name == name), None)
