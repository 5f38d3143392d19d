"""`cifar-lit fit`: LightningCLI around the classifier, with a version at the end."""

import math
import os
import random
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
from jsonargparse.typing import register_type
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, EarlyStopping, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info

from cifar_lit.data.datamodule import CIFAR10DataModule
from cifar_lit.errors import CifarLitError, SettingError
from cifar_lit.evaluation import plots
from cifar_lit.evaluation.calibration import at_temperature
from cifar_lit.evaluation.evaluation import evaluate
from cifar_lit.models.classifier import Classifier
from cifar_lit.models.own_network import check_describable
from cifar_lit.native.library import unavailable_reason
from cifar_lit.registry.registry import Registry
from cifar_lit.seeding import global_seed
from cifar_lit.training.averaging import WarnOfSlowAverage
from cifar_lit.training.best_checkpoint import BestCheckpoint, SyncedCheckpointIO
from cifar_lit.training.class_arguments import FitParser
from cifar_lit.training.compilation import CompileMode, CompileStep, first_line
from cifar_lit.training.fit_options import (
    as_list,
    check_plateau,
    loggers,
    newest_checkpoint,
    refuse_lost_results,
    refuse_uploads,
    root_cause,
    several_devices,
    stopping_mode,
    take_classes_from_data,
)
from cifar_lit.training.interrupt import StopOnInterrupt
from cifar_lit.training.lightning import (
    NoProfiler,
    ReduceStepOverhead,
    best_precision,
    hardware,
    hush_lightning,
    speed_up,
    uses_cuda,
)
from cifar_lit.training.progress import EpochLine, LogRate, OneBar
from cifar_lit.training.promotion import decide
from cifar_lit.training.publish import CONFIG, Candidate, Published, publish
from cifar_lit.training.run_files import finish_run, flat, run_folder
from cifar_lit.training.step_graph import StepGraph

RUNS = "runs"

_Callback = TypeVar("_Callback", bound=Callback)


