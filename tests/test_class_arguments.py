"""What a command trains with are the arguments that it names, and beyond them the class's own defaults."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_lit.cli import main
from cifar_lit.training.renamed import with_new_name, with_new_names

CONFIGS = Path(__file__).parent.parent / "configs"
CHECKPOINTS = CONFIGS.parent / "checkpoints"
FIT_CONFIGS = ["accurate", "accurate_large", "default", "fast", "quick", "seed", "smoke"]
TENSORBOARD = "pytorch_lightning.loggers.TensorBoardLogger"
OPTIMIZERS = [
    "torch.optim.SGD",
    "torch.optim.Adam",
    "torch.optim.AdamW",
    "torch.optim.RMSprop",
    "cifar_lit.models.optimizers.Muon",
    "cifar_lit.models.optimizers.MuonSGD",
]


def resolved(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def own_defaults(class_path: str) -> dict[str, Any]:
    module, name = class_path.rsplit(".", 1)
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    return {
        name: list(each.default) if isinstance(each.default, tuple) else each.default
        for name, each in signature.parameters.items()
        if each.default is not inspect.Parameter.empty
    }


def is_own(option: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the arguments are those given, and else the class's defaults."""
    expected = own_defaults(option["class_path"]) | given
    return {name: expected[name] for name in option["init_args"]} == option["init_args"]


