"""Keeps what Lightning says of itself out of what the user reads."""

import logging
import warnings

_NOISE = (
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own affair
    r"Found \d+ module\(s\) in eval mode",  # where batch norm is frozen they are meant to be
    r"LightningCLI's args parameter is intended to run from within Python",  # so it is
    r"\s*(By default only one JsonargparseDeprecationWarning|``instantiate_classes``|skip_none parameter)",  # its use
    r"The number of training batches .* is smaller than the logging interval",  # metrics are logged once an epoch
)


def hush_lightning() -> None:
    """Silences what Lightning says of its own code and of its makers' other products."""
    for message in _NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("\N{ELECTRIC LIGHT BULB} Tip:")
