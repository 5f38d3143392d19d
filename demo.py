"""Serves the page with the champion of checkpoints/: `python demo.py [--host 127.0.0.1] [--port 7860]`."""

import sys

from cifar_lit.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
