"""What `cifar-lit fit` answers to options that it can't take, and which classes it lists: one line each."""

from pathlib import Path

import pytest
import yaml

from cifar_lit.cli import main

SMOKE = Path(__file__).parent.parent / "configs" / "smoke.yaml"


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line of a refusal."""
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", str(SMOKE), *options])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model.optimizer=Mouon"], "--model.optimizer: there is no class 'Mouon'. Did you mean Muon?"),
        (["--model.optimizer=cifar_lit.models.optimizers.Mouon"], "there is no class 'Mouon'. Did you mean Muon?"),
        (["--model.network=ThreeBlokCNN"], "there is no class 'ThreeBlokCNN'. Did you mean ThreeBlockCNN?"),
        (["--trainer.callbacks+=EMAWeightAveragin"], "Did you mean EMAWeightAveraging? `--trainer.callbacks.help`"),
        (
            ["--model.optimizer=Muon", "--model.optimizer.momentun=1"],
            "Muon has no argument 'momentun'. Did you mean mom",
        ),
        (
            ["--model.network.widht=16"],
            "ThreeBlockCNN has no argument 'widht'. Did you mean width? It takes num_classes",
        ),
        (
            ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decy=1"],
            "no argument 'decy'. Did you mean de",
        ),
        (["--model.network.width=abc"], "--model.network.width is abc, expected int."),
        (["--model.lr_scheduler=SequentialLR"], "SequentialLR needs schedulers, milestones. Set --model.lr_scheduler."),
        (["--model.lr_scheduler=StepLR"], "StepLR needs step_size. Set --model.lr_scheduler.step_size"),
        (["--data.augment.flp=true"], "--data.augment.flp=true. Did you mean data.augment.flip?"),
        (["--trainer.maxepochs=3"], "Did you mean trainer.max_epochs?"),
        (["--nonsense=3"], "unrecognized arguments: --nonsense=3"),
        (["--trainer.max_epochs=many"], "--trainer.max_epochs is many, expected int or null."),
    ],
)
def test_what_is_not_known_is_one_line_with_the_likely_spelling(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, *options)


@pytest.mark.parametrize(
    ("place", "key", "words"),
    [
        (("model", "network", "init_args"), "widht", "ThreeBlockCNN has no argument 'widht'. Did you mean width?"),
        (
            ("model", "optimizer", "init_args"),
            "weight_dcay",
            "has no argument 'weight_dcay'. Did you mean weight_decay?",
        ),
        (("trainer",), "max_epoch", "Did you mean trainer.max_epochs?"),
        (("data", "augment"), "shfit", "Did you mean data.augment.shift?"),
        ((), "modle", "modle"),
    ],
)
def test_so_is_a_key_of_a_file(
    place: tuple[str, ...], key: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(SMOKE.read_text())
    inner = config
    for each in place:
        inner = inner[each]
    inner[key] = {"label_smoothing": 0.1} if key == "modle" else 3
    (tmp_path / "typo.yaml").write_text(yaml.safe_dump(config))
    assert words in refused(capsys, "--config", str(tmp_path / "typo.yaml"))


def test_a_required_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["finetune"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --data.increments is required, and is not given.\n"


@pytest.mark.parametrize(
    ("option", "ours", "others"),
    [
        ("optimizer", ["Muon     Momentum whose", "MuonSGD  Orthogonalised"], "torch.optim.AdamW"),
        ("network", ["ThreeBlockCNN  Blocks of", "WhitenedCNN    A whitening"], ""),
        ("lr_scheduler", ["OneCycle  Warms up"], "torch.optim.lr_scheduler.CosineAnnealingLR"),
    ],
)
def test_help_lists_our_classes_with_a_line_each(
    option: str, ours: list[str], others: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", f"--model.{option}.help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("  ")]
    assert [line.strip().startswith(words) for line, words in zip(lines, ours, strict=False)] == [True] * len(ours)
    assert others in printed
    assert "cifar_lit." not in printed


def test_help_of_one_class_lists_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--model.optimizer.help=Muon"])
    assert ended.value.code == 0
    assert "--model.optimizer.momentum" in capsys.readouterr().out


def test_help_of_fit_begins_with_a_screen_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--help"])
    assert ended.value.code == 0
    screen, _, options = capsys.readouterr().out.partition("\nAll options\n")
    assert len(screen.splitlines()) <= 32
    assert max(map(len, screen.splitlines())) <= 120
    for words in (
        "--data.root DIR",
        "--ckpt_path last",
        "  Muon     Momentum",
        "  OneCycle  Warms up",
        "  WhitenedCNN",
    ):
        assert words in screen
    assert "--trainer.gradient_clip_val" in options
    assert "usage:" not in options
