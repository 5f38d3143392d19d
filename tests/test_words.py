"""The project says what the field says: house words of earlier releases do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [
    path
    for pattern in ("*.md", "*.py", "Makefile", "configs/*.yaml", "docs/*.md", "benchmarks/*.py", "cifar_lit/**/*.*")
    for path in sorted(ROOT.glob(pattern))
    if path.name != "CHANGELOG.md"  # which says what was renamed
    and path.suffix in ("", ".md", ".py", ".pyi", ".yaml", ".cpp", ".h", ".html", ".css", ".js")
]

HOUSE_WORDS = {
    r"standings?": "status",
    r"lessons?": "forgetting report",
    r"blend\w*": "weight interpolation",
    r"teachers?": "FineTuneService",
    r"drawn": "synthetic, or sampled",
    r"\w*pictures?": "image",
    r"\w*answer(s|ed|ing)?": "prediction, or response",
    r"mend(s|ed|ing)?": "suggestion, or fix",
    r"rounds": "ns_steps",
    r"drop_p_value": "noninferiority_p_value",
    r"gatekeepers?": "RequestLimitsMiddleware",
    r"frozen_\w+": "compiled inference, which is gone",
    r"lean_?steps?": "ReduceStepOverhead",
    r"patience\w*": "jitter",
    r"absences?": "unavailable_reason",
}
"""Regular expressions of whole words, and what the field says."""

EXCEPTIONS = {
    r"standings?": (r"registry/manifest\.py", r"glossary\.md", r"generations\.py", r"renamed\.py"),  # schemas 1 and 2
    r"lessons?": (r"page/.*",),  # a file in versions of older releases
    r"blend\w*": (r"generations\.py", r"renamed\.py"),  # what e14267a called it
    r"\w*pictures?": (r"page/.*", r"administrator\.py"),  # a visitor's word, and components of the page
    r"\w*answer(s|ed|ing)?": (r"page/.*", r"good_clients\.py"),  # a visitor's word, and what the page says
    r"rounds": (
        r"renamed\.py",
        r"models/optimizers\.py",
        r"data/.*",
        r"native/.*",
        r"benchmarks/.*",
        r"docs/.*",
    ),  # rounding, and rounds of a measurement
    r"patience\w*": (r"training/fit\.py", r"\w+\.yaml", r"docs/.*", r"benchmarks/.*"),  # of early stopping
}
"""Files that may say it all the same."""


def finds(word: str, text: str) -> list[str]:
    return [found[0] for found in re.finditer(rf"\b{word}\b", text, re.IGNORECASE)]


@pytest.mark.parametrize("word", HOUSE_WORDS)
def test_house_words_are_gone(word: str) -> None:
    may = re.compile("|".join(EXCEPTIONS.get(word, ["$^"])))
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in TEXTS
        if not re.search(f"({may.pattern})$", str(path)) and (found := finds(word, path.read_text()))
    }
    assert not wrong, f"say {HOUSE_WORDS[word]}"
