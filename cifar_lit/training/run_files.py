"""What a run leaves behind: the folder of its files, and what its loggers get beside Lightning's metrics."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from cifar_lit.registry.version import CALIBRATION, Version

_PREFIX = "version_"


def run_folder(trainer: pl.Trainer) -> Path:
    """A folder of this run alone, not made yet: that of its first logger where it writes files beside others' (CSV,
    TensorBoard), else the next `version_N` under `default_root_dir`."""
    first = trainer.logger
    if isinstance(first, CSVLogger | TensorBoardLogger):
        return Path(first.log_dir)
    root = Path(trainer.default_root_dir)
    numbers = [path.name.removeprefix(_PREFIX) for path in root.glob(f"{_PREFIX}*")]
    return root / f"{_PREFIX}{1 + max((int(each) for each in numbers if each.isdecimal()), default=-1)}"


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options as one level: {"model.label_smoothing": 0.1}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def finish_run(folder: Path, loggers: Sequence[Logger], version: Version, samples: bytes, step: int) -> None:
    """Puts sample images into the run's folder, and the version's test metrics and figures into its loggers.

    Args:
        folder: of the run.
        loggers: of the run.
        version: what came of it.
        samples: PNG.
        step: the last training step.
    """
    (folder / "samples.png").write_bytes(samples)
    metrics = {name: value for name, value in version.manifest.metrics.items() if name.startswith("test/")}
    figures = {"samples": samples, "calibration": version.read(CALIBRATION)}
    figures["confusion_matrix"] = version.read("report/confusion_matrix.png")
    for logger in loggers:
        logger.log_metrics(metrics, step=step)
        for name, data in figures.items():
            _log_figure(logger, name, Image.open(io.BytesIO(data)).convert("RGB"), step)
        logger.save()


def _log_figure(logger: Logger, name: str, figure: Image.Image, step: int) -> None:
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, np.asarray(figure), global_step=step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, figure, f"{name}.png")
    elif hasattr(logger, "log_image"):  # Weights & Biases, and others after its pattern
        logger.log_image(key=name, images=[figure], step=step)
