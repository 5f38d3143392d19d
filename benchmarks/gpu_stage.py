"""What all stages of gpu.py share: settings, time left, figures kept as they come, the cached images."""

import json
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from cifar_lit.data.image_set import ImageSet

SCRIPTS = {"airbench": "airbench94_muon.py", "airbench95": "airbench95.py", "airbench96": "airbench96.py"}
"""airbench's published script of each stage."""

CONFIGS = Path(__file__).absolute().parent.parent / "configs"
_SMALL = "--model.network.init_args.widths=[8,8,8]"
_NARROW = "--model.network.init_args.width=4"
TINY = {
    "seed": [_NARROW],
    "quick": [_NARROW],
    "default": [_NARROW],
    "fast": [_SMALL, "--data.batch_size=100"],
    "accurate": [_SMALL, "--data.batch_size=100"],
    "accurate_large": [_SMALL, "--data.batch_size=100"],
}
"""Options that make a config's fit a matter of seconds on a CPU."""


class Stage:
    """What all stages share.

    Args:
        settings: as gpu.py gives them.
        out: file that the figures are written to as they come.
    """

    def __init__(self, settings: dict[str, Any], out: Path) -> None:
        self.settings = settings
        self.out = out
        self.deadline = time.monotonic() + settings["limit_s"]
        self.result: dict[str, Any] = {}
        self.gpu = settings["accelerator"] == "gpu"
        self.tiny: bool = settings["tiny"]
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.folder = Path(settings["folder"])

    def keep(self, **values: Any) -> None:
        self.result |= values
        self.out.write_text(json.dumps(self.result))

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def unpacked(self) -> Path | None:
        """The data set's folder, unpacked if it is an archive of one folder; None if images are synthetic."""
        if self.settings["root"] is None:
            return None
        root = Path(self.settings["root"])
        if root.is_dir():
            return root
        folder = self.folder / "data"
        folder.mkdir()
        subprocess.run(["tar", "-xf", str(root), "-C", str(folder)], check=True)
        (inside,) = folder.iterdir()
        return inside

    def save(self, sets: Mapping[str, ImageSet]) -> None:
        torch.save({name: (each.images, each.labels) for name, each in sets.items()}, self.folder / "images.pt")

    @cache  # noqa: B019 (one stage a process)
    def images(self) -> dict[str, ImageSet]:
        saved = torch.load(self.folder / "images.pt", weights_only=True)
        return {name: ImageSet(*saved[name], "cached") for name in ("train", "test")}

    def command(self, config: str, *options: str) -> list[str]:
        """The arguments of `cifar-lit` for a fit."""
        data = ["--data.root", self.settings["root"]] if self.settings["root"] else ["--data.source", "synthetic"]
        if self.tiny:
            data += ["--data.num_synthetic", "600", *TINY[config]]
        path = str(CONFIGS / f"{config}.yaml")
        more = ["--trainer.accelerator", self.settings["accelerator"], "--trainer.enable_progress_bar", "false"]
        more += ["--registry", str(self.folder / "registry"), "--early_stopping.patience", "1000"]
        return ["fit", "--config", path, *data, *more, *options]
