import importlib
import re
import tomllib
from pathlib import Path

import pytest

from cifar_lit import cli, extras
from cifar_lit.errors import MissingExtraError

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


def modules(extra: str) -> set[str]:
    """Import names of what an extra requires; each package here is imported under its own name."""
    names = {re.split(r"[\[<>=!;]", each)[0] for each in PROJECT["optional-dependencies"][extra]}
    return {name.replace("-", "_") for name in names} - {"cifar_lit"}


@pytest.mark.parametrize("extra", extras.MODULES)
def test_the_modules_are_those_that_the_project_requires(extra: str) -> None:
    assert set(extras.MODULES[extra]) == modules(extra)


def test_the_base_requires_nothing_of_an_extra() -> None:
    base = {re.split(r"[<>=]", each)[0] for each in PROJECT["dependencies"]}
    assert base == {"numpy", "pillow", "onnxruntime"}


@pytest.mark.parametrize(
    ("command", "module", "told"),
    [
        ("fit", "pytorch_lightning", "`cifar-lit fit` needs pytorch_lightning"),
        ("import", "h5py", "`cifar-lit import` needs h5py"),
        ("increment", "torch.nn.functional", "`cifar-lit increment` needs torch"),
    ],
)
def test_a_command_names_the_extra_that_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, module: str, told: str
) -> None:
    absent(monkeypatch, module)
    assert cli.main([command]) == 2
    assert capsys.readouterr().err == f"error: {told}, which is not installed: pip install 'cifar-lit[train]'.\n"


def test_the_server_names_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    absent(monkeypatch, "gradio")
    assert cli.main(["serve"]) == 2
    assert capsys.readouterr().err == (
        "error: `cifar-lit serve` needs gradio, which is not installed: pip install 'cifar-lit[serve]'.\n"
    )


@pytest.mark.parametrize("module", ["my_network", "cifar_lit.data.nothing", None])
def test_a_module_that_no_extra_brings_is_no_matter_of_extras(
    monkeypatch: pytest.MonkeyPatch, module: str | None
) -> None:
    absent(monkeypatch, module)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["fit"])


def test_what_is_required_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.require("train", "--teach")
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(MissingExtraError, match=r"^--teach needs torch, .*: pip install 'cifar-lit\[train\]'\.$"):
        extras.require("train", "--teach")


def absent(monkeypatch: pytest.MonkeyPatch, module: str | None) -> None:
    """Has the command's module find that another one is not installed."""

    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(importlib, "import_module", refuse)
