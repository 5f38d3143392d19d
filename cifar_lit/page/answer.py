"""How answers look and read: HTML of our own, with pictures inside it, so that nothing else has to be fetched."""

import base64
import math
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from cifar_lit.data.images import encode_png
from cifar_lit.errors import CifarLitError, ImageError
from cifar_lit.inference.predictor import Prediction
from cifar_lit.inference.service import ServedPrediction

Pixels = npt.NDArray[np.uint8]

_ON_A_PHONE = "On a phone, choose a screenshot of it instead."
_SURE, _LEANING, _TORN = 0.9, 0.6, 0.4
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_CAVEAT = """It knows nothing but its classes, and names one of them whatever it is shown. Doubt can be a sign that
a picture shows something else, yet it may well be sure of a thing that it has never met."""
_GLOW = np.array([255, 196, 64], np.float32)


def percent(share: float) -> str:
    """Never 100 %, for nothing is certain, and never 0 %."""
    return f"{min(max(100 * share, 0.1), 99.9):.1f} %"


def remark(prediction: Prediction) -> str:
    """How much the answer is worth, in words."""
    second, next_share = _ranked(prediction)[1]
    if prediction.confidence >= _SURE:
        return "The network has hardly any doubt. It can still be wrong."
    if prediction.confidence >= _LEANING:
        return f"The network leans towards this; {second} ({percent(next_share)}) comes next."
    if prediction.confidence >= _TORN:
        return f"The network is not sure: {second} ({percent(next_share)}) is possible too."
    return (
        f"The network does not know: it hesitates as if between {effective_classes(prediction):.0f} classes. Perhaps "
        "the picture shows none of its classes, or its subject is small, cut off or far from the middle."
    )


def noted(answer: ServedPrediction) -> str:
    """What of the file was not looked at, as a sentence after others; empty if nothing was left."""
    return f" {answer.note[0].upper()}{answer.note[1:]}." if answer.note else ""


def effective_classes(prediction: Prediction) -> float:
    """Among how many equally probable classes the network would hesitate as much, 1..K: e to the entropy."""
    return math.exp(-sum(p * math.log(p) for p in prediction.probabilities.values() if p > 0))


def hint() -> str:
    return (
        '<p class="hint">The answer will stand here. Choose a picture, paste one, use the camera, or try an '
        "example.</p>"
    )


def looking() -> str:
    return '<p class="hint">Looking at the picture …</p>'


def sorry(error: CifarLitError) -> str:
    """What a visitor reads of a picture that was not answered."""
    advice = f" {_ON_A_PHONE}" if isinstance(error, ImageError) and "screenshot" not in str(error) else ""
    return f"This can't be classified: {error}{advice}"


def problem(sentence: str) -> str:
    return f'<p class="problem">{escape(sentence)}</p>'


def verdict(answer: ServedPrediction) -> str:
    """The class, how much that is worth, and the probability of each class as a bar."""
    prediction = answer.prediction
    bars = "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="bar"><i style="width:{100 * p:.2f}%"></i></td>'
        f'<td class="figure">{percent(p)}</td></tr>'
        for name, p in _ranked(prediction)
    )
    return f"""<p class="verdict"><strong>{escape(prediction.prediction)}</strong>
<span class="share">{percent(prediction.confidence)}</span></p>
<p class="remark">{escape(f"{remark(prediction)}{noted(answer)}")}</p>
<table id="probabilities" aria-live="off" aria-label="Probability of each class"><tbody>
{bars}
</tbody></table>"""


def details(answer: ServedPrediction, heat: npt.NDArray[np.float32]) -> str:
    """What the network saw, where it looked, who answered and how long it took.

    Args:
        answer: to a picture.
        heat: float32 (32, 32), 0..1, as of `Predictor.heat_map`.
    """
    found = answer.prediction
    name = escape(found.prediction)
    looked = f"Bright spots spoke for {name}. A rough hint, no outline."
    if not heat.any():
        looked = f"No single spot spoke for {name}."
    total, decode, queue, model = (
        f"{1000 * seconds:.0f} ms"
        for seconds in (
            answer.decode_s + answer.queue_s + answer.model_s,
            answer.decode_s,
            answer.queue_s,
            answer.model_s,
        )
    )
    most = len(found.probabilities)
    among = effective_classes(found)
    return f"""<div class="figures">
<figure>{picture(answer.pixels, "Your picture as the network saw it: its central square in 32 by 32 pixels")}
<figcaption><strong>What it saw</strong><br>The middle of your picture, in 32 × 32 pixels.</figcaption></figure>
<figure>{picture(spotlight(answer.pixels, heat), f"The same picture, bright where it spoke for {found.prediction}")}
<figcaption><strong>Where it looked</strong><br>{looked}</figcaption></figure>
<div class="facts">
<p>Answered by <strong class="version">{escape(found.version)}</strong> in <strong>{total}</strong>:</p>
<ul><li>{decode} to read the picture</li><li>{queue} in the queue</li><li>{model} in the network</li></ul>
<p>It hesitated as if between <strong>{among:.1f}</strong> equally likely classes of {most} (entropy
{math.log2(among):.1f} of {math.log2(most):.1f} bits).</p>
<p>{_CAVEAT}</p></div></div>"""


def table(rows: Sequence[tuple[str, ServedPrediction | str]]) -> str:
    """Answers to several pictures.

    Args:
        rows: of each picture its name, and its answer or what was wrong with it.
    """
    body = "\n".join(_row(name, outcome) for name, outcome in rows)
    num_answered = sum(isinstance(outcome, ServedPrediction) for _, outcome in rows)
    return f"""<div class="scroll"><table class="answers">
<caption>{num_answered} of {len(rows)} pictures classified</caption>
<thead><tr><th scope="col">Seen</th><th scope="col">File</th><th scope="col">ServedPrediction</th></tr></thead><tbody>
{body}
</tbody></table></div>"""


def picture(pixels: Pixels, alt: str) -> str:
    """An `img` with the picture inside it; pixels are uint8 (height, width, 3)."""
    png = encode_png(pixels)
    return f'<img class="pixels" alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def spotlight(pixels: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Lights what is hot, and leaves the rest grey and dim.

    Args:
        pixels: uint8 (height, width, 3), RGB.
        heat: float32 (height, width), 0..1.
    """
    colours = pixels.astype(np.float32)
    dim = 0.3 * (colours @ _GREY)[..., None] + 10
    lit = 0.6 * colours + 0.4 * _GLOW
    share = heat[..., None] ** 0.7
    lighted: Pixels = ((1 - share) * dim + share * lit).round().clip(0, 255).astype(np.uint8)
    return lighted


def _ranked(prediction: Prediction) -> list[tuple[str, float]]:
    return sorted(prediction.probabilities.items(), key=lambda item: -item[1])


def _row(name: str, outcome: ServedPrediction | str) -> str:
    shown = f'<td class="name" title="{escape(name)}">{escape(name)}</td>'
    if isinstance(outcome, str):
        return f'<tr><td></td>{shown}<td class="problem">{escape(outcome)}</td></tr>'
    found = outcome.prediction
    doubt = "" if found.confidence >= _LEANING else " (not sure)"
    return (
        f"<tr><td>{picture(outcome.pixels, '')}</td>{shown}<td><strong>{escape(found.prediction)}</strong> "
        f"{percent(found.confidence)}{doubt}{'.' if outcome.note else ''}{escape(noted(outcome))}</td></tr>"
    )
