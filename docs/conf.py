"""Sphinx: `make docs` writes docs/_build/html. The references of the command line and of REST come from the code."""

import contextlib
import io
import sys
from pathlib import Path

from sphinx.application import Sphinx

from cifar_lit import __version__
from cifar_lit.cli import main
from cifar_lit.serving.app import create_app

HERE = Path(__file__).parent
GENERATED = HERE / "_generated"

project = "cifar_lit"
author = "The cifar_lit authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"cifar_lit {__version__}"
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_inherit_docstrings = False

COMMANDS = [
    "fit --help",
    "finetune --help",
    "validate --help",
    "test --help",
    "predict --help",
    "export --help",
    "import --help",
    "increment --help",
    "increment make --help",
    "increment check --help",
    "versions --help",
    "serve --help",
]


def help_of(command: str) -> str:
    """What `cifar-lit COMMAND` prints before it ends."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(command.split())
    return printed.getvalue()


def write_command_line() -> None:
    sections = [
        f"## cifar-lit {command.removesuffix(' --help')}\n\n```text\n{help_of(command).rstrip()}\n```\n"
        for command in COMMANDS
    ]
    text = "# Command line\n\nWhat `--help` prints, for each command.\n\n" + "\n".join(sections)
    (GENERATED / "command_line.md").write_text(text)


def write_rest() -> None:
    schema = create_app().openapi()
    rows = [
        f"| `{method.upper()} {path}` | {about['summary']} | {', '.join(sorted(about['responses']))} |"
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    ]
    text = (
        "# REST\n\nEach route, and the statuses that it responds with. A running server shows all of it, with "
        "examples, at `/docs`.\n\n| route | | status |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    (GENERATED / "rest.md").write_text(text)


def setup(app: Sphinx) -> None:
    GENERATED.mkdir(exist_ok=True)
    sys.argv[0] = "cifar-lit"
    app.connect("builder-inited", lambda app: (write_command_line(), write_rest()))
