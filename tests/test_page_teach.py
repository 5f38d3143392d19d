"""The tab that teaches, as those see it who send what the page sends; and what it says, as HTML."""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from finetuning import QUICK, SYNTHETIC, tree
from servers import serving
from test_fine_tune_service import MORE, mistaken

from cifar_lit.cli import main
from cifar_lit.data import corrected_images, increment
from cifar_lit.data.images import Pixels, encode_png
from cifar_lit.feedback.fine_tune_job import Figures, Job
from cifar_lit.feedback.fine_tune_service import Audit
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.inference.service import ServedPrediction
from cifar_lit.page.app import create_app
from cifar_lit.page.rendering import render
from cifar_lit.page.teach_desk import Increment, View
from cifar_lit.registry.registry import Registry
from cifar_lit.serving.app import Options
from cifar_lit.serving.login import OFF, SIGN_IN

PASSWORD = "open sesame"
OPTIONS = (*SYNTHETIC, *QUICK, "--trainer.accelerator", "cpu")
PATIENCE_S = 120.0

EVENTS = [
    ("teach-picture", "change"),
    ("teach-again", "click"),
    ("teach-add", "click"),
    ("teach-add-many", "click"),
    ("teach-increment", "change"),
    ("teach-start", "click"),
    ("teach-start-file", "click"),
    ("teach-stop", "click"),
    ("teach-put-away", "click"),
    ("teach-undo", "click"),
    ("teach-undo-drop", "click"),
]
"""All that do something, by the component's id."""


class Visitor:
    """Sends what a visitor's page sends.

    Args:
        url: of the server.
        session: the page's.
    """

    def __init__(self, url: str, session: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=PATIENCE_S)
        self._session = session
        config = self.http.get("/config").json()
        self.names = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
        self._ids = {name: number for number, name in self.names.items() if name}
        self.events = config["dependencies"]

    def sign_in(self) -> None:
        assert self.http.post("/login", data={"password": PASSWORD}).status_code == 303

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        (path,) = self.http.post("/gradio_api/upload", files={"files": (name, data)}).json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def send(self, name: str, event: str, *data: Any) -> dict[str, Any]:
        """What came of an event: the last values by component, or an error under "error"."""
        return self._send(self.event(name, event), data)

    def look(self) -> dict[str, Any]:
        """How learning stands, as when the page is loaded."""
        (found,) = [
            each for each in self.events if self._ids["teach-verdict"] in each["outputs"] and not each["inputs"]
        ]
        return self._send(found, [])

    def event(self, name: str, event: str) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.events if [self._ids[name], event] in each["targets"])
        return found

    def _send(self, event: dict[str, Any], data: Any) -> dict[str, Any]:
        given = [*data, *[None] * (len(event["inputs"]) - len(data))]  # a state's value never comes from outside
        body = {"data": given, "fn_index": event["id"], "session_hash": self._session}
        assert self.http.post("/gradio_api/queue/join", json=body).status_code == 200
        told = self.http.get("/gradio_api/queue/data", params={"session_hash": self._session}).text
        messages = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
        (done,) = [each for each in messages if each["msg"] == "process_completed"]
        if not done["success"]:
            return {"error": done["output"]["error"]}
        values = done["output"]["data"]
        return {self.names[number]: value for number, value in zip(event["outputs"], values, strict=True)}


def png(image: torch.Tensor | Pixels) -> bytes:
    return encode_png(np.asarray(image))


