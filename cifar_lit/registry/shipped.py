"""What is installed with the package: its configs, and a registry that serves where there is no other yet."""

import logging
import os
import re
from pathlib import Path

from cifar_lit.errors import SettingError
from cifar_lit.registry.registry import ROOT_VARIABLE, Registry

_FOLDER = Path(__file__).parents[1] / "shipped"
_CONFIGS = _FOLDER / "configs"
_REGISTRY = _FOLDER / "checkpoints"

_log = logging.getLogger(__name__)


def registry_to_read(root: str | os.PathLike[str] | None = None) -> Registry:
    """The registry in a folder; where none is named and there is none in the usual place, the shipped one.

    Args:
        root: as `Registry` takes it.
    """
    registry = Registry(root)
    if root or os.environ.get(ROOT_VARIABLE) or registry.root.exists() or not _REGISTRY.is_dir():
        return registry
    shipped = Registry(_REGISTRY)
    _log.warning("note: there is no registry %s yet: the shipped %s is used.", registry, shipped.pointer())
    return shipped


def config_path(name: str) -> str:
    """The path of a config file; a bare name such as `quick` is that of a shipped one.

    Raises:
        SettingError: there is no such file.
    """
    if Path(name).exists() or not re.fullmatch(r"[\w-]+", name):
        return name
    shipped = _CONFIGS / f"{name}.yaml"
    if not shipped.is_file():
        have = ", ".join(sorted(path.stem for path in _CONFIGS.glob("*.yaml")))
        raise SettingError(
            f"--config {name}: no such file, and the shipped ones are {have}. Name one of them or a file."
        )
    return str(shipped)
