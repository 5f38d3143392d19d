"""Imports point one way between the rooms of the package, and importing does nothing else."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import cifar_lit
from cifar_lit import extras

PACKAGE = Path(cifar_lit.__file__).parent
FLOOR = {"__init__", "cifar10", "errors", "extras", "files", "memory", "seeding"}
ROOMS = ["native", "data", "evaluation", "models", "registry", "interop", "training", "inference", "feedback"]
ROOMS += ["serving", "page", "api", "commands", "cli", "__main__"]
"""From the bottom, above the floor. A room imports from itself, from the floor and from the rooms before it."""


def module_name(path: Path) -> str:
    parts = ["cifar_lit", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports(name: str) -> set[str]:
    """Modules that a module names in any import statement, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (members & set(MODULES)) or {str(node.module)}
    return found


@functools.cache
def reach(name: str) -> set[str]:
    """All modules that importing a module of ours leads to through modules of ours."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += imports(each) if each in MODULES else []
    return seen


def room(name: str) -> str:
    return (name.split(".") + ["__init__"])[1]


def in_package(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def modules_of(*rooms: str) -> list[str]:
    found = [name for name in MODULES if room(name) in rooms]
    assert found
    return found


def table_of_imports() -> str:
    """Which room imports from which, as a Markdown table with a row for each that does."""
    rooms = [each for each in ROOMS if (PACKAGE / each).is_dir()]
    arrows = {
        (room(name), room(other)) for name in MODULES for other in imports(name) if in_package(other, "cifar_lit")
    }
    lines = [f"| imports from | {' | '.join(rooms)} |", "|---" * (len(rooms) + 1) + "|"]
    for own in ROOMS:
        marks = ["●" if (own, each) in arrows and own != each else "" for each in rooms]
        if any(marks):
            lines.append(f"| {own} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def python(code: str) -> str:
    """What a new interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_every_module_is_in_a_known_room() -> None:
    assert {room(name) for name in MODULES} == FLOOR | set(ROOMS)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name: str) -> None:
    own = room(name)
    below = FLOOR if own in FLOOR else FLOOR | set(ROOMS[: ROOMS.index(own) + 1])
    wrong = {other for other in imports(name) if in_package(other, "cifar_lit") and room(other) not in below}
    assert not wrong


def test_the_architecture_page_has_the_table_of_imports() -> None:
    assert table_of_imports() in (PACKAGE.parent / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("name", modules_of("inference", "feedback", "serving", "page"))
def test_serving_leads_to_nothing_that_trains(name: str) -> None:
    forbidden = (*extras.MODULES["train"], "lightning", "cifar_lit.models", "cifar_lit.interop", "cifar_lit.training")
    assert not [other for other in reach(name) if in_package(other, *forbidden)]


@pytest.mark.parametrize("name", modules_of("interop"))
def test_interop_does_not_lead_to_lightning_or_training(name: str) -> None:
    forbidden = ("pytorch_lightning", "lightning", "cifar_lit.training", "cifar_lit.models.classifier")
    assert not [other for other in reach(name) if in_package(other, *forbidden)]


@pytest.mark.parametrize("name", modules_of("training", "inference", "feedback", "api"))
def test_neither_training_nor_inference_leads_to_http(name: str) -> None:
    http = ("fastapi", "starlette", "uvicorn", "gradio", "httpx")
    assert not [other for other in reach(name) if in_package(other, *http)]


@pytest.mark.parametrize("name", modules_of("serving"))
def test_serving_does_not_lead_to_gradio(name: str) -> None:
    assert not [other for other in reach(name) if in_package(other, "gradio")]


@pytest.mark.parametrize("name", ["cifar_lit.cli", "cifar_lit.registry.registry", "cifar_lit.commands.versions"])
def test_a_module_imports_no_torch(name: str) -> None:
    assert python(f"import sys, {name}; print('torch' in sys.modules)") == "False\n"


WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_the_base_predicts_and_manages_versions() -> None:
    absent = {module for modules in extras.MODULES.values() for module in modules}
    root = PACKAGE.parent
    commands = [
        ["predict", str(root / "docs" / "cat.jpg"), "--from", "v0001"],
        ["versions", "list"],
        ["versions", "show", "latest"],
        ["versions", "verify"],
        ["versions", "upgrade"],
        ["serve", "--help"],
    ]
    code = (
        f"{WITHOUT.format(absent=absent)}\nimport contextlib, os\nos.environ['CIFAR_LIT_REGISTRY'] = "
        f"{str(root / 'checkpoints')!r}\nfrom cifar_lit.cli import main\nfor command in {commands}:\n"
        "    with contextlib.redirect_stdout(sys.stderr):\n        try:\n            status = main(command)\n"
        "        except SystemExit as ended:\n            status = ended.code\n    print(status)"
    )
    assert python(code).split() == ["0"] * len(commands)


def test_the_server_needs_nothing_that_trains() -> None:
    names = ", ".join([*modules_of("inference", "feedback", "serving", "page"), "cifar_lit.commands.serve"])
    code = WITHOUT.format(absent=set(extras.MODULES["train"]))
    assert python(f"{code}\nimport {names.replace(', cifar_lit.serving.ray_app', '')}\nprint('done')") == "done\n"


def test_importing_any_module_starts_no_cuda_and_sets_up_no_logging() -> None:
    names = ", ".join(sorted(MODULES))
    code = (
        f"import {names}, logging, torch; "
        "ours = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith('cifar_lit')]; "
        "print(torch.cuda.is_initialized(), [logger.handlers for logger in [logging.root, *ours] if logger.handlers])"
    )
    assert python(code) == "False []\n"
