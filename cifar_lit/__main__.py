"""`python -m cifar_lit` is `cifar-lit`."""

import sys

from cifar_lit.cli import main

if __name__ == "__main__":
    sys.exit(main())
