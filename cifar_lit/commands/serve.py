"""`cifar-lit serve`: REST and the page, from the champion."""

import argparse
import contextlib
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_lit.commands.options import add_registry, registry_of, registry_to_read_of
from cifar_lit.errors import SettingError
from cifar_lit.extras import require
from cifar_lit.serving.logs import LEVELS, set_up_logging

if TYPE_CHECKING:
    from cifar_lit.serving.app import Options

_KEYS_VARIABLE = "CIFAR_LIT_API_KEYS"
_PASSWORD_VARIABLE = "CIFAR_LIT_PASSWORD"
_ANY_HOST = "*"


def run(args: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cifar-lit serve",
        description="Serve the page and REST from the champion, and follow it without a restart.",
        epilog=f"If the environment's {_KEYS_VARIABLE} holds keys (with commas between), REST asks for one of them in "
        f"X-API-Key, and the page for a sign-in. Whoever knows the password in {_PASSWORD_VARIABLE} may teach the "
        "network on the page and choose which version is served; without one nobody may. Uploads and other temporary "
        "files lie in a folder below GRADIO_TEMP_DIR (default: gradio/ in the system's own).",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        metavar="NAME",
        help=f"names that visitors may call the server by, {_ANY_HOST!r} for any; default: this machine's own if it "
        "listens to itself alone, else any",
    )
    parser.add_argument(
        "--proxy",
        nargs="+",
        metavar="ADDRESS",
        help="of the proxies before it, whose X-Forwarded-For and X-Forwarded-Proto are believed; default: of none",
    )
    parser.add_argument(
        "--requests-per-minute", type=int, metavar="N", help="that one client may send to REST and the page"
    )
    parser.add_argument(
        "--public-page", action="store_true", help="with API keys: the page is open without a sign-in all the same"
    )
    parser.add_argument("--no-page", action="store_true", help="serve REST alone")
    parser.add_argument(
        "--teach",
        type=Path,
        metavar="DIR",
        help="let visitors who sign in teach the network (needs the extra [train]); DIR keeps what they do",
    )
    parser.add_argument(
        "--data.root", dest="data_root", metavar="DIR", help="folder of CIFAR-10, to go over while learning the new"
    )
    parser.add_argument(
        "--finetune",
        default="",
        metavar="OPTIONS",
        help="how it learns: options of `cifar-lit finetune` in one string, as "
        "--finetune='--trainer.max_epochs 3 --gate.max_drop 0.3'",
    )
    parser.add_argument("--access-log", action="store_true", help="a line a request on stderr")
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="of the log (default: %(default)s)")
    parser.add_argument("--log-json", action="store_true", help="a JSON object a line in the log")
    add_registry(parser)
    namespace = parser.parse_args(args[1:])
    if namespace.teach is not None and namespace.no_page:
        parser.error("--teach is of no use with --no-page: the network is taught on the page")
    if namespace.teach is not None:
        require("train", "--teach")
    from cifar_lit.serving.app import AddPage, Options, create_app  # here, so that --help needs no extra
    from cifar_lit.serving.request_limits import LOOPBACK
    from cifar_lit.serving.server import run as serve

    add_page: AddPage | None = None
    if not namespace.no_page:
        from cifar_lit.page.on_demand import load_on_demand

        load_on_demand("pandas")  # Gradio imports it for components that the page does not have
        from cifar_lit.page.page import mount_page
        from cifar_lit.page.scratch import scratch

        add_page = mount_page
    set_up_logging(namespace.log_level, as_json=namespace.log_json, access=namespace.access_log)
    local = namespace.host in ("127.0.0.1", "localhost", "::1")
    hosts = namespace.allowed_hosts or ([] if local else [_ANY_HOST])
    keys = os.environ.get(_KEYS_VARIABLE, "").split(",")
    options = Options(
        # What is taught becomes a version, and none is written where the package is installed.
        registry=(registry_of if namespace.teach else registry_to_read_of)(namespace).root,
        hosts=None if _ANY_HOST in hosts else [*hosts, *LOOPBACK],
        api_keys=frozenset(key.strip() for key in keys if key.strip()),
        public_page=namespace.public_page,
        requests_per_minute=namespace.requests_per_minute,
        behind_proxy=bool(namespace.proxy),
        # Taken out, so that no process that this one begins knows it.
        password=os.environ.pop(_PASSWORD_VARIABLE, None),
        teach=namespace.teach,
        finetune=_finetune_options(namespace),
    )
    if not local and options.hosts is None and options.password is None:
        print(_who_may(options, namespace.port, has_page=not namespace.no_page), flush=True)
    with contextlib.nullcontext() if namespace.no_page else scratch():
        serve(create_app(options, add_page), namespace.host, namespace.port, proxies=namespace.proxy or ())
    return 0


def _who_may(options: "Options", port: int, *, has_page: bool) -> str:
    """Of a server that is open to others, in one line."""
    page = "the page" if has_page and (options.public_page or not options.api_keys) else ""
    rest = "" if options.api_keys else "REST"
    ways = " and ".join(way for way in (page, rest) if way)
    who = f"anybody who reaches port {port}, by any name," if ways else "whoever has an API key"
    return (
        f"Open: {who} may have images classified by {ways or 'REST'}; nobody may teach or choose the version "
        f"({_PASSWORD_VARIABLE} is not set, --allowed-hosts names no host)."
    )


def _finetune_options(namespace: argparse.Namespace) -> tuple[str, ...]:
    """Those of the page's fine-tunings.

    Raises:
        SettingError: a quotation mark is not closed.
    """
    try:
        given = shlex.split(namespace.finetune)
    except ValueError as error:
        raise SettingError(f"--finetune can't be read as a command line: {error}.") from error
    return (*(("--data.root", namespace.data_root) if namespace.data_root else ()), *given)
