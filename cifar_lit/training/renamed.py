"""Options that a command had in earlier releases, in configs and on the command line, under the names of today."""

import re
from pathlib import Path

import yaml

RENAMED = {"blend": "interpolation", "any_standing": "any_status"}
"""By what they were called: options of a command, not arguments of a class, which may be anybody's."""


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
    if not isinstance(options, dict) or not options.keys() & RENAMED.keys():
        return config
    renamed = {RENAMED.get(name, name): value for name, value in options.items()}
    copy = folder / path.name
    copy.write_text(yaml.safe_dump(renamed))
    return str(copy)


def with_new_name(arg: str) -> str:
    """An argument of the command line: `--blend.shares=[0.5]` as `--interpolation.shares=[0.5]`."""
    found = re.match(r"--([\w-]+)", arg)
    now = RENAMED.get(found[1].replace("-", "_")) if found else None
    return arg if found is None or now is None else f"--{now.replace('_', '-')}{arg[found.end() :]}"
