"""What the tests of `cifar-lit finetune` share: its quick options, and the state of a registry."""

import hashlib
from pathlib import Path

SYNTHETIC = ["--data.source", "synthetic", "--data.num_synthetic", "600"]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUICK = ["--data.batch_size", "64", "--data.min_new", "64", "--trainer.max_epochs", "2", "--gate.confidence", "0.8"]
QUICK += ["--threads", "1"]
"""Fewer old images judge than the default confidence asks for; threads do not go by the machine's load."""
FASTER = ["--model.optimizer.lr", "0.003"]
"""Two epochs learn something."""
HALF = ["--data.val_fraction", "0.5", "--data.split_seed", "3"]
"""Of the 600 images, 300 judge."""


def tree(root: Path) -> dict[str, str]:
    """The digest of every file below a folder."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }
