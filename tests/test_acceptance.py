"""The researcher's table: what is asked of `cifar-lit fit` and its neighbours, how it ends, and the line that says so.

Each case runs on synthetic images in a folder of its own, after the cases that it names in `before`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import SMOKE

from cifar_lit.cli import main

pytestmark = pytest.mark.slow

FIT = ["fit", "--config", SMOKE, "--data.num_synthetic=200", "--trainer.max_epochs=1"]
DATA = ["--data.source=synthetic", "--data.num_synthetic=200"]
EMA = "--trainer.callbacks+=EMAWeightAveraging"
SWA = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
PLATEAU = "--model.lr_scheduler=ReduceLROnPlateau"
RUN = "Logs, checkpoints to resume from, sample images: runs/version_0"


@dataclass(frozen=True)
class Case:
    """A command, its exit status, and part of a line that it prints.

    Attributes:
        name: the issue's part, and what is tried.
        command: after `cifar-lit`.
        status: 0 done, 1 partly, 2 refused in one line.
        line: on standard output, in the log, or in the one line of a refusal.
        before: commands that must have succeeded.
    """

    name: str
    command: list[str]
    status: int
    line: str
    before: list[list[str]] = field(default_factory=list)


def fit(name: str, *options: str, status: int = 0, line: str = RUN, before: list[list[str]] | None = None) -> Case:
    return Case(name, [*FIT, *options], status, line, before or [])


TABLE = [
    fit(
        "A.1 another optimizer drops the file's arguments",
        "--model.optimizer=torch.optim.SGD",
        line="drops its lr=0.01",
    ),
    fit("A.1 another network drops the file's", "--model.network=WhitenedCNN", line="WhitenedCNN replaces"),
    fit("A.2 the mode follows the metric", "--best.monitor=val/acc", line="best val/acc"),
    fit("A.2 an unknown metric", "--best.monitor=val/auc", status=2, line="expected one of: train/loss"),
    fit("A.3 a slow average is warned of", EMA, line="Set its decay to"),
    fit("A.3 a fitting one is not", EMA, "--trainer.callbacks.decay=0.3"),
    fit(
        "A.3 the average of the last epochs", *SWA, "--trainer.max_epochs=4", line="Kept the average of the last epochs"
    ),
    fit("A.4 no seed", "--seed_everything=false"),
    fit("A.4 a drawn seed", "--seed_everything=true"),
    fit("A.4 another root", "--trainer.default_root_dir=here", line="sample images: here/version_0"),
    fit("A.4 a diverged training", "--model.optimizer.lr=1e30", status=2, line="not finite, so no version was made"),
    fit("A.5 Muon is ours", "--model.optimizer=Muon", "--model.optimizer.momentum=0.9"),
    fit("A.5 torch's Muon", "--model.optimizer=torch.optim.Muon", status=2, line="Muon only supports 2D"),
    fit("A.5 LBFGS", "--model.optimizer=LBFGS", status=2, line="LBFGS doesn't support per-parameter options"),
    fit(
        "A.5 SequentialLR", "--model.lr_scheduler=SequentialLR", status=2, line="SequentialLR needs schedulers, milest"
    ),
    fit("A.5 ReduceLROnPlateau", PLATEAU, "--trainer.max_epochs=2"),
    fit("A.5 on an unknown metric", PLATEAU, "--model.monitor=val/auc", status=2, line="'val/auc', expected one of"),
    fit("A.5 without validation", PLATEAU, "--data.val_fraction=0", status=2, line="since nothing is validated"),
    fit("A.5 on training loss", PLATEAU, "--data.val_fraction=0", "--model.monitor=train/loss"),
    fit("A.5 a logger that is not installed", "--trainer.logger=CometLogger", status=2, line="Requirement 'comet-ml"),
    fit("A.5 a misspelt option", "--trainer.max_epocs=3", status=2, line="Did you mean trainer.max_epochs?"),
    fit("A.5 a misspelt class", "--model.optimizer=AdmW", status=2, line="Did you mean AdamW?"),
    fit("A.5 a misspelt argument", "--model.network.widht=3", status=2, line="Did you mean width?"),
    Case("A.5 which optimizers", ["fit", "--model.optimizer.help"], 0, "Muon     Momentum whose update"),
    Case("A.5 which networks", ["fit", "--model.network.help"], 0, "WhitenedCNN    A whitening convolution"),
    fit("B.2 the newest run", "--trainer.max_epochs=2", "--ckpt_path=last", line="epoch 2/2", before=[FIT]),
    fit("B.2 there is none", "--ckpt_path=last", status=2, line="there is no last.ckpt under runs/"),
    fit("B.2 a missing file", "--ckpt_path=nope.ckpt", status=2, line="nope.ckpt: there is no such file"),
    fit("B.3 a trial", "--trainer.fast_dev_run=true", line="nothing of it is kept"),
    fit("B.3 steps", "--trainer.max_steps=2"),
    fit("B.3 no validation", "--trainer.limit_val_batches=0"),
    fit("B.3 no checkpoints", "--trainer.enable_checkpointing=false"),
    fit("B.3 barebones", "--trainer.barebones=true", status=2, line="barebones"),
    fit("C.3 no logger", "--trainer.logger=false"),
    fit("C.3 a line an epoch", line="epoch 1/1, train loss"),
    Case("C.3 help", ["fit", "--help"], 0, "--data.root DIR        CIFAR-10: the official files"),
    Case("C.5 calibration", ["test", *DATA], 0, "as served, at temperature", [FIT]),
    Case(
        "C.2 a comparison",
        ["compare", "v0001", "v0002", *DATA],
        0,
        "McNemar's test, exact",
        [FIT, [*FIT, "--seed_everything=1"]],
    ),
]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_the_table(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in case.before:
        assert main(command) == 0
    capsys.readouterr()
    caplog.clear()
    with caplog.at_level("INFO"):
        try:
            status = main(case.command)
        except SystemExit as ended:
            status = int(ended.code or 0)
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    said = [printed.out, caplog.text, *(str(each.message) for each in recwarn.list)]
    assert status == case.status, printed.err
    assert len(errors) == (case.status == 2)
    assert any(case.line in each for each in (errors or said))
    assert "Traceback" not in printed.err
    if case.status == 2:
        assert not Path("checkpoints/v0001").exists()
