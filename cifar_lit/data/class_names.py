"""Words that people use for the ten classes: of folders, of labels in a table or in an array."""

import difflib
import re
from dataclasses import dataclass

from cifar_lit.cifar10 import CLASS_NAMES

_ALIASES = {
    "plane": "airplane",
    "aeroplane": "airplane",
    "aircraft": "airplane",
    "jet": "airplane",
    "airliner": "airplane",
    "car": "automobile",
    "auto": "automobile",
    "sedan": "automobile",
    "kitten": "cat",
    "puppy": "dog",
    "toad": "frog",
    "pony": "horse",
    "boat": "ship",
    "vessel": "ship",
    "lorry": "truck",
}
_ORDINAL = re.compile(r"^\d+[\s._-]+(?=\D)")


@dataclass(frozen=True)
class Meaning:
    """What a word means.

    Attributes:
        label: 0..9.
        is_sure: the word is the class's own name, but for capitals, a plural or a number before it.
    """

    label: int
    is_sure: bool


def meaning_of(word: str) -> Meaning | None:
    """The class that a word means or may mean; none if it is like none of them."""
    plain = _ORDINAL.sub("", word.strip().casefold()).replace("_", " ").replace("-", " ").strip()
    for name in (plain, plain.removesuffix("s"), plain.removesuffix("es")):
        if name in CLASS_NAMES:
            return Meaning(CLASS_NAMES.index(name), is_sure=True)
    if re.fullmatch(r"\d", word.strip()):
        return Meaning(int(word), is_sure=False)
    for name in (plain, plain.removesuffix("s"), plain.removesuffix("es"), plain.removesuffix("ies") + "y"):
        if name in _ALIASES:
            return Meaning(CLASS_NAMES.index(_ALIASES[name]), is_sure=False)
    alike = difflib.get_close_matches(plain, CLASS_NAMES, 1, cutoff=0.8)
    return Meaning(CLASS_NAMES.index(alike[0]), is_sure=False) if alike else None


def names_of(num_classes: int) -> tuple[str, ...]:
    """For data that names no classes: CIFAR-10's names if there are ten, else "class 0", "class 1" and so on."""
    if num_classes == len(CLASS_NAMES):
        return CLASS_NAMES
    return tuple(f"class {label}" for label in range(num_classes))
