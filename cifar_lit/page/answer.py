"""How answers to pictures read and look."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cifar_lit.errors import CifarLitError, ImageError
from cifar_lit.inference.predictor import Prediction
from cifar_lit.inference.service import ServedPrediction
from cifar_lit.page.rendering import percent, render

Pixels = npt.NDArray[np.uint8]

_ON_A_PHONE = "On a phone, choose a screenshot of it instead."
_SURE, _LEANING, _TORN = 0.9, 0.6, 0.4
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_GLOW = np.array([255, 196, 64], np.float32)


def remark(prediction: Prediction) -> str:
    """How much the answer is worth, in words."""
    (second, next_share) = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[1]
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


def sorry(error: CifarLitError) -> str:
    """What a visitor reads of a picture that was not answered."""
    advice = f" {_ON_A_PHONE}" if isinstance(error, ImageError) and "screenshot" not in str(error) else ""
    return f"This can't be classified: {error}{advice}"


def verdict(answer: ServedPrediction) -> str:
    """The class, how much that is worth, and the probability of each class as a bar, as HTML."""
    return render("verdict", answer=answer, remark=f"{remark(answer.prediction)}{noted(answer)}")


def details(answer: ServedPrediction, heat: npt.NDArray[np.float32]) -> str:
    """What the network saw, where it looked, who answered and how long it took, as HTML.

    Args:
        answer: to a picture.
        heat: float32 (32, 32), 0..1, as of `Predictor.heat_map`.
    """
    among = effective_classes(answer.prediction)
    return render(
        "seen",
        answer=answer,
        lit=spotlight(answer.pixels, heat),
        spoke=heat.any(),
        among=among,
        bits=math.log2(among),
        most_bits=math.log2(len(answer.prediction.probabilities)),
    )


def table(rows: Sequence[tuple[str, ServedPrediction | str]]) -> str:
    """Answers to several pictures, as HTML.

    Args:
        rows: of each picture its name, and its answer or what was wrong with it.
    """
    return render("answers", rows=rows, sure=_LEANING, noted=noted)


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
