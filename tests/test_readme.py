"""What the README says holds."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_commands_to_try_without_data_work_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    block = re.search(r"<!-- tests/test_readme.py runs this block -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for line in block[1].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "cifar-lit"
        assert main(arguments) == 0, line
    assert "docs/cat.jpg" in capsys.readouterr().out.splitlines()[-1]


def test_the_lines_of_plain_torch_answer_as_the_version_does(monkeypatch: pytest.MonkeyPatch):
    block = re.search(r"<!-- tests/test_readme.py runs this block -->\n```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    version = Registry(ROOT / "checkpoints").get("v0001")
    monkeypatch.chdir(version.path)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(each)[:, None, None] for each in (version.manifest.mean, version.manifest.std))
    names = {"images": images, "mean": mean, "std": std}
    exec(block[1], names)
    with torch.inference_mode():
        expected = load_network(version)(images.permute(0, 3, 1, 2))
    assert torch.allclose(names["logits"], expected, atol=1e-4)


def test_files_and_links_that_are_named_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    paths = links + re.findall(r"configs/\w+\.yaml", README)
    assert links
    for path in paths:
        assert (ROOT / path).exists(), path


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?<!increment )make ([a-z-]+)", README)) <= targets


def test_the_file_map_names_every_room():
    rooms = {path.name for path in (ROOT / "cifar_lit").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms <= set(re.findall(r"^  (\w+)/ ", README, re.MULTILINE))
