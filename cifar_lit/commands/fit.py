"""`cifar-lit fit`."""

import sys

from cifar_lit.training.fit import FitCLI


def run(args: list[str]) -> int:
    # Lightning starts further processes by the program's own command line, and wants that rather than a list.
    return FitCLI(None if args == sys.argv[1:] else args).status
