"""What one sees of a training, and what its loggers get."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from conftest import SMOKE
from pytorch_lightning.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.training import fit as fit_module
from cifar_lit.training.progress import ProgressLines, epoch_line

ROW = {"epoch": 0, "seconds": 3.25, "images": 10, "lr": 0.01, "train/loss": 1.5, "train/acc": 0.4}
VALIDATED = ROW | {"val/loss": 1.25, "val/acc": 0.55}


def run(*options: str) -> int:
    return main(["fit", "--config", SMOKE, "--data.num_synthetic=200", "--trainer.max_epochs=2", *options])


@pytest.mark.parametrize(
    ("history", "max_epochs", "monitor", "mode", "line"),
    [
        (
            [VALIDATED],
            3,
            "val/loss",
            "min",
            "epoch 1/3, train loss 1.5000 acc 0.4000, val loss 1.2500 acc 0.5500, lr 0.01, 3.2 s, "
            "best val/loss 1.2500 in epoch 1",
        ),
        ([ROW], None, None, "min", "epoch 1, train loss 1.5000 acc 0.4000, lr 0.01, 3.2 s"),
        ([ROW], -1, "val/loss", "min", "epoch 1, train loss 1.5000 acc 0.4000, lr 0.01, 3.2 s"),
    ],
)
def test_the_line_says_what_there_is(
    history: list[dict[str, Any]], max_epochs: int | None, monitor: str | None, mode: Literal["min", "max"], line: str
) -> None:
    assert epoch_line(history, max_epochs, monitor, mode) == line


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.5, 0.3, 0.4], "min", "0.3000 in epoch 2"),
        ([0.5, 0.3, 0.4], "max", "0.5000 in epoch 1"),
        ([float("nan"), 0.3], "max", "0.3000 in epoch 2"),
        ([0.3, 0.3], "min", "0.3000 in epoch 1"),
    ],
)
def test_the_best_so_far_is_by_the_metric_that_decides(
    values: list[float], mode: Literal["min", "max"], best: str
) -> None:
    history = [VALIDATED | {"epoch": number, "val/f1": value} for number, value in enumerate(values)]
    assert epoch_line(history, 5, "val/f1", mode).endswith(f"best val/f1 {best}")


@pytest.mark.usefixtures("unabridged")
def test_a_log_has_a_line_an_epoch_and_the_loggers_have_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        assert run() == 0
    lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("epoch ")]
    pattern = (
        r"epoch \d/2, train loss [\d.]+ acc [\d.]+, val loss [\d.]+ acc [\d.]+, lr \S+, [\d.]+ s, best val/loss .*"
    )
    assert [bool(re.fullmatch(pattern, line)) for line in lines] == [True, True]

    folder = tmp_path / "runs" / "version_0"
    metrics = Registry("checkpoints").get("v0001").manifest.metrics
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert len([row for row in rows if row["lr"]]) == 2
    assert [float(row["test/acc"]) for row in rows if row["test/acc"]] == [pytest.approx(metrics["test/acc"])]
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["data.batch_size"] == 64
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["batch_size"] == 64

    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    assert set(events.Tags()["images"]) == {"confusion_matrix", "samples", "calibration"}
    assert {"lr", "val/acc", "test/acc", "test/ece"} <= set(events.Tags()["scalars"])
    assert events.Images("samples")[0].width > 500


class Remote(Logger):
    """A logger as MLflow's with a server: it has no folder."""

    made: list["Remote"] = []

    def __init__(self) -> None:
        super().__init__()
        self.hyperparameters: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}
        self.images: dict[str, Any] = {}
        self.made.append(self)

    name = "experiment"
    version = "abc"
    save_dir = None

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self.hyperparameters |= params

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics |= metrics

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        self.images[key] = images[0].size


@pytest.mark.parametrize("logger", ["test_progress.Remote", pytest.param("false", marks=pytest.mark.slow)])
def test_each_runs_files_lie_in_its_own_folder_whatever_the_logger(
    logger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("--trainer.logger", logger, "--trainer.max_epochs=1") == 0
    for number in range(2):
        names = {path.name for path in (tmp_path / "runs" / f"version_{number}").iterdir()}
        assert names == {"checkpoints", "config.yaml", "samples.png"}
    assert run("--trainer.logger", logger, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"version_0", "version_1", "version_2"}
    if logger != "false":
        last = Remote.made[-1]
        assert last.hyperparameters["trainer.max_epochs"] == 2
        assert {"lr", "train/loss", "val/acc", "test/acc"} <= set(last.metrics)
        assert set(last.images) == {"confusion_matrix", "samples", "calibration"}


@pytest.mark.parametrize("scheme", ["sqlite:///{}/mlflow.db", "file://{}/mlflow"], ids=["sqlite", "files"])
def test_mlflow_as_the_only_logger_gets_everything(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases ask for it
    uri = scheme.format(tmp_path)
    assert run("--trainer.logger=MLFlowLogger", f"--trainer.logger.tracking_uri={uri}") == 0
    client = mlflow.MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["data.batch_size"] == "64"
    assert {"lr", "train/loss", "val/acc"} <= set(found.data.metrics)
    assert found.data.metrics["test/acc"] == Registry("checkpoints").get("v0001").manifest.metrics["test/acc"]
    assert len(client.get_metric_history(found.info.run_id, "val/acc")) == 2
    images = {each.path for each in client.list_artifacts(found.info.run_id)}
    assert images == {"confusion_matrix.png", "samples.png", "calibration.png"}
    names = {path.name for path in (tmp_path / "runs" / "version_0").iterdir()}
    assert names == {"checkpoints", "config.yaml", "samples.png"}


@pytest.mark.parametrize("log_model", ["true", "all"])
def test_a_logger_that_is_to_upload_checkpoints_is_refused(
    log_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("--trainer.logger=WandbLogger", f"--trainer.logger.log_model={log_model}") == 2
    assert "WandbLogger can't upload checkpoints" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_bar_shows_training_loss_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown: list[dict[str, Any]] = []

    class Seen(fit_module.OneBar):
        def get_metrics(self, *arguments: Any) -> dict[str, Any]:
            shown.append(super().get_metrics(*arguments))
            return shown[-1]

    monkeypatch.setattr(fit_module, "OneBar", Seen)
    assert run("--trainer.enable_progress_bar=true") == 0
    assert {"train/loss", "lr", "val/loss", "val/acc"} <= set(shown[-1])
    history = Registry("checkpoints").get("v0001").read("report/metrics.json").decode()
    assert f'"train/loss": {shown[-1]["train/loss"]}' in history


def test_a_stage_writes_no_more_lines_than_its_interval_lets_it() -> None:
    stream = io.StringIO()
    tell = ProgressLines(stream, interval_s=3_600)
    tell("learning", 0.0)
    for step in range(1, 100):
        tell("learning", step / 100)
    tell("learning", 1.0)
    tell("judging", 0.0)
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"stage": "learning", "done": 0.2},
        {"stage": "learning", "done": 0.75},
        {"stage": "judging", "done": 0.75},
    ]