@pytest.mark.parametrize("name", FIT_CONFIGS)
@pytest.mark.parametrize("option", ["network", "optimizer", "lr_scheduler"])
def test_a_config_runs_with_the_arguments_that_it_names(
    name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = CONFIGS / f"{name}.yaml"
    given = yaml.safe_load(path.read_text())["model"].get(option)
    found = resolved(capsys, "fit", "--config", str(path))["model"][option]
    if given is None:
        assert found is None
        return
    assert found["class_path"] == given["class_path"]
    assert is_own(found, given.get("init_args", {}))


def test_the_fine_tuning_config_runs_with_the_arguments_that_it_names(capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load((CONFIGS / "finetune.yaml").read_text())["model"]["optimizer"]
    found = resolved(capsys, "finetune", "--config", str(CONFIGS / "finetune.yaml"))["model"]["optimizer"]
    assert found["class_path"] == given["class_path"]
    assert is_own(found, given["init_args"])


@pytest.mark.parametrize(
    ("option", "name", "class_path"),
    [
        ("optimizer", "Muon", "cifar_lit.models.optimizers.Muon"),
        ("optimizer", "MuonSGD", "cifar_lit.models.optimizers.MuonSGD"),
        ("optimizer", "SGD", "torch.optim.SGD"),
        ("lr_scheduler", "OneCycle", "cifar_lit.models.schedules.OneCycle"),
        ("lr_scheduler", "ReduceLROnPlateau", "torch.optim.lr_scheduler.ReduceLROnPlateau"),
        ("network", "WhitenedCNN", "cifar_lit.models.whitened_cnn.WhitenedCNN"),
    ],
)
def test_a_short_name_means_ours_where_there_is_one(
    option: str, name: str, class_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resolved(capsys, "fit", f"--model.{option}={name}")["model"][option]["class_path"] == class_path


def test_a_misspelt_option_is_answered_with_the_likely_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "typo.yaml").write_text("data: {bathc_size: 3}")
    for arguments in (["--data.bathc_size=3"], ["--config", str(tmp_path / "typo.yaml")]):
        with pytest.raises(SystemExit) as ended:
            main(["fit", *arguments])
        assert ended.value.code == 2
        assert "Did you mean data.batch_size?" in capsys.readouterr().err


@pytest.mark.parametrize("class_path", OPTIMIZERS)
def test_an_optimizer_named_alone_has_its_own_defaults(class_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = resolved(capsys, "fit", "--model.optimizer", class_path)["model"]["optimizer"]
    assert found["class_path"] == class_path
    assert is_own(found, {})


@pytest.mark.parametrize("class_path", [each for each in OPTIMIZERS if not each.endswith(".Muon")])
@pytest.mark.parametrize("command", [["fit", "--config", str(CONFIGS / "default.yaml")], ["finetune"]])
def test_an_optimizer_instead_of_muon_has_its_own_defaults(
    command: list[str], class_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_own(resolved(capsys, *command, "--model.optimizer", class_path)["model"]["optimizer"], {})


@pytest.mark.parametrize(
    ("options", "option", "given"),
    [
        (["--model.optimizer=SGD", "--model.optimizer.lr=0.1"], "optimizer", {"lr": 0.1}),
        (["--model.optimizer.lr=0.1", "--model.optimizer=SGD"], "optimizer", {}),
        (["--model.optimizer={class_path: SGD, init_args: {lr: 0.3}}"], "optimizer", {"lr": 0.3}),
        (["--model.optimizer.weight_decay=0.3", "--model.optimizer.lr=0.1"], "optimizer", None),
        (["--model.network=cifar_lit.models.whitened_cnn.WhitenedCNN"], "network", {}),
        (["--model.lr_scheduler=StepLR", "--model.lr_scheduler.step_size=3"], "lr_scheduler", {"step_size": 3}),
    ],
)
def test_over_a_config_a_replaced_class_leaves_nothing_behind(
    options: list[str], option: str, given: dict[str, Any] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS / "default.yaml"
    found = resolved(capsys, "fit", "--config", str(config), *options)["model"][option]
    if given is None:  # the same class: what the config says of it stays
        given = yaml.safe_load(config.read_text())["model"]["optimizer"]["init_args"] | {"weight_decay": 0.3, "lr": 0.1}
    assert is_own(found, given)


def test_the_second_of_two_configs_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "second.yaml"
    second.write_text("model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}}")
    found = resolved(capsys, "fit", "--config", str(CONFIGS / "default.yaml"), "--config", str(second))
    assert is_own(found["model"]["optimizer"], {"lr": 0.01})


def test_what_a_replaced_class_leaves_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit), caplog.at_level("INFO"):
        main(["fit", "--config", str(CONFIGS / "default.yaml"), "--model.optimizer=torch.optim.SGD", "--print_config"])
    assert "SGD replaces cifar_lit.models.optimizers.Muon and drops its lr=0.006" in caplog.text


def test_a_replaced_logger_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "logger.yaml"
    config.write_text(
        "trainer: {logger: {class_path: pytorch_lightning.loggers.CSVLogger, init_args: {save_dir: mine, name: run}}}"
    )
    found = resolved(
        capsys, "fit", "--config", str(config), "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=other"
    )
    assert found["trainer"]["logger"]["init_args"]["save_dir"] == "other"
    assert found["trainer"]["logger"]["init_args"]["name"] == own_defaults(TENSORBOARD)["name"]


@pytest.mark.parametrize("given", [["--config", "old.yaml"], ["--config=old.yaml"]])
def test_a_fine_tuning_config_of_an_earlier_release_is_read(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.yaml").write_text(yaml.safe_dump({"blend": {"shares": [0.5]}, "any_standing": True}))
    options = resolved(capsys, "finetune", *given)
    assert (options["interpolation"]["shares"], options["any_status"]) == ([0.5], True)


def test_the_arguments_of_somebodys_class_keep_their_names(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump({"model": {"network": {"class_path": "own.Net", "init_args": {"blend": 1}}}}))
    assert with_new_names(str(config), tmp_path / "copies") == str(config)
    assert with_new_name("--model.network.init_args.blend=1") == "--model.network.init_args.blend=1"


def test_options_of_an_earlier_release_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    options = resolved(capsys, "finetune", "--any-standing", "--blend.shares=[0.5]")
    assert (options["interpolation"]["shares"], options["any_status"]) == ([0.5], True)


def test_the_configs_of_the_shipped_versions_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    for config in sorted(CHECKPOINTS.glob("v*/config.yaml")):
        given = yaml.safe_load(config.read_text())["model"]["optimizer"]
        found = resolved(capsys, "fit", "--config", str(config))["model"]["optimizer"]
        assert is_own(found, given["init_args"])
