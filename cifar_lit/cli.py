"""`cifar-lit`: Lightning's verbs and ours. Each command lives where its work is done; this module only finds it.

Commands are imported when they are called for: `versions list` need not wait for torch.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from cifar_lit import __version__
from cifar_lit.errors import CifarLitError
from cifar_lit.extras import missing

_COMMANDS = {
    "fit": ("cifar_lit.commands.fit", "train a network and make the result a version"),
    "sweep": ("cifar_lit.commands.sweep", "train with several seeds and settings, and compare them"),
    "finetune": ("cifar_lit.commands.finetune", "learn new images from npz files; a gate decides about the result"),
    "validate": ("cifar_lit.commands.evaluate", "measure a version on the validation images"),
    "test": ("cifar_lit.commands.evaluate", "measure a version on the test images"),
    "compare": ("cifar_lit.commands.compare", "two versions on the same images: paired test, classes, calibration"),
    "predict": ("cifar_lit.commands.predict", "classify image files and folders"),
    "export": ("cifar_lit.commands.export", "write a version as npz, safetensors, Keras or ONNX"),
    "import": ("cifar_lit.commands.import_model", "make a version of a Keras model or of a file of weights"),
    "increment": ("cifar_lit.commands.increment", "make and check npz files of data to learn from later"),
    "versions": ("cifar_lit.commands.versions", "list, show, promote, roll back and verify versions"),
    "serve": ("cifar_lit.commands.serve", "serve the page from the champion"),
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        args: command line without the program's name; the process's own if absent.

    Returns:
        Exit status: 0 done, 1 done but something is not as it should be, 2 wrong input, 3 a fine-tuning whose result
        was not promoted, 130 ended by Ctrl-C.
    """
    args = sys.argv[1:] if args is None else args
    command = _parser().parse_args(args[:1]).command
    try:
        module = importlib.import_module(_COMMANDS[command][0])
        return module.run(list(args))  # type: ignore[no-any-return]
    except CifarLitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0
    except ModuleNotFoundError as error:
        unavailable_reason = missing(error.name, f"`cifar-lit {command}`")
        if unavailable_reason is None:
            raise
        print(f"error: {unavailable_reason}", file=sys.stderr)
        return 2
    except FileNotFoundError as error:
        print(f"error: {error.filename or error}: there is no such file. Name one that exists.", file=sys.stderr)
        return 2
    except OSError as error:
        path = error.filename2 or error.filename
        place = f"{path}: " if path else ""
        print(f"error: {place}{error.strerror or error}. Free space, or change the permissions.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"Stopped by Ctrl-C. {error}".rstrip(), file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:10}{about}" for name, (_, about) in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="cifar-lit",
        description=f"CIFAR-10 classification as a whole life cycle.\n\ncommands:\n{listing}",
        epilog="`cifar-lit COMMAND --help` shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cifar-lit {__version__}")
    parser.add_argument("command", choices=list(_COMMANDS), metavar="COMMAND")
    return parser


if __name__ == "__main__":
    sys.exit(main())
