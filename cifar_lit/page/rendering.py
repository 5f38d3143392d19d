"""HTML from `templates/`, where all text is escaped, and scripts from `static/`. Nothing comes from the internet."""

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from cifar_lit.data.images import encode_png

STATIC = Path(__file__).parent / "static"
NOTHING = "–"
SAYS_CHANGES = "element.setAttribute('aria-live', 'polite');"


def render(name: str, **values: Any) -> str:
    """The template `templates/NAME.html`, filled in.

    Args:
        name: of the template.
        values: what it names; text in them never becomes markup.
    """
    return _environment.get_template(f"{name}.html").render(values)


def note(text: str, kind: str = "hint", role: str = "") -> str:
    """A paragraph.

    Args:
        text: what it says.
        kind: its CSS class.
        role: of ARIA, "alert" or "status"; none if empty.
    """
    return render("note", text=text, kind=kind, role=role)


def script(name: str, **constants: object) -> str:
    """The script `static/NAME.js`, behind definitions of the constants that it names."""
    given = "".join(f"const {constant} = {json.dumps(value)};\n" for constant, value in constants.items())
    return given + (STATIC / f"{name}.js").read_text(encoding="utf-8")


def percent(share: float) -> str:
    """Of a probability: never 100 %, for nothing is certain, and never 0 %."""
    if not 0.0005 <= share < 0.9995:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.1f} %"


def accuracy(value: object) -> str:
    """A share, 0..1, in percent."""
    return f"{100 * value:.2f}\N{NO-BREAK SPACE}%" if isinstance(value, int | float) else NOTHING


def moment(text: object) -> str:
    """A time, ISO 8601, as people write it."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return f"{when.day} {when:%b %Y, %H:%M}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def image_url(image: bytes | npt.NDArray[np.uint8]) -> str:
    """An image inside the page itself: nothing has to be fetched, or is left in a cache for others to download.

    Args:
        image: content of a PNG file, or RGB pixels, uint8 (height, width, 3).
    """
    png = image if isinstance(image, bytes) else encode_png(image)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


_environment = Environment(
    loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.filters |= {each.__name__: each for each in (percent, accuracy, moment, duration, image_url)}
_environment.filters["count_of"] = count
