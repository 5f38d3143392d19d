"""`cifar-lit versions list|show|promote|rollback|upgrade|verify|increments`."""

import argparse
import textwrap
from dataclasses import asdict
from typing import Any

from cifar_lit.commands.options import add_registry, print_json, registry_of
from cifar_lit.errors import RegistryError
from cifar_lit.registry.model_card import CARD
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import ONNX, Version

_REASON_SHOWN = 100
"""Characters of a reason in a list; `show` has all of it."""


def run(args: list[str]) -> int:
    namespace = _parser().parse_args(args[1:])
    status: int = namespace.action(registry_of(namespace), namespace)
    return status


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    add_registry(common)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    reason = argparse.ArgumentParser(add_help=False)
    reason.add_argument("--reason", default="by hand", help="kept in the history (default: %(default)s)")
    parser = argparse.ArgumentParser(prog="cifar-lit versions", description="The registry of versions.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, action: Any, about: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=about, description=about, parents=[common, *parents])
        sub.set_defaults(action=action)
        return sub

    add("list", _list, "all versions, oldest first")
    add("show", _show, "all that is known of a version").add_argument("version", help="an id, or 'latest'")
    add("promote", _promote, "make a version the champion", reason).add_argument("version", help="an id")
    add("rollback", _rollback, "bring back the champion before this one, and reject this one", reason)
    about = "load a version with a network of your own though its source file has changed"
    add("accept", _accept, about).add_argument("version", help="an id, or 'latest'")
    about = "add what newer releases keep of a version: model card, ONNX graph, temperature (needs [train])"
    add("upgrade", _upgrade, about).add_argument(
        "--data.root", dest="data_root", metavar="DIR", help="data set of the versions, to fit temperatures to"
    )
    add("verify", _verify, "check every file of every version against its hash")
    about = "list what is kept of the increments that versions have learned, or drop it"
    add("increments", _increments, about).add_argument(
        "--drop",
        nargs="+",
        metavar="SHA256",
        help="remove those that begin like this, or 'all': nothing replays them then",
    )
    return parser


def _list(registry: Registry, namespace: argparse.Namespace) -> int:
    versions = registry.versions()
    champion_id = _champion_id(registry)
    if namespace.json:
        print_json([version.manifest.summary(champion_id) for version in versions])
        return 0
    if not versions:
        print(f"No version in {registry} yet. `cifar-lit fit` makes one.")
        return 0
    print(
        f"  {'id':6}  {'parent':6}  {'status':9}  {'val/acc':>7}  {'test/acc':>8}  {'network':14}  "
        f"{'created (UTC)':19}  learned besides; reason"
    )
    for version in versions:
        about = version.manifest
        val, test = (_figure(about.metrics.get(name)) for name in ("val/acc", "test/acc"))
        mark = "*" if version.id == champion_id else " "
        increments = ", ".join(each["name"] for each in about.data.get("increments", [])) or "-"
        notes = f"{increments}; {textwrap.shorten(about.reason, _REASON_SHOWN, placeholder=' ...')}"
        print(
            f"{mark} {version.id:6}  {about.parent or '-':6}  {about.status:9}  {val:>7}  {test:>8}  "
            f"{about.network['name']:14}  {about.created_at[:19].replace('T', ' ')}  {notes}"
        )
    print("* is the champion: the version that is served.")
    return 0


def _show(registry: Registry, namespace: argparse.Namespace) -> int:
    version = registry.resolve(namespace.version)
    champion_id = _champion_id(registry)
    if namespace.json:
        print_json(asdict(version.manifest) | {"champion": version.id == champion_id})
        return 0
    about = version.manifest
    role = " (champion)" if version.id == champion_id else ""
    print(f"{version.id}{role}: {about.status}, {about.reason}")
    origin = about.parent or about.training.get("imported_from") or about.training.get("from", "scratch")
    print(f"created   {about.created_at}, from {origin}, seed {about.seed}")
    print(f"network   {about.network['name']} {about.network['args']}")
    train = about.data["train"]
    known = train["sha256"] is not None  # an import's training data is not
    images = f": {train['count']:,} images, sha256 {train['sha256'][:16]}" if known else ""
    print(f"data      {about.data['source']}{images}")
    for each in about.data.get("increments", []):
        print(f"          + {each['name']}: {each['count']:,} images, sha256 {each['sha256'][:16]}")
    print(f"training  {', '.join(f'{name} {value}' for name, value in about.training.items())}")
    print(f"metrics   {', '.join(f'{name} {value:.4f}' for name, value in about.metrics.items()) or 'not measured'}")
    print(f"code      {', '.join(f'{name} {value}' for name, value in about.code.items())}")
    print(f"files     {version.path}: {', '.join(about.files)}\n")
    if "report/report.txt" in about.files:
        print(version.read("report/report.txt").decode(), end="")
    return 0


def _promote(registry: Registry, namespace: argparse.Namespace) -> int:
    return _tell(registry, registry.promote(namespace.version, namespace.reason), namespace.json)


def _rollback(registry: Registry, namespace: argparse.Namespace) -> int:
    return _tell(registry, registry.rollback(namespace.reason), namespace.json)


def _accept(registry: Registry, namespace: argparse.Namespace) -> int:
    from cifar_lit.registry.weights import accept_network  # brings torch

    version = accept_network(registry, namespace.version)
    if namespace.json:
        print_json(version.manifest.summary(_champion_id(registry)))
    else:
        print(f"{version.id} is loaded with {version.manifest.network['import_path']} as it is now.")
    return 0


def _upgrade(registry: Registry, namespace: argparse.Namespace) -> int:
    done: dict[str, list[str]] = {}
    for version in registry.versions():
        missing = [name for name in (CARD, ONNX) if name not in version.manifest.files]
        if missing:
            registry.amend(version.id, {ONNX: _graph(version)} if ONNX in missing else {})
            done[version.id] = missing
    if namespace.data_root is not None:
        from cifar_lit.training.calibrate import calibrate_all

        for version in calibrate_all(registry, namespace.data_root):
            done.setdefault(version.id, []).append(f"temperature {version.manifest.temperature:.4f}")
    if namespace.json:
        print_json(done)
        return 0
    for version_id, names in done.items():
        print(f"{version_id}  {', '.join(names)} written")
    if not done:
        print(f"Every version has its {CARD} and its {ONNX}.")
    return 0


def _graph(version: Version) -> bytes:
    from cifar_lit.interop.onnx_model import of_version  # here, as it needs torch: other actions do not

    return of_version(version)


def _verify(registry: Registry, namespace: argparse.Namespace) -> int:
    problems = registry.verify()
    if namespace.json:
        print_json(problems)
    else:
        for version_id, problem in problems.items():
            print(f"{version_id}  {problem or 'whole'}")
    return 1 if any(problems.values()) else 0


def _increments(registry: Registry, namespace: argparse.Namespace) -> int:
    store = registry.increments
    if namespace.drop:
        dropped = [each for start in namespace.drop for each in store.drop("" if start == "all" else start)]
        if namespace.json:
            print_json(dropped)
        else:
            print(f"Dropped {len(dropped):,} from {store.folder}/.")
        return 0
    learned: dict[str, list[str]] = {}
    for version in registry.versions():
        for each in version.manifest.data.get("increments", []):
            learned.setdefault(each["sha256"], []).append(version.id)
    sizes = store.sizes()
    if namespace.json:
        print_json([{"sha256": each, "bytes": size, "versions": learned.get(each, [])} for each, size in sizes.items()])
        return 0
    for each, size in sizes.items():
        print(f"{each[:16]}  {size / 2**20:8.1f} MiB  {', '.join(learned.get(each, ['no version']))}")
    print(f"{len(sizes):,} kept in {store.folder}/, {sum(sizes.values()) / 2**20:,.1f} MiB.")
    return 0


def _tell(registry: Registry, champion: Version, as_json: bool) -> int:
    if as_json:
        print_json(champion.manifest.summary(champion.id))
    else:
        print(f"{champion.id} is the champion of {registry} now.")
    return 0


def _champion_id(registry: Registry) -> str | None:
    """A listing is most needed when something is broken, so it goes on without a champion then."""
    try:
        champion = registry.champion()
    except RegistryError:
        return None
    return champion.id if champion else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
