"""Options of earlier releases, in configs and on the command line, under the names of today."""

from pathlib import Path
from typing import Any

import yaml

RENAMED = {"rounds": "ns_steps", "blend": "interpolation", "any_standing": "any_status"}
"""By what they were called. No option of today has one of these names."""


def with_new_names(config: str, folder: Path) -> str:
    """The path of a config with today's names: its own, or of a copy where options in it were renamed.

    Args:
        config: path of a YAML file. What is none is handed on, to be refused by the parser.
        folder: where a copy goes.
    """
    path = Path(config)
    try:
        text = path.read_text() if path.is_file() else ""
        options = yaml.safe_load(text) if any(name in text for name in RENAMED) else None
    except (OSError, ValueError, yaml.YAMLError):
        return config
    renamed = _renamed(options)
    if renamed == options:
        return config
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(renamed))
    return str(copy)


def with_new_name(arg: str) -> str:
    """An argument of the command line: `--blend.shares=[0.5]` as `--interpolation.shares=[0.5]`."""
    if not arg.startswith("--"):
        return arg
    option, *value = arg.split("=", 1)
    return "=".join(["--" + ".".join(map(_renamed_part, option[2:].split("."))), *value])


def _renamed_part(part: str) -> str:
    name = RENAMED.get(part.replace("-", "_"))
    if name is None:
        return part
    return name.replace("_", "-") if "-" in part else name


def _renamed(options: Any) -> Any:
    if isinstance(options, dict):
        return {RENAMED.get(name, name): _renamed(value) for name, value in options.items()}
    return [_renamed(each) for each in options] if isinstance(options, list) else options
