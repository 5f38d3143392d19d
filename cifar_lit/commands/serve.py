"""`cifar-lit serve`: the page, from the champion."""

import argparse

from cifar_lit.commands.options import add_registry, registry_of
from cifar_lit.errors import CifarLitError
from cifar_lit.registry.registry import LATEST
from cifar_lit.serving.predictor import Predictor


def run(args: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="cifar-lit serve", description="Serve the page from the champion.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    add_registry(parser)
    namespace = parser.parse_args(args[1:])
    try:
        from cifar_lit.serving.page import build_page, launch
    except ModuleNotFoundError as error:
        raise CifarLitError(f"the page needs {error.name}, an extra: pip install 'cifar-lit[serve]'.") from error
    predictor = Predictor.from_version(registry_of(namespace).resolve(LATEST))
    launch(build_page(predictor), host=namespace.host, port=namespace.port)
    return 0
