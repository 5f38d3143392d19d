"""`cifar-lit finetune` from its command line to the version it makes, or to the version it does not make."""

import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import WEAK, tiny_network
from finetuning import FASTER, HALF, QUICK, QUIET, SYNTHETIC, tree
from hostile_npz import FRAGMENTS, HOSTILE

from cifar_lit.cli import main
from cifar_lit.commands.finetune import NOT_PROMOTED, build_parser
from cifar_lit.data import increment, synthetic
from cifar_lit.data.image_set import ImageSet, stratified_split
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.weights import load_network

CONFIG = Path(__file__).parent.parent / "configs" / "finetune.yaml"
MORE = synthetic.draw("train", 1_000)
A, B = MORE.subset(torch.arange(700, 760)), MORE.subset(torch.arange(800, 840))

pytestmark = pytest.mark.filterwarnings("default:::cifar_lit")  # a test that expects one looks for it

Call = Callable[..., int]


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder with two increments, and nothing in the environment."""
    for name in ("CIFAR_LIT_REGISTRY", "CIFAR_LIT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    increment.write(Path("a.npz"), A)
    increment.write(Path("b.npz"), B)


@pytest.fixture
def registry(parents: Path) -> Registry:
    """A copy of its own, in the temporary folder."""
    return Registry(shutil.copytree(parents, "checkpoints"))


@pytest.fixture
def finetune(registry: Registry) -> Call:
    """Runs `cifar-lit finetune` on these files; gives its exit status."""
    return lambda *args, data=SYNTHETIC: main(["finetune", *data, *QUIET, *QUICK, "--data.increments", *map(str, args)])


@pytest.fixture
def learner(registry: Registry) -> Registry:
    """The registry with v0001 as champion, which has much to learn; v0002 knows all there is."""
    registry.promote("v0001", "for this test")
    return registry


def weights_digest(version_id: str, registry: Registry) -> str:
    return registry.get(version_id).manifest.files["model.safetensors"]


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]


@contextlib.contextmanager
def warned() -> Iterator[list[str]]:
    """The texts of the warnings inside."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    texts += [str(warning.message) for warning in caught]


def unserved(registry: Registry, before: dict[str, str]) -> None:
    """Nothing changed for those who are served, and every version is whole."""
    assert registry.resolve("latest").id == "v0002"
    now = tree(registry.root)
    kept = [name for name in before if name != "history.jsonl"]
    assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
    assert set(registry.verify().values()) == {None}


# What becomes of increments


