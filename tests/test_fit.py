"""`cifar-lit fit` from its command line to the version it makes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from cifar_lit.cli import main
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

CONFIGS = Path(__file__).parent.parent / "configs"
SMOKE = str(CONFIGS / "smoke.yaml")
QUICK = ["--data.num_synthetic", "200", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"]

Fit = Callable[..., int]


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """Runs `cifar-lit fit` in a temporary folder; gives its exit status."""
    monkeypatch.chdir(tmp_path)
    return lambda *options, config=SMOKE: main(["fit", "--config", config, *QUICK, *options])


def weights(registry: Registry, version_id: str) -> dict[str, torch.Tensor]:
    return load_network(registry.resolve(version_id)).state_dict()


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.usefixtures("unabridged")
def test_fit_makes_a_complete_promoted_version_and_says_so(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit() == 0
    version = Registry("checkpoints").resolve("latest")
    assert version.id == "v0001"
    assert set(version.manifest.files) == {
        "README.md",
        "model.onnx",
        "model.safetensors",
        "config.yaml",
        "report/metrics.json",
        "report/report.txt",
        "report/confusion_matrix.png",
        "report/calibration.png",
        "report/curves.png",
    }
    assert {"val/acc", "test/acc", "test/precision", "test/recall", "test/f1", "test/loss"} <= set(
        version.manifest.metrics
    )
    assert version.manifest.data["train"]["count"] == 200
    printed = capsys.readouterr().out
    assert "v0001 is promoted: there was no champion yet." in printed
    assert f"test/acc {version.manifest.metrics['test/acc']:.4f}" in printed


def test_a_run_leaves_logs_checkpoints_and_sample_images(fit: Fit) -> None:
    fit()
    run = Path("runs/version_0")
    assert (run / "metrics.csv").read_text().startswith("epoch,")
    assert list(run.glob("events.out.tfevents.*"))
    assert (run / "samples.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_saved_config_reruns_the_run_to_equal_weights(fit: Fit) -> None:
    fit("--data.augment.rotation", "20", "--model.network.init_args.dropout", "0.4", "--seed_everything", "5")
    assert fit("--registry", "again", config="checkpoints/v0001/config.yaml") == 0
    assert equal(weights(Registry("checkpoints"), "v0001"), weights(Registry("again"), "v0001"))


def test_another_seed_gives_other_weights_on_the_same_split(fit: Fit) -> None:
    fit("--seed_everything", "1")
    fit("--seed_everything", "2")
    registry = Registry("checkpoints")
    assert not equal(weights(registry, "v0001"), weights(registry, "v0002"))
    assert registry.get("v0001").manifest.data == registry.get("v0002").manifest.data


def test_a_worse_result_stays_a_candidate(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    fit("--trainer.max_epochs", "4")
    fit("--model.optimizer.init_args.lr", "0.0")
    registry = Registry("checkpoints")
    worse = registry.get("v0002").manifest
    assert worse.status == "candidate"
    assert registry.resolve("latest").id == "v0001"
    assert "is not above champion v0001's" in worse.reason
    assert "on the same 40 images" in worse.reason
    assert worse.reason in capsys.readouterr().out


def test_a_better_result_is_promoted(fit: Fit) -> None:
    fit("--model.optimizer.init_args.lr", "0.0")
    fit("--trainer.max_epochs", "4")
    assert Registry("checkpoints").resolve("latest").id == "v0002"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--data.num_synthetic", "300", "their training data differ"),
        ("--data.split_seed", "7", "the seeds of their validation splits differ"),
    ],
)
def test_a_result_on_other_data_is_not_compared_nor_promoted(fit: Fit, option: str, value: str, words: str) -> None:
    fit("--model.optimizer.init_args.lr", "0.0")
    fit("--trainer.max_epochs", "4", option, value)
    manifest = Registry("checkpoints").get("v0002").manifest
    assert manifest.status == "candidate"
    assert f"it can't be compared with champion v0001: {words}" in manifest.reason


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(path, id=path.name, marks=pytest.mark.slow if path.name.startswith("accurate") else ())
        for path in sorted(set(CONFIGS.glob("*.yaml")) - {CONFIGS / "finetune.yaml", CONFIGS / "ray.yaml"})
    ],
)
@pytest.mark.filterwarnings("ignore:EMAWeightAveraging is too slow")
def test_every_config_trains(config: Path, fit: Fit) -> None:
    # The recipe's network and optimizer, on synthetic images.
    assert fit("--data.source", "synthetic", "--data.num_synthetic", "500", config=str(config)) == 0
    assert config.read_text().startswith("# cifar-lit fit --config configs/")


def test_early_stopping_ends_the_run_and_the_best_epoch_is_kept(fit: Fit) -> None:
    # With a huge rate the first epoch is hardly ever beaten.
    fit("--trainer.max_epochs", "30", "--early_stopping.patience", "2", "--model.optimizer.init_args.lr", "0.5")
    training = Registry("checkpoints").get("v0001").manifest.training
    assert training["ended_by"] == "early stopping"
    assert training["epochs"] == training["best_epoch"] + 1 + 2


def test_a_run_of_no_epoch_makes_no_version(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.max_epochs", "0") == 2
    assert "no version was made" in capsys.readouterr().err
    assert Registry("checkpoints").ids() == []


def test_a_trial_of_a_step_is_done_and_says_that_it_keeps_nothing(fit: Fit, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        assert fit("--trainer.fast_dev_run", "true") == 0
    assert "nothing of it is kept" in caplog.text
    assert Registry("checkpoints").ids() == []
    assert not list(Path.cwd().rglob("*.ckpt"))


def test_without_validation_images_the_last_epoch_is_kept_and_not_promoted_over_a_champion(fit: Fit) -> None:
    fit("--model.optimizer.init_args.lr", "0.0")
    assert fit("--data.val_fraction", "0", "--trainer.max_epochs", "2") == 0
    manifest = Registry("checkpoints").get("v0002").manifest
    assert (manifest.training["best_epoch"], manifest.training["epochs"]) == (1, 2)
    assert {name.partition("/")[0] for name in manifest.metrics} == {"test"}
    assert manifest.data["split"]["val_fraction"] == 0
    assert manifest.status == "candidate"
    assert "no images that neither was trained on" in manifest.reason


def test_the_training_time_leaves_out_what_lies_around_the_epochs(fit: Fit) -> None:
    fit("--trainer.max_epochs", "2")
    version = Registry("checkpoints").get("v0001")
    history = json.loads(version.read("report/metrics.json"))["history"]
    assert version.manifest.training["seconds"] == pytest.approx(sum(row["seconds"] for row in history), abs=0.1)


def image_folder(root: Path) -> Path:
    from PIL import Image

    from cifar_lit.cifar10 import CLASS_NAMES

    for split in ("train", "test"):
        for name in CLASS_NAMES:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(root / split / name / "0.png")
    return root


def no_data(root: Path) -> None:
    pass


def a_foreign_folder(root: Path) -> None:
    (root / "train" / "zebra").mkdir(parents=True)


def a_truncated_archive(root: Path) -> None:
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08\x00 not much of an archive")


def a_corrupt_image(root: Path) -> None:
    (image_folder(root) / "train" / "frog" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_data, "--data.download true"),
        (a_foreign_folder, "train: 1 class folders, expected two or more"),
        (a_truncated_archive, "truncated or damaged"),
        (a_corrupt_image, "frog/0.png"),
    ],
)
def test_bad_data_is_one_clear_message_and_no_version(
    damage: Callable[[Path], None], words: str, fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tmp_path / "data")
    assert fit("--data.source", "auto", "--data.root", str(tmp_path / "data")) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert words in errors[0]
    assert Registry("checkpoints").ids() == []


def test_an_unwritable_registry_is_found_before_training(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert fit("--registry", "file/registry") == 2
    assert "error: registry file/registry/: can't be written" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_full_disk_while_publishing_leaves_nothing(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from cifar_lit import files

    def full(folder: Path, contents: dict[str, bytes]) -> None:
        (folder / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    monkeypatch.setattr("cifar_lit.registry.registry.write_tree", full)
    assert files.write_tree is not full
    assert fit() == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in Path("checkpoints").iterdir()] == [".lock"]


def test_a_full_disk_while_training_is_one_clear_message(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/epoch-000.ckpt")

    monkeypatch.setattr("pytorch_lightning.Trainer.save_checkpoint", full)
    assert fit() == 2
    assert "error: runs/epoch-000.ckpt: No space left on device. Free space" in capsys.readouterr().err


def run_process(*arguments: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "cifar_lit.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PL_")},
    )


@pytest.mark.parametrize(
    ("sent", "status", "ended_by"),
    [(signal.SIGINT, 130, "Ctrl-C"), pytest.param(signal.SIGTERM, 143, "SIGTERM", marks=pytest.mark.slow)],
)
def test_a_signal_keeps_the_best_epoch_and_publishes_it(sent: int, status: int, ended_by: str, tmp_path: Path) -> None:
    options = ["--data.num_synthetic", "500", "--trainer.max_epochs", "100000", "--early_stopping.patience", "100000"]
    process = run_process("fit", "--config", SMOKE, *options, folder=tmp_path)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("runs/version_0/checkpoints/*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(sent)
    printed, _ = process.communicate(timeout=90)
    assert process.returncode == status, printed
    assert "Kept the weights of epoch" in printed
    version = Registry(tmp_path / "checkpoints").resolve("latest")
    assert version.manifest.training["ended_by"] == ended_by
    assert f"{version.id} is promoted" in printed


@pytest.mark.slow
def test_two_processes_see_each_image_once_an_epoch_and_make_one_version(tmp_path: Path) -> None:
    ddp = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    options = ["--data.num_synthetic", "203", "--trainer.max_epochs", "2", "--data.batch_size", "16"]
    process = run_process("fit", "--config", SMOKE, *options, *ddp, folder=tmp_path)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert "2 processes: a step learns from 32 images, not 16. To train as one process does, set" in printed
    registry = Registry(tmp_path / "checkpoints")
    assert registry.ids() == ["v0001"]
    version = registry.resolve("latest")
    assert version.manifest.training["num_devices"] == 2
    history = json.loads(version.read("report/metrics.json"))["history"]
    train_images = 203 - sum(round(len(range(label, 203, 10)) * 0.2) for label in range(10))
    assert [row["images"] for row in history] == [train_images] * 2

    source = ["--data.source", "synthetic", "--data.num_synthetic", "203", "--json"]
    measured = []
    for more in ([], ddp):
        process = run_process("validate", *source, *more, folder=tmp_path)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        measured.append(json.loads(printed[printed.index("{") : printed.rindex("}") + 1]))
    assert measured[0] == pytest.approx(measured[1], abs=2e-6)
    assert measured[0]["val/acc"] == pytest.approx(version.manifest.metrics["val/acc"], abs=2e-6)


def test_a_config_file_that_names_an_unknown_option_is_refused_briefly(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(Path(SMOKE).read_text())
    config["data"]["bathc_size"] = 3
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit) as refused:
        fit(config=str(tmp_path / "typo.yaml"))
    assert refused.value.code == 2
    message = capsys.readouterr().err
    assert "bathc_size" in message
    assert len(message.splitlines()) < 8


def test_a_copied_registry_still_loads(fit: Fit, tmp_path: Path) -> None:
    fit()
    shutil.copytree("checkpoints", tmp_path / "copy")
    assert Registry(tmp_path / "copy").verify() == {"v0001": None}
    assert equal(weights(Registry("checkpoints"), "latest"), weights(Registry(tmp_path / "copy"), "latest"))


def test_a_registry_whose_only_champion_is_damaged_gets_a_candidate(fit: Fit) -> None:
    fit()
    Path("checkpoints/v0001/model.safetensors").write_bytes(b"rubbish")
    assert fit() == 0
    manifest = Registry("checkpoints").get("v0002").manifest
    assert manifest.status == "candidate"
    assert "no champion to compare it with" in manifest.reason


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"],
        ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--model.lr_scheduler=null"],
        ["--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "--model.lr_scheduler.step_size=1"],
        ["--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau"],
        ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=elsewhere"],
        ["--trainer.precision=32-true", "--trainer.deterministic=true"],
        ["--best.monitor=val/acc", "--best.mode=max"],
    ],
    ids=lambda options: options[0],
)
@pytest.mark.filterwarnings("ignore:EMAWeightAveraging is too slow")
def test_what_lightning_and_torch_offer_can_be_chosen(options: list[str], fit: Fit) -> None:
    assert fit(*options) == 0


def test_a_champion_that_can_not_be_loaded_costs_no_training(fit: Fit) -> None:
    fit()
    path = Path("checkpoints/v0001/manifest.json")
    path.write_text(path.read_text().replace('"ThreeBlockCNN"', '"NetworkOfTomorrow"'))
    assert fit("--trainer.max_epochs", "4") == 0
    registry = Registry("checkpoints")
    manifest = registry.get("v0002").manifest
    assert manifest.status == "candidate"
    assert "it can't be compared with champion v0001" in manifest.reason
    assert "NetworkOfTomorrow" in manifest.reason
    assert registry.pointer() == "v0001"


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_published_weights_are_float32_whatever_the_precision_of_the_training(precision: str, fit: Fit) -> None:
    assert fit("--trainer.precision", precision, "--model.optimizer", "torch.optim.SGD") == 0
    registry = Registry("checkpoints")
    assert registry.pointer() == "v0001"
    assert {value.dtype for value in weights(registry, "v0001").values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_give_nothing_back_are_refused_before_training(
    strategy: str, fit: Fit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--trainer.strategy", strategy, "--trainer.accelerator", "cpu") == 2
    assert (
        f"trainer.strategy is '{strategy}', whose processes do not give their results back" in capsys.readouterr().err
    )
    assert Registry("checkpoints").ids() == []


@pytest.mark.usefixtures("unabridged")
def test_the_classes_are_the_datas(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for label, name in enumerate(("apple", "pear", "plum")):
            for number in range(20):
                path = tmp_path / "fruit" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 48), (80 * label, number, 9)).save(path)
    assert fit("--data.source", "auto", "--data.root", "fruit", "--data.batch_size", "8") == 0
    assert "model.network.num_classes is 3, as in the data, instead of 10." in caplog.text
    manifest = Registry("checkpoints").resolve("latest").manifest
    assert manifest.class_names == ["apple", "pear", "plum"]
    assert manifest.network["args"]["num_classes"] == 3
    assert main(["predict", "fruit/test/pear/0.png", "--format", "csv", "--out", "answer.csv"]) == 0
    assert Path("answer.csv").read_text().startswith("file,prediction,confidence,apple,pear,plum,version\n")
    assert main(["export", "latest", "--format", "npz", "--out", "weights.npz"]) == 0
    assert main(["test", "--from", "weights.npz", "--data.root", "fruit"]) == 0
    assert main(["test", "--data.source", "synthetic"]) == 2


def test_without_a_logger_nothing_but_versions_lies_in_the_registry(fit: Fit) -> None:
    assert fit("--trainer.logger", "false") == 0
    assert {path.name for path in Path("checkpoints").iterdir()} == {".lock", "champion", "history.jsonl", "v0001"}
    assert {path.name for path in Path.cwd().iterdir()} == {"checkpoints", "runs"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.optimizer=LBFGS"], "model.optimizer can't be used for this network: LBFGS doesn't support"),
        (
            ["--model.optimizer=torch.optim.Muon"],
            "model.optimizer can't be used for this network: Muon only supports 2D",
        ),
        (["--best.monitor=val/auc"], "best.monitor is 'val/auc', expected one of: train/loss"),
        (["--trainer.accelerator=gpu"], "These options can't be used: No supported gpu backend found."),
        (["--trainer.barebones=true"], "trainer.barebones is true, which turns off logs, validation and checkpoints"),
        (["--model.optimizer.lr=1e30"], "The training diverged: the network's predictions are not finite"),
        (["--ckpt_path=nope.ckpt"], "nope.ckpt: there is no such file"),
        (["--ckpt_path=last"], "there is no last.ckpt under runs/"),
        (["--trainer.logger=CometLogger"], "These options can't be used: Requirement 'comet-ml"),
        (
            ["--model.lr_scheduler=ReduceLROnPlateau", "--model.monitor=val/auc"],
            "is 'val/auc', expected one of: train/",
        ),
        (
            ["--model.lr_scheduler=ReduceLROnPlateau", "--data.val_fraction=0"],
            "train/loss, train/acc, since nothing is",
        ),
        (
            ["--model.lr_scheduler=ReduceLROnPlateau", "--model.lr_interval=step"],
            "a metric that is known once an epoch",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_can_not_be_is_one_line_and_no_version(
    options: list[str], words: str, fit: Fit, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    if torch.cuda.is_available() and "accelerator" in options[0]:
        pytest.skip("there is a GPU")
    assert fit(*options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert words in line
    assert Registry("checkpoints").ids() == []


@pytest.mark.parametrize("options", [["--trainer.max_steps=2"], ["--trainer.limit_val_batches=0"]])
def test_a_run_without_validation_keeps_its_last_weights(options: list[str], fit: Fit) -> None:
    assert fit(*options) == 0
    assert {"val/acc", "test/acc"} <= set(Registry("checkpoints").get("v0001").manifest.metrics)


def test_without_checkpoints_the_best_epoch_is_kept_all_the_same(fit: Fit) -> None:
    assert fit("--trainer.enable_checkpointing=false") == 0
    assert not list(Path.cwd().rglob("*.ckpt"))
    assert Registry("checkpoints").get("v0001").manifest.training["best_epoch"] == 0


def test_the_last_run_is_resumed(fit: Fit) -> None:
    fit("--trainer.max_epochs=1", "--trainer.default_root_dir=here")
    assert fit("--trainer.max_epochs=2", "--trainer.default_root_dir=here", "--ckpt_path=last") == 0
    rows = json.loads(Registry("checkpoints").get("v0002").read("report/metrics.json"))["history"]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0] == json.loads(Registry("checkpoints").get("v0001").read("report/metrics.json"))["history"][0]
    assert rows[1]["train/loss"] < rows[0]["train/loss"]
    assert {path.name for path in Path("here").iterdir()} == {"version_0", "version_1"}


def test_the_seed_that_was_drawn_is_recorded_and_none_where_none_was_asked_for(fit: Fit) -> None:
    for seed in ("true", "true", "false", "false"):
        fit("--seed_everything", seed)
    registry = Registry("checkpoints")
    drawn, other, *unrecorded = [registry.get(f"v000{number}").manifest.seed for number in (1, 2, 3, 4)]
    assert drawn is not None
    assert drawn != other
    assert f"seed_everything: {drawn}\n" in registry.get("v0001").read("config.yaml").decode()
    assert unrecorded == [None, None]
    assert not equal(weights(registry, "v0003"), weights(registry, "v0004"))
    fit("--seed_everything", str(drawn))
    assert equal(weights(registry, "v0005"), weights(registry, "v0001"))


def test_a_profiler_is_used_only_if_one_was_asked_for(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("cifar_lit.training.fit.FitCLI.after_fit", lambda self: seen.append(self.trainer.profiler))
    fit()
    fit("--trainer.profiler", "simple")
    assert [type(each).__name__ for each in seen] == ["NoProfiler", "SimpleProfiler"]


def test_it_says_that_training_takes_longer_without_compiled_kernels(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cifar_lit.training.fit.unavailable_reason", lambda: "there is no C++ compiler; install g++")
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        assert fit() == 0
    assert "without compiled kernels: there is no C++ compiler; install g++." in caplog.text


def test_the_smallest_numbers_are_taken_as_zero_in_training(fit: Fit) -> None:
    torch.set_flush_denormal(False)
    assert torch.tensor([1e-40]).mul(1.0).item() > 0
    try:
        assert fit() == 0
        assert torch.tensor([1e-40]).mul(1.0).item() == 0
    finally:
        torch.set_flush_denormal(False)