def until(told: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not told():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def folder(parents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a registry whose champion, v0001, has much to learn."""
    folder = tmp_path_factory.mktemp("teach")
    shutil.copytree(parents, folder / "checkpoints")
    Registry(folder / "checkpoints").promote("v0001", "for these tests")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    options = {"password": PASSWORD, "teach": folder / "teach", "finetune": OPTIONS}
    with serving(folder / "checkpoints", poll_s=0.1, **options) as url:
        until(lambda: httpx.get(f"{url}/ready").status_code == 200)
        yield url


@pytest.fixture
def visitor(server: str, request: pytest.FixtureRequest) -> Visitor:
    return Visitor(server, request.node.name)


@pytest.fixture
def signed_in(visitor: Visitor) -> Visitor:
    """A visitor who is signed in."""
    visitor.sign_in()
    return visitor


# Who may


@pytest.mark.parametrize("cookie", [None, "x"])
def test_whoever_is_not_signed_in_is_refused_whatever_they_send(
    visitor: Visitor, folder: Path, cookie: str | None
) -> None:
    before = tree(folder)
    if cookie:
        visitor.http.cookies.set("cifar_lit_login", cookie)
    picture = visitor.upload("a.png", png(MORE.images[0]))
    for name, event in EVENTS:
        data = [picture] if event == "change" else []
        assert visitor.send(name, event, *data) == {"error": SIGN_IN}, name
        found = visitor.event(name, event)
        body = {"data": [*data, *[None] * (len(found["inputs"]) - len(data))], "session_hash": "raw"}
        for extra in ({"fn_index": found["id"]}, {}):
            answer = visitor.http.post(f"/gradio_api/run/{found['api_name']}", json={**body, **extra})
            assert answer.status_code != 200 or "error" in answer.json(), name
        called = visitor.http.post(f"/gradio_api/call/{found['api_name']}", json=body)
        if called.status_code == 200:
            told = visitor.http.get(f"/gradio_api/call/{found['api_name']}/{called.json()['event_id']}").text
            assert "event: error" in told
    seen = visitor.look()
    assert 'href="login"' in seen["teach-door"]
    assert seen["teach-room"]["visible"] is False
    assert not any(isinstance(seen[each], str) and seen[each] for each in ("teach-waiting", "teach-log"))
    assert tree(folder) == before


def test_every_event_of_the_tab_is_private(visitor: Visitor) -> None:
    ours = {number for number, name in visitor.names.items() if str(name).startswith("teach-")}
    events = [each for each in visitor.events if ours & {*each["inputs"], *each["outputs"]}]
    assert len(events) > len(EVENTS)
    assert {each["api_visibility"] for each in events} == {"private"}
    guarded = [each for each in events if each["backend_fn"] and {t[0] for t in each["targets"]} & ours]
    known = [visitor.event(*each)["id"] for each in EVENTS]
    # What is left refreshes the view, or empties a choice.
    for each in guarded:
        assert each["id"] in known or visitor.names[each["outputs"][0]] == "teach-label"


def test_without_a_password_the_tab_says_how_to_switch_it_on(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "checkpoints", teach=tmp_path / "teach") as url:
        visitor = Visitor(url, "s")
        assert OFF in visitor.look()["teach-door"]
        assert visitor.send("teach-start", "click") == {"error": OFF}
        assert visitor.http.post("/login", data={"password": ""}).status_code == 403
        large = visitor.http.post("/login", data={"password": "a" * 5_000})
        assert large.status_code == 413
    assert not (tmp_path / "teach" / "corrections").exists()


def test_without_a_folder_there_is_no_such_tab(folder: Path) -> None:
    app = create_app(Options(registry=folder / "checkpoints", password=PASSWORD))
    config = TestClient(app).get("/config").text
    assert "tab-model" in config
    assert "tab-teach" not in config


# The loop


def test_a_correction_becomes_a_champion_that_answers_everybody(signed_in: Visitor, server: str, folder: Path) -> None:
    picture, label, said = mistaken(Predictor.from_version(Registry(folder / "checkpoints").get("v0001")))
    file = {"file": ("a.png", png(picture))}
    assert signed_in.http.post("/predict", files=file).json()["prediction"] == said
    assert "teach-count" not in signed_in.look()["teach-waiting"]

    assert "Choose a picture first" in signed_in.send("teach-add", "click")["teach-outcome"]
    seen = signed_in.send("teach-picture", "change", signed_in.upload("a.png", png(picture)))
    assert f'<strong id="teach-said">{said}</strong>' in seen["teach-seen"]
    assert "Choose what it really shows" in signed_in.send("teach-add", "click", None, None)["teach-outcome"]
    assert f"v0001 says {said} already" in signed_in.send("teach-add", "click", None, said)["teach-outcome"]
    assert f"Added: it is {label}, not {said}." in signed_in.send("teach-add", "click", None, label)["teach-outcome"]
    assert '<strong id="teach-count">1</strong>' in signed_in.look()["teach-waiting"]
    (kept,) = corrected_images.read(folder / "teach" / "corrections")[0].images
    assert np.array_equal(kept, picture)

    assert signed_in.send("teach-start", "click")["teach-start-outcome"] == ""
    other = Visitor(server, "another visitor")
    other.sign_in()
    assert 'role="progressbar"' in other.look()["teach-progress"]
    assert other.look()["teach-stop"]["visible"] is True
    assert "A fine-tuning runs already" in other.send("teach-start", "click")["teach-start-outcome"]
    assert "A fine-tuning runs" in other.send("teach-put-away", "click")["teach-start-outcome"]
    until(lambda: "answers everybody from now on" in other.look()["teach-verdict"])

    seen = other.look()
    assert 'data-state="promoted"' in seen["teach-verdict"]
    assert '<strong class="version" id="teach-version">v0003</strong>' in seen["teach-verdict"]
    champion = Registry(folder / "checkpoints").resolve("latest")
    assert (champion.id, champion.manifest.parent) == ("v0003", "v0001")
    before = Registry(folder / "checkpoints").get("v0001").manifest.metrics["val/acc"]
    for share in (before, champion.manifest.metrics["val/acc"]):
        assert f"<td>{100 * share:.1f} %</td>" in seen["teach-verdict"]
    assert "No correction waits" in seen["teach-waiting"]
    assert seen["teach-log"]
    answer = signed_in.http.post("/predict", files=file).json()
    assert (answer["version"], answer["prediction"]) == ("v0003", label)
    again = signed_in.send("teach-again", "click", signed_in.upload("a.png", png(picture)))["teach-seen"]
    assert "v0003" in again
    assert label in again

    # A wrong click: the version before answers again, and the correction waits
    assert seen["teach-undo-row"]["visible"] is True
    assert "The version before answers again." in signed_in.send("teach-undo", "click")["teach-start-outcome"]
    until(lambda: signed_in.http.post("/predict", files=file).json()["version"] == "v0001")
    seen = other.look()
    assert 'data-state="undone"' in seen["teach-verdict"]
    assert "v0001 answers everybody again." in seen["teach-verdict"]
    assert seen["teach-undo-row"]["visible"] is False
    assert '<strong id="teach-count">1</strong>' in seen["teach-waiting"]
    for event in ("teach-undo", "teach-undo-drop"):
        assert "There is nothing to undo" in signed_in.send(event, "click")["teach-start-outcome"]
    signed_in.send("teach-put-away", "click")


def test_labelled_pictures_are_kept_and_the_bad_ones_named(signed_in: Visitor, folder: Path) -> None:
    good = [signed_in.upload(f"{number}.png", png(MORE.images[3_100 + number])) for number in range(3)]
    bad = signed_in.upload("<b>.png", b"II*\0")
    assert "Choose pictures first" in signed_in.send("teach-add-many", "click", None, "frog")["teach-many-outcome"]
    assert "Choose what they show" in signed_in.send("teach-add-many", "click", good, None)["teach-many-outcome"]
    elsewhere = {"path": str(folder / "checkpoints" / "champion"), "meta": {"_type": "gradio.FileData"}}
    assert "error" in signed_in.send("teach-add-many", "click", [elsewhere], "frog")
    told = signed_in.send("teach-add-many", "click", [good[0], bad, *good[1:]], "frog")["teach-many-outcome"]
    assert "3 of 4 pictures added as frog." in told
    assert "<strong>&lt;b&gt;.png</strong>: this is a TIFF" in told
    kept = corrected_images.read(folder / "teach" / "corrections")[0]
    assert kept.labels.tolist() == [6, 6, 6]
    assert "put aside" in signed_in.send("teach-put-away", "click")["teach-start-outcome"]
    assert "No correction waits" in signed_in.look()["teach-waiting"]
    aside = max((folder / "teach" / "corrections" / "dropped").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert torch.equal(corrected_images.read(aside)[0].images, kept.images)
    assert "There is no correction" in signed_in.send("teach-start", "click")["teach-start-outcome"]


def test_an_increment_is_checked_before_it_can_be_learned(signed_in: Visitor, folder: Path, tmp_path: Path) -> None:
    assert "Upload an increment first" in signed_in.send("teach-start-file", "click")["teach-start-outcome"]
    told = signed_in.send("teach-increment", "change", signed_in.upload("bad.npz", b"PK\x03\x04rubbish"))["teach-audit"]
    assert "bad.npz can't be learned from: a zip&#39;s end record is missing: it is cut off" in told
    assert signed_in.look()["teach-start-file"]["interactive"] is False
    data = MORE.subset(torch.arange(700, 730))
    data.labels[:3] = (data.labels[:3] + 1) % 10
    increment.write(tmp_path / "new.npz", data)
    upload = signed_in.upload("new.npz", (tmp_path / "new.npz").read_bytes())
    told = signed_in.send("teach-increment", "change", upload)["teach-audit"]
    assert "new.npz can be learned from." in told
    assert "the file, 30 images: airplane" in told
    assert str(folder) not in told
    # Learning from it begins, and can be stopped
    assert signed_in.send("teach-start-file", "click")["teach-start-outcome"] == ""
    assert 'role="progressbar"' in signed_in.look()["teach-progress"]
    before = tree(folder / "checkpoints")
    signed_in.send("teach-stop", "click")
    seen = signed_in.look()
    assert 'data-state="stopped"' in seen["teach-verdict"]
    assert seen["teach-progress"] == ""
    assert tree(folder / "checkpoints") == before
    # Taking the file away takes it from the server
    kept = {path.name for path in (folder / "teach" / "uploads").glob("*.npz")}
    signed_in.send("teach-increment", "change", None)
    assert len(kept) == 1
    assert not list((folder / "teach" / "uploads").glob("*.npz"))


# What it says

FIGURES = {"old": Figures(0.9, 0.899, 1_000), "new": Figures(0.5, 0.75, 4), "learned": Figures(1, 1, 1)}


def job(state: Any, **values: Any) -> Job:
    return Job("id", **{"state": state, "done": 1.0, "seconds": 83.4, "version": "v0007", **values})


@pytest.mark.parametrize(
    ("found", "served", "words"),
    [
        (job("promoted"), "now", "v0007 answers everybody from now on."),
        (job("promoted"), "soon", "v0007 will answer everybody in a moment"),
        (job("promoted"), "no more", "another version has taken its place"),
        (job("promoted"), "refused", "can&#39;t be served"),
        (job("candidate"), "", "was not made champion"),
        (job("rejected", reason="it forgot"), "", "<strong>Why:</strong> it forgot."),
        (job("failed", version=None, reason="<x>"), "", "&lt;x&gt;."),
        (job("stopped", version=None), "", "Nothing has changed."),
        (job("undone", parent="v0006"), "", "v0006 answers everybody again."),
    ],
)
def test_the_verdict_says_what_became_of_it(found: Job, served: Any, words: str) -> None:
    told = render("outcome", view=View(found, 0, served))
    assert words in told
    assert f'data-state="{found.state}"' in told
    assert "It took 1 min 23 s." in told
    assert ("v0007" in told) == (found.version is not None)
    assert render("progress", job=found) == ""


@pytest.mark.parametrize(
    ("served", "can_undo"), [("now", True), ("soon", True), ("refused", True), ("no more", False), ("", False)]
)
def test_only_the_champion_can_be_undone(served: Any, can_undo: bool) -> None:
    assert View(job("promoted"), 0, served).can_undo == can_undo


def test_figures_stand_beside_each_other_with_their_change() -> None:
    told = render("outcome", view=View(job("rejected", figures=FIGURES), 0, ""))
    assert '<td>90.0 %</td><td>89.9 %</td><td class="t-down">−0.1</td>' in told
    assert '<td>50.0 %</td><td>75.0 %</td><td class="t-up">+25.0</td>' in told
    assert '<td>100.0 %</td><td>100.0 %</td><td class="t-same">±0</td>' in told
    assert "1,000 pictures" in told
    assert ">1 picture<" in told


def test_progress_is_told_in_words_and_to_screen_readers() -> None:
    told = render("progress", job=job("running", stage="learning", done=0.374, seconds=5.2))
    assert "Learning the new" in told
    assert "37 %, 5 s" in told
    assert 'aria-valuenow="37"' in told
    assert render("outcome", view=View(job("running"), 0, "")) == ""


@pytest.mark.parametrize(("count", "words"), [(0, "No correction"), (1, "correction waits"), (1_234, "1,234<")])
def test_it_says_how_many_wait(count: int, words: str) -> None:
    assert words in render("waiting", count=count)


def test_names_from_outside_are_escaped() -> None:
    name = "<img src=x>"
    pixels = np.zeros((32, 32, 3), np.uint8)
    answer = ServedPrediction(Prediction("<i>", 0.6, {"<i>": 0.6, "<u>": 0.4}, "<v>"), pixels, 0, 0, 0, 1)
    for told in (
        render("added", rows=[(name, name), (name, answer)], label=name),
        render("correction", answer=answer),
        render("audited", increment=Increment(name, Path("a"), Audit(name, ok=False))),
        render("audited", increment=Increment(name, Path("a"), Audit(name, ok=False, as_json={}))),
        render("audited", increment=Increment(name, Path("a"), Audit(name, ok=True, as_json={}))),
        render(
            "outcome", view=View(job("promoted", version=name, reason=name, figures={name: Figures(0, 1, 2)}), 0, "now")
        ),
        render("progress", job=job("running", stage=name)),
    ):
        assert "<i>" not in told
        assert "<v>" not in told
        assert name not in told


def test_an_audit_is_shown_with_its_picture(tmp_path: Path) -> None:
    picture = tmp_path / "doubts.png"
    picture.write_bytes(png(MORE.images[0]))
    told = render(
        "audited", increment=Increment("a.npz", Path("a"), Audit("3 doubts", ok=True, image=picture, as_json={}))
    )
    assert "a.npz can be learned from." in told
    assert ">3 doubts</pre>" in told
    assert f'src="data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"' in told
    told = render("audited", increment=Increment("a.npz", Path("a"), Audit("2 errors", ok=False, as_json={})))
    assert "There are errors in a.npz." in told


# The command


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--teach", "a", "--no-page"], "--teach is of no use with --no-page"),
        (["--finetune", "'a"], "--finetune can't be read as a command line: No closing quotation."),
    ],
)
def test_odd_options_are_refused_in_words(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(["serve", *args])
    except SystemExit as error:
        status = error.code
    assert status not in (0, None)
    assert message in capsys.readouterr().err