@pytest.mark.usefixtures("unabridged")
def test_new_images_make_a_promoted_version_that_says_what_was_learned(
    finetune: Call, learner: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = learner
    assert finetune("a.npz", "b.npz", *FASTER) == 0
    version = registry.resolve("latest")
    manifest = version.manifest
    assert (version.id, manifest.parent, manifest.status) == ("v0003", "v0001", "promoted")
    assert registry.verify() == {"v0001": None, "v0002": None, "v0003": None}
    assert set(manifest.files) >= {
        "model.safetensors",
        "config.yaml",
        *(f"report/{name}" for name in ("metrics.json", "report.txt", "confusion_matrix.png", "curves.png")),
        *(f"report/forgetting.{suffix}" for suffix in ("txt", "json", "png")),
    }
    lessons = json.loads(version.read("report/forgetting.json"))
    assert {name: lessons[name]["count"] for name in lessons} == {"old": 300, "new": 20, "learned": 80, "test": 600}
    assert lessons["old"]["before"]["acc"] == registry.get("v0001").manifest.metrics["val/acc"]
    assert lessons["old"]["after"]["acc"] == manifest.metrics["val/acc"]
    assert lessons["test"]["after"]["acc"] == manifest.metrics["test/acc"]
    assert version.read("report/forgetting.png").startswith(b"\x89PNG")
    assert manifest.data["increments"] == [
        {"name": "a.npz", "sha256": A.sha256, "count": 60},
        {"name": "b.npz", "sha256": B.sha256, "count": 40},
    ]
    parents = registry.get("v0001").manifest.data
    assert {name: manifest.data[name] for name in parents} == parents
    assert manifest.training["from"] == "v0001"
    assert (manifest.training["epochs"], manifest.training["held_out"], manifest.training["left_out"]) == (2, 20, [])
    printed = capsys.readouterr().out
    assert f"v0003 is promoted: {manifest.reason}." in printed
    assert "new accuracy 0." in manifest.reason
    assert "Weights: 100% of the fine-tuned network and 0% of its parent (WiSE-FT)." in printed
    assert "versions promote" not in printed
    assert version.read("report/forgetting.txt").decode().startswith(printed[1 : printed.index("\n\n")])


def test_the_saved_config_names_the_parent_that_latest_was(finetune: Call, registry: Registry) -> None:
    assert finetune("a.npz") == NOT_PROMOTED
    assert "from: v0002\n" in registry.get("v0003").read("config.yaml").decode()


@pytest.mark.slow
def test_the_saved_config_reruns_to_equal_weights_and_another_seed_to_others(
    finetune: Call, registry: Registry
) -> None:
    options = ["a.npz", "--from", "v0002", "--model.distill", "0.25"]
    finetune(*options, "--seed_everything", "4")
    assert main(["finetune", "--config", "checkpoints/v0003/config.yaml"]) == NOT_PROMOTED
    finetune(*options, "--seed_everything", "5")
    first, again, other = (weights_digest(each, registry) for each in ("v0003", "v0004", "v0005"))
    assert first == again != other
    assert first != weights_digest("v0002", registry)


@pytest.mark.parametrize(
    ("data", "held", "reason"),
    [
        (A.subset(torch.tensor([7])), 0, "1 new images are too few to hold any out"),
        (A.subset((A.labels == 3).nonzero().squeeze(1)), 1, "no improvement beyond chance"),
        (A + B, 20, ""),
    ],
    ids=["one image", "one class", "many"],
)
def test_any_number_of_images_can_be_learned_but_only_a_gain_on_held_out_ones_is_promoted(
    data: ImageSet, held: int, reason: str, finetune: Call, learner: Registry
) -> None:
    increment.write(Path("new.npz"), data)
    assert finetune("new.npz", *FASTER) == (NOT_PROMOTED if reason else 0)
    manifest = learner.get("v0003").manifest
    assert manifest.training["held_out"] == held
    assert manifest.data["increments"][0]["count"] == len(data)
    assert (manifest.status, reason in manifest.reason) == ("candidate" if reason else "promoted", True)


def wrong_about(registry: Registry, version_id: str) -> torch.Tensor:
    """Rows of many more images that a version gets wrong, the right class second."""
    network = load_network(registry.get(version_id))
    logits = network(MORE.images.permute(0, 3, 1, 2)).detach()
    second = logits.argsort(1, descending=True)[:, 1]
    return ((second == MORE.labels) & (torch.arange(len(MORE)) >= 600)).nonzero().squeeze(1)


def test_a_single_correction_is_promoted_if_it_was_learned_and_only_then(
    finetune: Call, learner: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    increment.write(Path("one.npz"), MORE.subset(wrong_about(learner, "v0001")[:1]))
    correction = ["one.npz", "--data.corrections", "true"]
    assert finetune(*correction, "--model.optimizer.lr", "1e-12") == NOT_PROMOTED
    manifest = learner.get("v0003").manifest
    assert manifest.status == "candidate"
    assert "of 1 corrections the parent gets 1 wrong, and of these the child gets 0 right" in manifest.reason
    assert finetune(*correction, *FASTER) == 0
    assert "1 of 1 mistakes corrected" in learner.resolve("latest").manifest.reason
    # What the champion says already is no evidence
    assert finetune(*correction, *FASTER) == NOT_PROMOTED
    assert "of 1 corrections the parent gets 0 wrong" in learner.get("v0005").manifest.reason
    assert learner.resolve("latest").id == "v0004"


def test_what_was_learned_before_or_is_in_the_training_set_is_no_reason_to_promote(
    finetune: Call, learner: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("a.npz", *FASTER) == 0
    assert finetune("a.npz", *FASTER) == NOT_PROMOTED
    assert learner.get("v0004").manifest.reason == "all 48 are already learned by v0003"
    train = synthetic.draw("train", 600)
    increment.write(Path("train.npz"), train.subset(stratified_split(train.labels, 0.5, 3)[0][:50]))
    assert finetune("train.npz", *FASTER) == NOT_PROMOTED
    assert learner.get("v0005").manifest.reason == "all 50 are training images"
    assert "`cifar-lit increment check train.npz --report audit` lists the copies" in capsys.readouterr().out
    assert learner.resolve("latest").id == "v0003"


@pytest.mark.parametrize(
    ("options", "exit_status", "status", "advice"),
    [
        (FASTER, 0, "promoted", ""),
        (["--from", "v0002"], NOT_PROMOTED, "candidate", "Give more images. `cifar-lit versions promote v0003`"),
        (["--from", "v0002", "--any-status"], 0, "candidate", "`cifar-lit versions promote v0003`"),
        (["--gate.max_drop", "0", "--from", "v0002"], NOT_PROMOTED, "rejected", "Give fewer new images"),
        (
            ["--gate.max_label_rank", "0", "--model.optimizer.lr", "0.0001"],
            NOT_PROMOTED,
            "rejected",
            "`cifar-lit increment check a.npz --report audit`",
        ),
    ],
)
def test_the_exit_status_tells_whether_it_was_promoted_and_the_last_line_what_to_do(
    options: list[str],
    exit_status: int,
    status: str,
    advice: str,
    finetune: Call,
    learner: Registry,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune("a.npz", *options) == exit_status
    assert learner.get("v0003").manifest.status == status
    last = capsys.readouterr().out.splitlines()[-1]
    assert advice in last if advice else last.startswith("Version: ")


def test_json_is_one_object_on_standard_output(
    finetune: Call, learner: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("a.npz", "--json", *FASTER) == 0
    printed = json.loads(capsys.readouterr().out)
    manifest = learner.get("v0003").manifest
    assert {"id", "parent", "status", "champion", "metrics"} <= set(printed)
    assert (printed["id"], printed["parent"]) == ("v0003", "v0001")
    assert (printed["status"], printed["champion"]) == ("promoted", True)
    assert printed["metrics"] == manifest.metrics
    assert {"val/acc", "val/loss", "test/acc", "test/f1"} <= set(manifest.metrics)


def test_a_class_that_the_parent_is_bad_at_can_be_learned(finetune: Call, registry: Registry) -> None:
    many = synthetic.draw("train", 1_600)
    data = many.subset((many.labels == WEAK).nonzero().squeeze(1)[80:])
    increment.write(Path("weak.npz"), data)
    registry.promote("v0001", "for this test")
    assert finetune("weak.npz", "--trainer.max_epochs", 6, "--model.optimizer.lr", 0.002) == 0
    manifest = registry.get("v0003").manifest
    lessons = json.loads(registry.get("v0003").read("report/forgetting.json"))
    assert lessons["new"]["before"]["acc"] < 0.5 < lessons["new"]["after"]["acc"]
    assert manifest.status == "promoted", manifest.reason


def test_the_config_file_spells_out_the_defaults() -> None:
    parser = build_parser()
    given = ["--data.increments=[a.npz]"]
    plain, configured = parser.parse_args(given), parser.parse_args([*given, f"--config={CONFIG}"])
    del configured["config"], plain["config"]
    assert configured == plain
    assert CONFIG.read_text().startswith("# cifar-lit finetune --config configs/finetune.yaml ")


# Parents


@pytest.mark.parametrize(("reference", "parent"), [("latest", "v0002"), ("v0001", "v0001")])
def test_the_parent_is_the_version_asked_for(reference: str, parent: str, finetune: Call, registry: Registry) -> None:
    assert finetune("a.npz", "--from", reference) == NOT_PROMOTED
    manifest = registry.get("v0003").manifest
    assert (manifest.parent, manifest.training["from"]) == (parent, parent)
    assert manifest.data["split"] == {"seed": 3, "val_fraction": 0.5}  # the parent's, unless told otherwise


def test_weights_in_a_file_can_be_the_parent(finetune: Call, registry: Registry) -> None:
    assert main(["export", "v0002", "--format", "npz", "--out", "weights.npz"]) == 0
    with warned() as texts:
        assert finetune("a.npz", "--from", "weights.npz", *HALF) == NOT_PROMOTED
    assert any("weights.npz was trained on other data" in text for text in texts)
    manifest = registry.get("v0003").manifest
    digest = hashlib.sha256(Path("weights.npz").read_bytes()).hexdigest()
    assert (manifest.parent, manifest.training["from"], manifest.training["from_sha256"]) == (
        None,
        "weights.npz",
        digest,
    )
    assert manifest.data["train"]["count"] == 600
    # Equal to the fine-tune of the version that the file was made of
    finetune("a.npz", "--from", "v0002")
    assert weights_digest("v0003", registry) == weights_digest("v0004", registry)


def test_an_imported_version_whose_data_are_unknown_can_be_the_parent(finetune: Call, registry: Registry) -> None:
    assert main(["export", "v0002", "--format", "npz", "--out", "weights.npz"]) == 0
    assert main(["import", "weights.npz"]) == 0
    assert registry.get("v0003").manifest.data["split"] == {"seed": None, "val_fraction": None}
    with warned() as texts:
        assert finetune("a.npz", "--from", "v0003", *HALF) == NOT_PROMOTED
    assert any("v0003 was trained on other data than the old images at hand, or unknown data" in t for t in texts)
    manifest = registry.get("v0004").manifest
    assert manifest.parent == "v0003"
    assert manifest.data["split"] == {"seed": 3, "val_fraction": 0.5}
    assert manifest.data["increments"] == [{"name": "a.npz", "sha256": A.sha256, "count": 60}]


def test_another_split_than_the_parents_is_warned_of_and_leaves_what_neither_was_trained_on(
    finetune: Call, registry: Registry
) -> None:
    with warned() as texts:
        assert finetune("a.npz", "--data.val_fraction", "0.25") == NOT_PROMOTED
    assert any("v0002 was trained with the split {'seed': 3, 'val_fraction': 0.5}" in text for text in texts)
    assert registry.get("v0003").manifest.data["split"] == {"seed": 3, "val_fraction": 0.25}
    assert finetune("a.npz", "--data.split_seed", "4") == NOT_PROMOTED
    assert registry.get("v0004").manifest.data["split"] == {"seed": 3, "val_fraction": 0.0}


def test_what_was_learned_is_kept_replayed_and_judges_what_comes_later(finetune: Call, learner: Registry) -> None:
    with warned() as texts:
        assert finetune("a.npz", *FASTER) == 0
        assert finetune("b.npz", "a.npz") == NOT_PROMOTED
    assert not [text for text in texts if "replayed" in text]
    kept = learner.increments.sizes()
    assert set(kept) == {A.sha256, B.sha256}
    assert increment.read(learner.increments.path(A.sha256)).sha256 == A.sha256
    rows = json.loads(learner.get("v0003").read("increments.json"))[A.sha256]
    assert (len(rows["learned"]), len(rows["held_out"])) == (48, 12)
    lessons = json.loads(learner.get("v0004").read("report/forgetting.json"))
    assert (lessons["earlier"]["count"], lessons["new"]["count"], lessons["learned"]["count"]) == (12, 8, 80)
    names = [each["name"] for each in learner.get("v0004").manifest.data["increments"]]
    assert names == ["a.npz", "b.npz", "a.npz"]


def test_a_line_that_keeps_nothing_is_warned_of_and_may_be_given_what_it_learned(
    finetune: Call, learner: Registry
) -> None:
    nothing = ["--keep_increments_mib", "0"]
    with warned() as first:
        finetune("a.npz", *nothing, *FASTER)
    with warned() as second:
        finetune("b.npz", *nothing)
    with warned() as third:
        finetune("b.npz", *nothing, "--from", "v0003", "--data.old_increments", "a.npz")
    warning = "v0003 learned a.npz, which is not replayed and may be forgotten: name it with --data.old_increments."
    assert [[text for text in texts if "replayed" in text] for texts in (first, second, third)] == [[], [warning], []]
    assert learner.increments.sizes() == {}
    for version_id in ("v0004", "v0005"):
        manifest = learner.get(version_id).manifest
        assert manifest.parent == "v0003"
        assert [(each["name"], each["count"]) for each in manifest.data["increments"]] == [("a.npz", 60), ("b.npz", 40)]


def test_more_than_the_bound_is_not_kept_and_a_rejected_increment_never(finetune: Call, learner: Registry) -> None:
    increment.write(Path("large.npz"), synthetic.draw("train", 1_100).subset(torch.arange(700, 1_100)))
    with warned() as texts:
        finetune("large.npz", "--keep_increments_mib", "1")
    (warning,) = [text for text in texts if "not kept" in text]
    assert "large.npz is not kept to be replayed later" in warning
    assert "larger than 1 MiB. Raise --keep_increments_mib, or drop some: `cifar-lit versions increments`" in warning
    assert finetune("a.npz", "--from", "v0002", "--gate.max_drop", "0") == NOT_PROMOTED
    assert learner.get("v0004").manifest.status == "rejected"
    assert learner.increments.sizes() == {}


def test_the_loss_of_a_whole_line_is_bounded(finetune: Call, learner: Registry) -> None:
    """v0001 is the parent and much worse than v0002, which the operator names as the line's reference."""
    assert finetune("a.npz", "--reference", "v0002", "--gate.max_line_drop", "0") == NOT_PROMOTED
    manifest = learner.get("v0003").manifest
    assert manifest.status == "rejected"
    assert "old accuracy since v0002, of its line, 1.0000 -> " in manifest.reason
    # A line that was better once is measured against that
    learner.promote("v0002", "for this test")
    values = json.loads((learner.root / "v0001" / "manifest.json").read_text())
    (learner.root / "v0001" / "manifest.json").write_text(json.dumps(values | {"parent": "v0002"}))
    assert finetune("a.npz", "--from", "v0001", "--gate.max_line_drop", "0") == NOT_PROMOTED
    assert "since v0002, of its line, 1.0000 -> " in learner.get("v0004").manifest.reason


def test_a_parent_that_is_not_the_champion_must_make_a_version_as_good_as_the_champion(
    finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("a.npz", "--from", "v0001", *FASTER, "--trainer.max_epochs", "1") == NOT_PROMOTED
    manifest = registry.get("v0003").manifest
    assert manifest.status == "candidate"
    assert "; but beside champion v0002: " in manifest.reason
    assert manifest.reason in capsys.readouterr().out
    assert registry.resolve("latest").id == "v0002"


def test_beside_a_champion_whose_images_are_not_known_the_result_is_a_candidate(
    finetune: Call, learner: Registry
) -> None:
    """The champion is an import, or the parent is."""
    assert main(["export", "v0002", "--format", "npz", "--out", "weights.npz"]) == 0
    assert main(["import", "weights.npz"]) == 0
    learner.promote("v0003", "for this test")
    assert finetune("a.npz", "--from", "v0001", *FASTER) == NOT_PROMOTED
    reason = learner.get("v0004").manifest.reason
    assert "; but beside champion v0003: it can't be compared with champion v0003, which is not its parent: " in reason
    assert reason.endswith("what one of them was trained on is not known")


def test_without_old_images_the_result_is_a_candidate(
    finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(registry.root)
    with warned() as texts:
        assert finetune("a.npz", data=["--data.root", "nothing"]) == NOT_PROMOTED
    assert any("no old images under" in text for text in texts)
    manifest = registry.get("v0003").manifest
    assert manifest.status == "candidate"
    assert {name.split("/")[0] for name in manifest.metrics} == {"new"}
    assert "v0003 is candidate: there were no old images" in capsys.readouterr().out
    unserved(registry, before)


def test_old_increments_alone_do_not_make_up_for_old_images(finetune: Call, registry: Registry) -> None:
    increment.write(Path("many.npz"), synthetic.draw("train", 2_400).subset(torch.arange(600, 2_400)))
    assert finetune("a.npz", "--data.old_increments", "many.npz", data=["--data.root", "nothing"]) == NOT_PROMOTED
    assert "old" not in json.loads(registry.get("v0003").read("report/forgetting.json"))
    assert registry.get("v0003").manifest.status == "candidate"


# What must not get through


def test_a_rejected_version_is_kept_with_its_reason_and_not_served(
    finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(registry.root)
    assert finetune("a.npz", "--gate.max_drop", "0") == NOT_PROMOTED
    manifest = registry.get("v0003").manifest
    assert manifest.status == "rejected"
    assert "fell by more than 0 points can't be ruled out" in manifest.reason
    assert f"v0003 is rejected: {manifest.reason}." in capsys.readouterr().out
    events = [event for event in registry.history.read() if event["id"] == "v0003"]
    assert [event["event"] for event in events] == ["publish", "reject"]
    assert events[-1]["reason"] == manifest.reason
    unserved(registry, before)


def relabelled(change: Callable[[torch.Tensor], torch.Tensor]) -> ImageSet:
    data = A + B
    return ImageSet(data.images, change(data.labels), "poison")


def by_lot(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


POISON: dict[str, Callable[[], ImageSet]] = {
    "shuffled labels": lambda: relabelled(lambda y: y[torch.randperm(100, generator=torch.Generator().manual_seed(0))]),
    "labels shifted by one": lambda: relabelled(lambda y: (y + 1) % 10),
    "one label for all": lambda: relabelled(lambda y: torch.full_like(y, 6)),
    "noise": lambda: ImageSet(by_lot(100, 32, 32, 3), torch.arange(100) % 10, ""),
    "constant images": lambda: ImageSet(by_lot(100, 1, 1, 3).repeat(1, 32, 32, 1), torch.arange(100) % 10, ""),
    "identical rows": lambda: ImageSet(A.images[:1].repeat(100, 1, 1, 1), A.labels[:1].repeat(100), ""),
    "identical rows, other labels": lambda: ImageSet(A.images[:1].repeat(100, 1, 1, 1), torch.arange(100) % 10, ""),
    "mostly flat": lambda: (
        A.subset(torch.arange(20)) + ImageSet(by_lot(40, 1, 1, 3).repeat(1, 32, 32, 1), A.labels[:40], "")
    ),
}


@pytest.mark.parametrize("make", POISON.values(), ids=POISON)
def test_a_poisoned_increment_never_changes_the_champion(
    make: Callable[[], ImageSet], finetune: Call, registry: Registry
) -> None:
    before = tree(registry.root)
    increment.write(Path("poison.npz"), make())
    status = finetune("poison.npz", "--model.optimizer.lr", "0.002")
    if status == NOT_PROMOTED:
        assert registry.get("v0003").manifest.status == "rejected"
    else:
        assert status == 2
        assert tree(registry.root) == before
    unserved(registry, before)


# What is refused


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_message_and_leaves_the_registry_as_it_was(
    name: str, parents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    HOSTILE[name][0](tmp_path / "hostile.npz")
    before, memory = tree(parents), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arguments = ["--data.increments", "a.npz", "hostile.npz", "--registry", str(parents), *SYNTHETIC, *QUIET, *QUICK]
    assert main(["finetune", *arguments]) == 2
    output = capsys.readouterr()
    said = [line for line in output.err.splitlines() if line.startswith("error:")]
    assert len(said) == 1
    assert "hostile.npz" in said[0]
    assert FRAGMENTS[name] in said[0]
    assert "Traceback" not in output.err
    assert tree(parents) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100 * 1024  # KiB
    assert set(os.listdir(tmp_path)) == {"a.npz", "b.npz", "hostile.npz"}


def leaking() -> ImageSet:
    return synthetic.draw("test", 600).subset(torch.tensor([5, 17])) + A.subset(torch.tensor([0]))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing.npz"], "nothing.npz"),
        (["."], "it is a folder"),
        (["leaking.npz"], "leaking.npz#0, leaking.npz#1: 2 of 3 images are copies of test images"),
        (["a.npz", "--data.old_increments", "nothing.npz"], "nothing.npz"),
        (["a.npz", "--from", "v0009"], "no version 'v0009'"),
        (["a.npz", "--from", "nothing.npz"], "nothing.npz"),
        (["a.npz", "--from", "b.npz"], "b.npz"),
        (["a.npz", "--trainer.limit_val_batches", "1.0"], "limit_val_batches must be 0"),
        (["a.npz", "--trainer.devices", "2"], "runs on one device"),
        (["a.npz", "--trainer.fast_dev_run", "true"], "no version was made"),
        (["a.npz", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=1e30"], "The training diverged"),
        (["a.npz", "--data.holdout", "0.9"], "holdout is 0.9"),
        (["a.npz", "--gate.confidence", "1"], "confidence 1"),
        (["a.npz", "--model.distill", "2"], "distill is 2"),
        (["a.npz", "--average.start", "1"], "start is 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_clear_message_and_no_version(
    args: list[str], words: str, finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    increment.write(Path("leaking.npz"), leaking())
    before = tree(registry.root)
    assert finetune(*args) == 2
    (said,) = errors(capsys)
    assert words in said
    assert tree(registry.root) == before


@pytest.mark.parametrize("args", [[], ["--data.increments"], ["--data.increments", "[]"]], ids=str)
def test_without_increments_the_usage_is_told_briefly(
    args: list[str], registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(registry.root)
    try:
        status: Any = main(["finetune", *args, *SYNTHETIC, *QUIET])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    message = capsys.readouterr().err
    assert "increments" in message
    assert len(message.splitlines()) < 8
    assert tree(registry.root) == before


def test_an_unwritable_registry_is_found_before_training(
    finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "v0002", "--format", "npz", "--out", "weights.npz"]) == 0
    Path("file").touch()
    assert finetune("a.npz", "--from", "weights.npz", "--registry", "file/registry") == 2
    (said,) = errors(capsys)
    assert said.startswith("error: registry file/registry/: can't be written")


def test_an_empty_registry_has_no_parent_to_offer(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--data.increments", "a.npz", *SYNTHETIC, *QUIET]) == 2
    (said,) = errors(capsys)
    assert "has no champion: no version was promoted yet" in said
    assert not Path("checkpoints").exists()


def test_a_damaged_parent_is_refused(finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    (registry.root / "v0001" / "model.safetensors").write_bytes(b"rubbish")
    before = tree(registry.root)
    assert finetune("a.npz", "--from", "v0001") == 2
    (said,) = errors(capsys)
    assert "v0001/model.safetensors" in said
    assert tree(registry.root) == before


@pytest.mark.parametrize(("where", "promoted"), [("write_tree", True), ("write_synced", False)])
def test_a_full_disk_while_publishing_leaves_the_registry_as_it_was(
    where: str,
    promoted: bool,
    finetune: Call,
    registry: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    before = tree(registry.root)
    with monkeypatch.context() as patch:
        patch.setattr(f"cifar_lit.registry.registry.{where}", full)
        assert finetune("a.npz", *([] if promoted else ["--gate.max_drop", "0"])) == 2
    (said,) = errors(capsys)
    assert "no version was published: No space left on device" in said
    now = tree(registry.root)
    assert {name: digest for name, digest in now.items() if not name.startswith("increments")} == before
    assert registry.resolve("latest").id == "v0002"


def test_a_network_with_other_arguments_keeps_them(
    registry: Registry, finetune: Call, publish: Callable[..., Any]
) -> None:
    """A tiny untrained parent: its answers are by lot, so the labels can't be believed."""
    assert publish().id == "v0003"
    assert finetune("a.npz", "--from", "v0003", *HALF) == NOT_PROMOTED
    manifest = registry.get("v0004").manifest
    assert manifest.network == registry.get("v0003").manifest.network
    assert manifest.network["args"]["hidden"] == tiny_network().args["hidden"]
    assert manifest.parent == "v0003"


# Ctrl-C and threads


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("cifar_lit.models.finetuner.FineTuner.loss", "No version was made; the registry is as it was."),
        ("cifar_lit.data.finetune_data.similar.duplicates", "No version was made; the registry is as it was."),
        ("cifar_lit.registry.registry.Registry.promote", "v0003 was made meanwhile."),
    ],
    ids=["learning", "reading", "publishing"],
)
def test_ctrl_c_is_status_130_and_says_what_was_kept(
    where: str,
    said: str,
    finetune: Call,
    learner: Registry,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(where, interrupted)
        assert finetune("a.npz", *FASTER) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"Stopped by Ctrl-C. {said}"
    assert signal.getsignal(signal.SIGINT) == before
    assert learner.resolve("latest").id == "v0001"
    assert set(learner.verify().values()) == {None}


def test_the_threads_that_were_free_stand_in_the_config_so_that_it_runs_again_alike(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifar_lit.commands.finetune.free_cores", lambda: 1)
    quick = [each for each in QUICK if each not in ("--threads", "1")]
    assert main(["finetune", *SYNTHETIC, *QUIET, *quick, "--data.increments", "a.npz"]) == NOT_PROMOTED
    assert "threads: 1\n" in registry.get("v0003").read("config.yaml").decode()


# Progress


def test_progress_is_told_in_lines_that_only_rise_and_changes_nothing(
    finetune: Call, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("a.npz", "--from", "v0002", "--progress", "--json") == NOT_PROMOTED
    out, err = capsys.readouterr()
    assert json.loads(out)["id"] == "v0003"
    told = [json.loads(line) for line in err.splitlines() if line.startswith('{"stage"')]
    stages = list(dict.fromkeys(each["stage"] for each in told))
    assert stages == ["reading data", "learning", "judging", "publishing"]
    done = [each["done"] for each in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)
    assert any(0.2 < each["done"] < 0.75 for each in told if each["stage"] == "learning")
    assert "progress: false\n" in registry.get("v0003").read("config.yaml").decode()
    assert finetune("a.npz", "--from", "v0002") == NOT_PROMOTED
    assert '{"stage"' not in capsys.readouterr().err
    assert weights_digest("v0003", registry) == weights_digest("v0004", registry)
