"""What `--from` may name: a version of the registry, or a file with weights. Nothing here needs torch."""

import re
from pathlib import Path

from cifar_lit.registry.registry import LATEST

_VERSION = re.compile(r"v?\d+|[\w-]+")


def is_file(reference: str) -> bool:
    """Whether a reference means a file or a folder rather than a version: it has an ending or a slash, or is there."""
    if _VERSION.fullmatch(reference) is None:
        return True
    return not re.fullmatch(rf"v\d+|{LATEST}", reference) and Path(reference).exists()
