import json
from pathlib import Path

import pytest

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry

SMOKE = str(Path(__file__).parent.parent / "configs" / "smoke.yaml")
DATA = ["--data.source", "synthetic", "--data.num_synthetic", "300"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("evaluate")
    options = ["--registry", str(folder / "checkpoints"), "--trainer.logger", "false", "--best.dirpath", str(folder)]
    quick = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false", "--data.val_fraction", "0.1"]
    assert main(["fit", "--config", SMOKE, *DATA, *options, *quick]) == 0
    return Registry(folder / "checkpoints")


def run(verb: str, registry: Registry, *options: str) -> int:
    return main([verb, "--registry", str(registry.root), *DATA, *options])


@pytest.mark.parametrize(("verb", "split"), [("test", "test"), ("validate", "val")])
def test_json_is_all_that_stands_on_standard_output(
    verb: str, split: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(verb, registry, "--json") == 0
    metrics = json.loads(capsys.readouterr().out)
    assert set(metrics) == {
        f"{split}/{name}" for name in ("loss", "acc", "precision", "recall", "f1", "ece", "ece_raw")
    }
    # The figures of the manifest: measured again, on the same images.
    kept = registry.resolve("latest").manifest.metrics
    assert metrics == pytest.approx({name: kept[name] for name in metrics}, abs=2e-6)


def test_the_report_is_printed(registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", registry) == 0
    printed = capsys.readouterr().out
    assert "v0001 on 300 test images" in printed
    assert "accuracy" in printed
    manifest = registry.resolve("latest").manifest
    served, raw = (manifest.metrics[f"test/{name}"] for name in ("ece", "ece_raw"))
    assert f"calibration error: {served:.4f} as served, at temperature {manifest.temperature:.4g}; {raw:.4f}" in printed
    assert "airplane" in printed


def test_validation_takes_the_images_held_out_from_that_version(
    registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    run("validate", registry)
    assert "v0001 on 30 validation images" in capsys.readouterr().out
    run("validate", registry, "--data.val_fraction", "0.5")
    assert "v0001 on 150 validation images" in capsys.readouterr().out


@pytest.mark.usefixtures("unabridged")
def test_report_writes_figures_text_and_images(registry: Registry, tmp_path: Path) -> None:
    assert run("test", registry, "--report", str(tmp_path / "report")) == 0
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {"metrics.json", "report.txt", "confusion_matrix.png", "calibration.png", "samples.png"}
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    assert metrics["count"] == 300
    assert sum(map(sum, metrics["confusion_matrix"])) == 300


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "v0009"], "no version 'v0009'"),
        (
            ["--data.source", "folder", "--data.root", "/nonexistent"],
            "there is no such folder), expected an image folder",
        ),
        (["--report", "/dev/null/x"], "--report /dev/null/x can't be written"),
    ],
)
def test_wrong_input_is_one_message_and_status_2(
    options: list[str], words: str, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("test", registry, *options) == 2
    assert words in capsys.readouterr().err


def test_help_shows_own_and_lightning_options_and_needs_no_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["test", "--registry", str(tmp_path), "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--from" in printed
    assert "--data.root" in printed
    assert "--trainer.devices" in printed
