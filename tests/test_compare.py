"""`cifar-lit compare`: what it says of two versions, and the paired test that it says it by."""

import json
from pathlib import Path

import pytest
import torch
from comparisons import comparison
from PIL import Image

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.evaluation import version_comparison
from cifar_lit.evaluation.comparison import Comparison
from cifar_lit.evaluation.evaluation import Evaluation

DATA = ["--data.source", "synthetic", "--data.num_synthetic", "200"]


@pytest.mark.parametrize(
    ("lost", "gained", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 0.021484375),  # 2 * (1 + 10) / 2**10
        (9, 1, 0.021484375),
        (0, 5, 0.0625),
    ],
)
def test_the_paired_test_is_mcnemars_exact_and_two_sided(lost: int, gained: int, p_value: float) -> None:
    compared = comparison(right=20, lost=lost, gained=gained, wrong=3)
    assert version_comparison.mcnemar_p_value(compared) == pytest.approx(p_value)


def test_two_different_mistakes_are_a_disagreement_and_no_flip() -> None:
    labels = torch.tensor([0, 0, 0])
    both = Comparison(
        Evaluation(torch.eye(10)[torch.tensor([1, 0, 3])], labels),
        Evaluation(torch.eye(10)[torch.tensor([2, 0, 3])], labels),
    )
    assert version_comparison.disagreements(both).tolist() == [0]
    assert (len(both.gained), len(both.lost)) == (0, 0)


def test_the_text_names_accuracies_test_classes_and_disagreements() -> None:
    text = version_comparison.text(comparison(right=20, lost=1, gained=9), ("v0001", "v0002"), (1.0, 2.0))
    assert "v0001         0.7000" in text
    assert "v0002         0.9667" in text
    assert "9 are right with v0002 alone and 1 with v0001 alone" in text
    assert "p = 0.021" in text
    assert "10 predictions differ:" in text
    assert "  image 20, airplane: v0001 says airplane, v0002 automobile" in text
    assert all(name in text for name in CLASS_NAMES)


def test_a_version_beside_itself_differs_in_nothing(parents: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "v0001", "v0001", "--registry", str(parents), *DATA, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["gained"], values["lost"], values["mcnemar_p_value"], values["disagreements"]) == (0, 0, 1.0, [])
    assert values["versions"][0] == values["versions"][1]


@pytest.mark.usefixtures("unabridged")
def test_the_better_version_is_told_from_the_weaker(
    parents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ["--report", str(tmp_path / "report")]
    assert main(["compare", "v0001", "latest", "--registry", str(parents), *DATA, "--json", *report]) == 0
    values = json.loads(capsys.readouterr().out)
    first, second = values["versions"]
    assert (first["name"], second["name"]) == ("v0001", "v0002")
    assert first["acc"] < second["acc"]
    assert values["mcnemar_p_value"] < 0.01
    assert values["gained"] - values["lost"] == round(200 * (second["acc"] - first["acc"]))
    assert sum(each["count"] for each in first["reliability"]) == 200
    assert sum(each["images"] for each in values["recall"].values()) == 200
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "compare.txt",
        "compare.json",
        "disagreements.png",
        "calibration_first.png",
        "calibration_second.png",
    }
    assert json.loads((tmp_path / "report" / "compare.json").read_text()) == values
    assert Image.open(tmp_path / "report" / "disagreements.png").width > 500
    assert main(["compare", "v0001", "v0002", "--registry", str(parents), *DATA]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("v0001 and v0002 on 200 images (")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["v0001", "v0009"], "no version 'v0009'"),
        (["v0001", "nothing.npz"], "nothing.npz: no such file"),
        (["v0001", "v0002", "--report", "/dev/null/x"], "--report /dev/null/x can't be written"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], words: str, parents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *arguments, "--registry", str(parents), *DATA]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
