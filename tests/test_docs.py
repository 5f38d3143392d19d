"""What the README and the documentation say holds."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
WEIGHTS = (ROOT / "docs/weights.md").read_text()
TRAIN = (ROOT / "docs/train.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
}
LINES = sorted(
    {
        (page, line.split("  #")[0].strip())
        for page, text in PAGES.items()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if "cifar-lit " in line
    }
)


@pytest.mark.usefixtures("unabridged")
def test_the_commands_to_try_without_data_work_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    block = re.search(r"<!-- tests/test_docs.py runs this block -->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for line in block[1].splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "cifar-lit"
        assert main(arguments) == 0, line
    assert "docs/cat.jpg" in capsys.readouterr().out.splitlines()[-1]


def test_the_lines_of_plain_torch_answer_as_the_version_does(monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"<!-- tests/test_docs.py runs this block -->\n```python\n(.*?)```", WEIGHTS, re.DOTALL)
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


@pytest.mark.slow
def test_the_search_with_optuna_names_the_best_of_its_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna = pytest.importorskip("optuna", reason="Optuna is not installed")
    block = re.search(r"<!-- tests/test_docs.py runs this block -->\n```python\n(.*?)```", TRAIN, re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    exec(block[1], {})
    study = optuna.load_study(study_name="smoke", storage="sqlite:///trials.db")  # it would go on from here
    versions = Registry("trials").versions()
    assert [each.state for each in study.trials] == [optuna.trial.TrialState.COMPLETE] * 4
    assert [each.value for each in study.trials] == [each.manifest.metrics["val/acc"] for each in versions]
    best = max(versions, key=lambda each: each.manifest.metrics["val/acc"])
    assert f"trials/{best.id}: val/acc {study.best_value:.4f} with " in capsys.readouterr().out.splitlines()[-1]
    learned = yaml.safe_load(best.read("config.yaml"))["model"]
    assert learned["optimizer"]["init_args"]["lr"] == study.best_params["lr"]
    assert learned["label_smoothing"] == study.best_params["label_smoothing"]


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_that_are_named_exist(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (folder / link).exists(), link
    for path in re.findall(r"(?:configs|tests|benchmarks|docs|cifar_lit)/[\w/]+\.\w+", PAGES[page]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", PAGES[page], re.MULTILINE)) <= targets


@pytest.fixture(scope="session")
def helps() -> dict[str, str]:
    """What each command prints with --help, by command."""
    return {}


@pytest.mark.parametrize(("page", "line"), LINES)
def test_commands_and_options_that_are_named_exist(
    helps: dict[str, str], capsys: pytest.CaptureFixture[str], page: str, line: str
) -> None:
    words = shlex.split(line, comments=True)
    words = words[words.index("cifar-lit") + 1 :]
    command = " ".join(words[: 2 if words[0] in ("increment", "versions") else 1])
    if command not in helps:
        for each in [command, *(["fit"] if command == "sweep" else [])]:  # a sweep takes what fit does
            with contextlib.suppress(SystemExit):
                main([*each.split(), "--help"])
        helps[command] = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            option = ".".join(word.split("=")[0].rstrip("+").split(".")[:2])
            assert re.search(rf"{re.escape(option)}\b", helps[command]), option


def test_architecture_names_every_room() -> None:
    rooms = {path.name for path in (ROOT / "cifar_lit").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(re.findall(r"^\| `(\w+)/` ", PAGES["docs/architecture.md"], re.MULTILINE))


def test_every_benchmark_is_listed() -> None:
    named = set(re.findall(r"`([\w*]+\.(?:py|sh|json|md))`", PAGES["benchmarks/README.md"]))
    scripts = {path.name for pattern in ("*.py", "*.sh") for path in (ROOT / "benchmarks").glob(pattern)}
    assert {name for name in scripts if not name.startswith("gpu_") or name == "gpu_once.sh"} <= named
    assert {name for name in named if name.endswith((".py", ".sh")) and "*" not in name} - {"locustfile.py"} <= scripts


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1000