class FitCLI(LightningCLI):
    """Trains a classifier on CIFAR-10, keeps the best epoch, and makes it a version.

    Args:
        args: command line after `cifar-lit`, beginning with "fit"; the program's own if absent.

    Attributes:
        published: the version that was made; None if there was none.
    """

    published: Published | None = None

    def __init__(self, args: list[str] | None = None) -> None:
        hush_lightning()
        register_type(torch.device, fail_already_registered=False)  # a default of Lightning's callbacks
        super().__init__(
            Classifier,
            CIFAR10DataModule,
            save_config_callback=None,  # `before_fit` saves it, into the run's folder whatever the logger
            trainer_defaults={
                "default_root_dir": RUNS,
                "devices": 1,
                "max_epochs": 15,
                "precision": None,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_class=FitParser,
            parser_kwargs={"prog": "cifar-lit"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--registry",
            type=str | None,
            default=None,
            help="Folder of the versions. Default: the environment's CIFAR_LIT_REGISTRY, else checkpoints.",
        )
        parser.add_argument(
            "--compile",
            type=CompileMode | Literal["step-graph"] | None,
            default=None,
            help="Compile the training step, as torch.compile's mode; reduce-overhead and max-autotune replay it as "
            "CUDA graphs. Worth its half a minute or more on a GPU, seldom on a CPU. step-graph compiles nothing and "
            "replays the whole step, the optimizer's too, as one CUDA graph: for small batches.",
        )
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        # Not strict: a run may end before its first validation.
        parser.set_defaults({"early_stopping.patience": 10, "early_stopping.strict": False})
        parser.link_arguments("best.monitor", "early_stopping.monitor")
        parser.link_arguments(("best.monitor", "best.mode"), "early_stopping.mode", compute_fn=stopping_mode)

    def _set_seed(self) -> None:
        """Draws a seed for true, which records it, and for false; Lightning would take 0 for true."""
        asked = self.config.fit.seed_everything
        if not isinstance(asked, bool) or "LOCAL_RANK" in os.environ:  # further processes have their first one's
            super()._set_seed()
            return
        seed = pl.seed_everything(random.SystemRandom().randrange(2**32), workers=True, verbose=asked)
        self.config.fit.seed_everything = asked and seed

    def _parse_ckpt_path(self) -> None:
        """Resuming goes by the options that are given; Lightning would silently replace them by the checkpoint's."""

    def before_instantiate_classes(self) -> None:
        trainer = self.config.fit.trainer
        if trainer.barebones:
            raise SettingError(
                "trainer.barebones is true, which turns off logs, validation and checkpoints, so that no version could "
                "be made. Leave it out; --trainer.logger false turns off the logs alone."
            )
        if trainer.precision is None:
            trainer.precision = best_precision(trainer.accelerator)
        if uses_cuda(trainer.accelerator) and trainer.benchmark is None:
            trainer.benchmark = not trainer.deterministic  # batches have two sizes at most: worth trying kernels
        validates = bool(self.config.fit.data.val_fraction) and trainer.limit_val_batches != 0
        check_plateau(self.config.fit.model, validates=validates)
        if not validates:
            # No validation decides what is kept: the last epoch is.
            self.config.fit.best.monitor = None
            self.config.fit.early_stopping.monitor = "train/loss"
            self.config.fit.early_stopping.patience = sys.maxsize
        if trainer.enable_checkpointing is False:  # the best weights are kept in memory all the same
            self.config.fit.best.write = False
            trainer.enable_checkpointing = None
        refuse_uploads(trainer.logger)
        if trainer.logger is None or trainer.logger is True:
            trainer.logger = loggers(trainer.default_root_dir)
        if self.config.fit.ckpt_path == "last":
            self.config.fit.ckpt_path = newest_checkpoint(Path(trainer.default_root_dir))
        self.seed = None if self.config.fit.seed_everything is False else global_seed()
        take_classes_from_data(self.config.fit.model.network, self.config.fit.data)
        self.registry = Registry(self.config.fit.registry)
        self.registry.check_writable()
        speed_up(trainer.accelerator)

    def instantiate_classes(self) -> None:
        """Builds data, classifier and Trainer.

        Raises:
            SettingError: what was chosen can't be built, or not together.
        """
        try:
            super().instantiate_classes()
        except CifarLitError:
            raise
        except (MisconfigurationException, ImportError, RuntimeError, TypeError, ValueError) as error:
            raise SettingError(
                f"These options can't be used: {first_line(root_cause(error))} `cifar-lit fit --help` lists what can."
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        configured = self._get(self.config_init, "trainer")
        callbacks = [
            *(configured.callbacks or []),
            StopOnInterrupt(),
            ReduceStepOverhead(),
            WarnOfSlowAverage(),
            LogRate(),
            EpochLine(),
        ]
        mode = self._get(self.config_init, "compile")
        if mode is not None:
            callbacks.append(StepGraph() if mode == "step-graph" else CompileStep(mode))
        # Lightning's own choice of a bar depends on whether rich happens to be installed.
        if configured.enable_progress_bar is None and not sys.stdout.isatty():
            kwargs["enable_progress_bar"] = False  # a line an epoch tells more in a log
        elif configured.enable_progress_bar is not False and not any(
            isinstance(each, ProgressBar) for each in callbacks
        ):
            callbacks.append(OneBar())
        if configured.profiler is None:
            kwargs["profiler"] = NoProfiler()
        kwargs["plugins"] = [*as_list(configured.plugins), SyncedCheckpointIO()]
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        refuse_lost_results(trainer, configured.strategy)
        for logger in trainer.loggers:
            _ = logger.version  # chosen now, before any of them makes its folder: all take the same number
        self._run_folder = run_folder(trainer)
        best = next(each for each in trainer.callbacks if isinstance(each, BestCheckpoint))  # type: ignore[attr-defined]
        best.dirpath = best.dirpath or str(self._run_folder / "checkpoints")
        return trainer

    def before_fit(self) -> None:
        network, trainer = self.model.network, self.trainer
        check_describable(network)
        count = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        place = f"{trainer.strategy.root_device}" + (f" x {trainer.world_size}" if trainer.world_size > 1 else "")
        rank_zero_info(f"{type(network).__name__}, {count:,} trained values; {trainer.precision} on {place}.")
        if trainer.strategy.root_device.type == "cpu" and (reason := unavailable_reason()):
            rank_zero_info(f"Training takes up to three times as long without compiled kernels: {reason}.")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for logger in trainer.loggers:  # first: one of them warns of a folder that is there
                logger.log_hyperparams(flat(self.config.fit.as_dict()))
            self._run_folder.mkdir(parents=True, exist_ok=True)
            (self._run_folder / CONFIG).write_text(self._config_text())
        if trainer.world_size > 1:
            rank_zero_info(several_devices(trainer.world_size, self.datamodule.batch_size))

    def fit(self, **arguments: Any) -> None:
        """Trains.

        Raises:
            SettingError: Lightning finds only now that the options do not go together.
        """
        try:
            self.trainer.fit(**arguments)
        except MisconfigurationException as error:
            raise SettingError(f"These options can't be used together: {first_line(error)}") from error

    def after_fit(self) -> None:
        if not self.trainer.is_global_zero:
            return
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info("fast_dev_run: the steps ran without an error; nothing of it is kept, no version was made.")
            return
        best = self._callback(BestCheckpoint)
        if best.best_epoch is None:
            raise CifarLitError(
                "No epoch was finished, so there is nothing to keep and no version was made. Train for one epoch or "
                "more."
            )
        compiled = [each.seconds for each in self.trainer.callbacks if isinstance(each, CompileStep | StepGraph)]  # type: ignore[attr-defined]
        history = self.model.history
        training = {
            "epochs": self.trainer.current_epoch,
            "best_epoch": best.best_epoch,
            "monitor": best.monitor,
            "ended_by": self._ended_by(),
            "seconds": round(self.model.prepare_seconds + sum(row["seconds"] for row in history), 3),
            "compile_seconds": round(sum(compiled), 3),
            **hardware(self.trainer),
        }
        # Lightning's teardown has moved the network to the CPU; a precision of bf16-true has its weights in bfloat16.
        network, datamodule = self.model.network.float().to(self.trainer.strategy.root_device), self.datamodule
        sets = {"val": datamodule.val_set, "test": datamodule.test_set}
        evaluations = {split: evaluate(network, data) for split, data in sets.items() if len(data)}
        if not all(math.isfinite(each.metrics["loss"]) for each in evaluations.values()):
            raise SettingError(
                "The training diverged: the network's predictions are not finite, so no version was made. Lower the "
                "learning rate (--model.optimizer.lr)."
            )
        candidate = Candidate(
            network=network,
            images=next(data for data in sets.values() if len(data)),
            evaluations=evaluations,
            data=datamodule.fingerprint(),
            config=self._config_text(),
            training=training,
            history=history,
            seed=self.seed,
        )
        self.published = publish(candidate, self.registry, partial(decide, network, datamodule))
        self._tell(self.published)

    @property
    def ended_by(self) -> signal.Signals | None:
        """Ctrl-C or SIGTERM, if it ended the training; the best epoch until then was published all the same."""
        return self._callback(StopOnInterrupt).signal

    @property
    def status(self) -> int:
        """Exit status: 0, or 130 after Ctrl-C and 143 after SIGTERM."""
        return 128 + self.ended_by if self.ended_by else 0

    def _config_text(self) -> str:
        text: str = self._parser("fit").dump(self.config.fit, skip_unset=False, skip_link_targets=True)
        return text

    def _ended_by(self) -> str:
        if signum := self.ended_by:
            return "Ctrl-C" if signum is signal.SIGINT else signum.name
        return "early stopping" if self._callback(EarlyStopping).stopped_epoch else "its last epoch"

    def _tell(self, published: Published) -> None:
        version, test = published.version, published.candidate.evaluations["test"]
        print(f"\n{test.classification_report()}")
        print(f"{version.id} is {version.manifest.status}: {published.verdict.reason}.")
        print("  ".join(f"{name} {value:.4f}" for name, value in version.manifest.metrics.items()))
        print(f"Version: {version.path}")
        served = at_temperature(test, version.manifest.temperature)
        samples = plots.sample_grid(self.datamodule.test_set.images, served, f"{version.id} on the test set")
        finish_run(self._run_folder, self.trainer.loggers, version, samples, self.trainer.global_step)
        print(f"Logs, checkpoints to resume from, sample images: {self._run_folder}")

    def _callback(self, kind: type[_Callback]) -> _Callback:
        return next(each for each in self.trainer.callbacks if isinstance(each, kind))  # type: ignore[attr-defined]
