import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest
import torch
from conftest import Publish
from fastapi import FastAPI
from fastapi.testclient import TestClient
from gradio.utils import get_upload_folder
from torchvision.io import encode_png

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data.images import decode
from cifar_lit.inference.champion import Champion
from cifar_lit.inference.decode_process import NetworkImage
from cifar_lit.inference.decoder import Decoder
from cifar_lit.inference.predictor import Predictor
from cifar_lit.inference.service import Service
from cifar_lit.page.catalogue import Catalogue, Entry, Served, served_periods
from cifar_lit.page.guarded import GuardedBlocks
from cifar_lit.page.model import build_model
from cifar_lit.page.model_compare import comparison
from cifar_lit.page.model_view import REASON, warning
from cifar_lit.page.rendering import image_url, render
from cifar_lit.page.sign_in import add_sign_in
from cifar_lit.page.version_details import details
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.version import MANIFEST, ONNX, WEIGHTS, Version
from cifar_lit.serving.login import COOKIE, Login

OpenPage = Callable[..., "Page"]
PASSWORD = "open sesame"
PIXELS = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
PNG = encode_png(PIXELS.permute(2, 0, 1)).numpy().tobytes()


@pytest.fixture
def catalogue(registry: Registry) -> Catalogue:
    return Catalogue(registry)


def damage(version: Version, name: str = WEIGHTS) -> None:
    (version.path / name).write_bytes(b"damaged")


# The catalogue


def test_summaries_are_those_of_the_command_line(
    catalogue: Catalogue, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish()
    publish(1, promote=True)
    publish(2, parent="v0002")
    assert main(["versions", "list", "--json", "--registry", str(catalogue.registry.root)]) == 0
    assert catalogue.summaries() == json.loads(capsys.readouterr().out)


def test_the_champion_is_the_registrys(catalogue: Catalogue, publish: Publish) -> None:
    def agreed() -> str | None:
        champion = catalogue.registry.champion()
        found = catalogue.champion_id(catalogue.entries())
        assert found == (champion.id if champion else None)
        return found

    publish()
    assert agreed() is None
    publish(1, promote=True)
    version = publish(2, promote=True)
    publish(3)
    assert agreed() == "v0003"
    damage(version)
    assert agreed() == "v0002"


def test_a_list_hashes_nothing_and_reads_only_what_changed(
    catalogue: Catalogue, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        publish(seed)
    read: list[str] = []
    get = Registry.get
    monkeypatch.setattr(Registry, "get", lambda self, each: read.append(each) or get(self, each))
    monkeypatch.setattr(Version, "read", lambda self, name: pytest.fail("a file was hashed"))
    assert [entry.id for entry in catalogue.entries()] == ["v0001", "v0002", "v0003"]
    assert read == ["v0001", "v0002", "v0003"]
    assert len(catalogue.entries()) == 3
    assert len(read) == 3
    catalogue.registry.reject("v0002", "worse")
    read.clear()
    assert [entry.manifest.status for entry in catalogue.entries()] == ["candidate", "rejected", "candidate"]
    assert read == ["v0002"]


def test_a_version_is_hashed_once_and_again_when_it_changed(
    catalogue: Catalogue, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish()
    whole = (version.path / WEIGHTS).read_bytes()
    verify, times = Version.verify, []
    monkeypatch.setattr(Version, "verify", lambda self: times.append(self.id) or verify(self))
    (entry,) = catalogue.entries()
    assert [catalogue.check(entry), catalogue.check(entry)] == ["", ""]
    assert len(times) == 1
    damage(version)
    assert "v0001/model.safetensors differs from its hash" in catalogue.check(entry)
    assert "differs" in catalogue.entries()[0].problem
    (version.path / WEIGHTS).write_bytes(whole)
    assert catalogue.check(entry) == ""
    assert catalogue.entries()[0].problem == ""


def test_damaged_versions_do_not_hide_the_others(catalogue: Catalogue, publish: Publish) -> None:
    for seed in range(4):
        publish(seed)
    (catalogue.registry.root / "v0001" / MANIFEST).write_text("{")
    shutil.rmtree(catalogue.registry.root / "v0002")
    (catalogue.registry.root / "v0002").mkdir()
    entries = catalogue.entries()
    assert [entry.manifest is None for entry in entries] == [True, True, False, False]
    assert "is not a manifest" in entries[0].problem
    assert "can't be read" in entries[1].problem
    assert str(catalogue.registry.root) not in entries[0].problem + entries[1].problem
    assert [each["id"] for each in catalogue.summaries()] == ["v0003", "v0004"]


def test_checking_one_at_a_time_finds_every_damage(catalogue: Catalogue, publish: Publish) -> None:
    versions = [publish(seed) for seed in range(3)]
    damage(versions[0])
    for _ in versions:
        catalogue.check_next(catalogue.entries())
    assert [bool(entry.problem) for entry in catalogue.entries()] == [True, False, False]
    damage(versions[2])  # later, when all had been checked
    for _ in versions:
        catalogue.check_next(catalogue.entries())
    assert [bool(entry.problem) for entry in catalogue.entries()] == [True, False, True]


def test_the_stamp_changes_with_each_change(catalogue: Catalogue, publish: Publish) -> None:
    stamps = [catalogue.stamp()]
    for change in (publish, lambda: catalogue.registry.promote("v0001", "good"), publish):
        change()
        stamps.append(catalogue.stamp())
    assert len(set(stamps)) == 4
    assert catalogue.stamp() == stamps[-1]


def test_an_empty_registry_has_nothing(catalogue: Catalogue) -> None:
    assert catalogue.entries() == catalogue.summaries() == catalogue.periods() == []


def test_periods_tell_what_was_served_when(catalogue: Catalogue, publish: Publish) -> None:
    publish(promote=True)
    publish(1, promote=True)
    catalogue.registry.rollback("worse after all")
    times = [event["time"] for event in catalogue.registry.history.read() if event["event"] in ("promote", "rollback")]
    assert catalogue.periods() == [
        Served("v0001", times[0], times[1], "promote", "it is better"),
        Served("v0002", times[1], times[2], "promote", "it is better"),
        Served("v0001", times[2], None, "rollback", "worse after all"),
    ]


def test_odd_events_are_left_out_of_the_periods() -> None:
    assert served_periods([{"id": "v0001"}, {"id": "v0001", "event": "publish"}]) == []
    assert served_periods([{"id": 1, "event": "promote"}]) == [Served("1", "None", None, "promote", "")]


# HTML


def hostile(version: Version, **values: Any) -> Entry:
    """The version's entry after its manifest was overwritten."""
    manifest = json.loads((version.path / MANIFEST).read_text()) | values
    (version.path / MANIFEST).write_text(json.dumps(manifest))
    return Catalogue(Registry(version.path.parent)).entries()[0]


ATTACK = '"><script>alert(1)</script>'


def test_no_text_from_a_manifest_becomes_markup(publish: Publish, registry: Registry) -> None:
    entry = hostile(
        publish(),
        reason=ATTACK,
        parent=ATTACK,
        created_at=ATTACK,
        network={"name": ATTACK},
        code={ATTACK: ATTACK},
        training={"from": ATTACK, "ended_by": ATTACK, "epochs": ATTACK, "best_epoch": ATTACK},
        data={"source": ATTACK, "increments": [{"name": ATTACK, "count": ATTACK}]},
    )
    period = Served(ATTACK, ATTACK, ATTACK, ATTACK, ATTACK)
    answer = {"prediction": ATTACK, "version": ATTACK, "confidence": 1.0, "probabilities": {ATTACK: 1.0}}
    shown = [
        render("versions", entries=[entry, Entry("v0002", None, ATTACK)], served="v0001", chosen="v0001"),
        details(entry, True, registry),
        render("history", periods=[period]),
        comparison({"answers": [answer, answer], "seen": ATTACK}),
        warning(ATTACK),
    ]
    for each in shown:
        assert "<script" not in each
        assert "&lt;script" in each


@pytest.mark.parametrize("odd", [None, [], {}, "text", 3, [3], {"count": []}])
def test_a_manifest_with_odd_values_is_shown(publish: Publish, registry: Registry, odd: Any) -> None:
    entry = hostile(
        publish(),
        metrics={"val/acc": odd, "test/acc": odd},
        data={"train": odd, "test": odd, "increments": odd, "source": odd},
        training={"epochs": odd, "seconds": odd, "best_epoch": odd},
        created_at=odd,
        reason=odd,
        parent=odd,
        network={"name": odd},
    )
    assert "v0001" in render("versions", entries=[entry], served=None, chosen=None)
    assert "Test accuracy" in details(entry, False, registry)


def test_details_show_the_report_and_say_which_file_is_damaged(publish: Publish, registry: Registry) -> None:
    version = publish()
    damage(version, "report/curves.png")
    shown = details(Catalogue(registry).entries()[0], False, registry)
    assert "the report" in shown
    assert image_url(b"an image") in shown
    assert image_url(b"damaged") not in shown
    assert "v0001/report/curves.png differs from its hash" in shown
    assert str(registry.root) not in shown


def test_the_list_marks_the_served_and_the_chosen_and_has_the_newest_first(
    publish: Publish, registry: Registry
) -> None:
    publish(promote=True)
    publish(1)
    rows = re.findall(
        r"<tr data-version.*?</tr>",
        render("versions", entries=Catalogue(registry).entries(), served="v0001", chosen="v0002"),
        re.DOTALL,
    )
    assert ["v0002" in rows[0], "v0001" in rows[1]] == [True, True]
    assert ["answers now" in row for row in rows] == [False, True]
    assert ["m-chosen" in row for row in rows] == [True, False]
    assert ['aria-pressed="true"' in row for row in rows] == [True, False]


def test_a_long_history_is_cut() -> None:
    periods = [Served(f"v{number:04d}", "", "", "promote", "") for number in range(60)]
    shown = render("history", periods=periods)
    assert shown.count("<tr>") == 51
    assert "v0059" in shown
    assert "and 10 before these" in shown


# The tab, over HTTP


class Page:
    """A visitor who sends what the page would send, without a browser."""

    def __init__(self, client: TestClient, login: Login, service: Service) -> None:
        self.client = client
        self.service = service
        self.login = login
        self._events = {each["api_name"]: each["id"] for each in client.get("/config").json()["dependencies"]}

    def sign_in(self) -> None:
        self.client.cookies.set(COOKIE, self.login.sign_in(PASSWORD, "here"))

    def send(self, name: str, *data: Any, session: str = "s") -> dict[str, Any]:
        """The outcome of an event: {"data": [...]} or {"error": sentence}."""
        body = {"data": data, "fn_index": self._events[name], "session_hash": session}
        assert self.client.post("/gradio_api/queue/join", json=body).status_code == 200
        lines = self.client.get("/gradio_api/queue/data", params={"session_hash": session}).text.splitlines()
        messages = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
        (done,) = [each["output"] for each in messages if each["msg"] == "process_completed"]
        return done

    def upload(self, data: bytes) -> dict[str, Any]:
        (path,) = self.client.post("/gradio_api/upload", files={"files": ("picture.png", data)}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}


class InProcess:
    """Decodes here: starting the decoder's processes takes seconds, and they have tests of their own."""

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def decode(self, data: bytes) -> NetworkImage:
        return NetworkImage(decode(data).network_pixels, "")


@contextlib.contextmanager
def visiting(root: Path, login: Login) -> Iterator[Page]:
    service = Service(Champion(Registry(root), poll_s=0.02), cast(Decoder, InProcess()))

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(lifespan=lifespan)
    add_sign_in(app, login)
    with GuardedBlocks(analytics_enabled=False) as page, gr.Tabs(), gr.Tab("Model"):
        build_model(service, login)
    gr.mount_gradio_app(app, page, path="/", ssr_mode=False, run_history=False, show_error=False)
    with TestClient(app) as client:
        yield Page(client, login, service)


@pytest.fixture
def open_page(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenPage]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    with contextlib.ExitStack() as stack:

        def enter(password: str | None = PASSWORD) -> Page:
            return stack.enter_context(visiting(registry.root, Login(password)))

        yield enter


def test_no_event_takes_a_file_that_is_no_upload(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    page = open_page()
    uploads = Path(get_upload_folder())
    page.upload(PNG)
    kept = set(uploads.rglob("*"))
    for named in [
        "/etc/hostname",
        f"{registry.root}/v0001/manifest.json",
        f"{uploads}/../picture.png",
        f"{uploads}",
        f"{uploads}/none",
        "http://127.0.0.1:1/",
        "https://example.org/x.png",
        "file:///etc/hostname",
        "data:image/png;base64,AAAA",
        "\0",
        "",
        None,
        3,
        ["/etc/hostname"],
    ]:
        value = {"path": named, "meta": {"_type": "gradio.FileData"}}
        events: list[tuple[str, list[Any]]] = [
            ("choose", [value]),
            ("choose", [[{"value": value}]]),
            ("compare", [value, "v0001", "v0001"]),
            ("comparison", [{"answers": value}]),
        ]
        for event, data in events:
            assert "not uploaded here" in page.send(event, *data)["error"], (event, named)
    assert set(uploads.rglob("*")) == kept


GUARDED: list[tuple[str, list[Any]]] = [("ask_promote", ["v0001"]), ("ask_rollback", []), ("act", [None])]


def test_comparing_gives_each_versions_own_answer(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    for seed in range(6):
        publish(seed, promote=seed == 1)
    page = open_page()
    for one, other in [("v0001", "v0002"), ("v0003", "v0004"), ("v0005", "v0006"), ("v0001", "latest")]:
        (found,) = page.send("compare", page.upload(PNG), one, other)["data"]
        ids = ["v0002" if each == "latest" else each for each in (one, other)]
        assert [each["version"] for each in found["answers"]] == ids
        for each in found["answers"]:
            expected = Predictor.from_version(registry.get(each["version"])).predict(PIXELS[None].numpy())[0]
            assert each["probabilities"] == pytest.approx(expected.probabilities, abs=1e-9)
            assert tuple(each["probabilities"]) == CLASS_NAMES
        assert found["seen"].startswith("data:image/png;base64,")


def test_what_can_not_be_compared_is_said_in_a_sentence(
    open_page: OpenPage, publish: Publish, tmp_path: Path, registry: Registry
) -> None:
    publish(promote=True)
    damage(publish(1), ONNX)
    page = open_page()
    picture = page.upload(PNG)
    elsewhere = tmp_path / "picture.png"
    elsewhere.write_bytes(PNG)
    for image, version, expected in [
        (picture, "v0009", "no version 'v0009'"),
        (picture, "../v0001", "no version '../v0001'"),
        (picture, None, "no version"),
        (picture, "v0002", "v0002/model.onnx differs"),
        (page.upload(b"hello"), "v0001", "expected a JPEG, PNG"),
        ({**picture, "path": str(elsewhere)}, "v0001", "not uploaded here"),
    ]:
        outcome = page.send("compare", image, "v0001", version)
        assert "data" not in outcome, (image, version)
        assert expected in str(outcome.get("error"))
        assert str(registry.root) not in str(outcome)
    assert page.send("compare", None, "v0001", "v0001")["data"] == [None]


def test_the_versions_endpoint_is_the_command_lines_list(
    open_page: OpenPage, publish: Publish, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(promote=True)
    publish(1, parent="v0001")
    page = open_page()
    assert main(["versions", "list", "--json", "--registry", str(registry.root)]) == 0
    assert page.send("versions")["data"] == [json.loads(capsys.readouterr().out)]


def test_only_two_endpoints_are_public(open_page: OpenPage, publish: Publish) -> None:
    publish(promote=True)
    info = open_page().client.get("/gradio_api/info").json()
    assert set(info["named_endpoints"]) == {"/versions", "/compare"}


def test_without_the_cookie_nothing_can_be_changed(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish()
    publish(1, promote=True)
    publish(2, promote=True)
    page = open_page()
    before = registry.history.read()
    page.client.cookies.set(COOKIE, "x")
    for name, data in GUARDED:
        assert "Sign in first" in page.send(name, *data)["error"]
        called = page.client.post(f"/gradio_api/call/{name}", json={"data": data})
        answer = page.client.get(f"/gradio_api/call/{name}/{called.json()['event_id']}").text
        assert "event: error" in answer
        assert "Sign in first" in answer
        assert "Sign in first" in page.client.post(f"/gradio_api/run/{name}", json={"data": data}).text
    assert registry.history.read() == before


def test_without_a_password_nothing_can_be_changed(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    page = open_page(None)
    before = registry.history.read()
    for name, data in GUARDED:
        assert "switched off" in page.send(name, *data)["error"]
    assert registry.history.read() == before


def served(page: Page) -> str:
    return page.service.champion.serving.predictor.version


def test_the_signed_in_promote_and_roll_back(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    publish(1)
    page = open_page()
    page.sign_in()
    assert served(page) == "v0001"
    question = page.send("ask_promote", "v0002")["data"][1]
    assert "v0002" in str(question)
    assert served(page) == "v0001"  # not before it is confirmed
    assert "Done: v0002 answers now." in str(page.send("act", None)["data"])
    assert served(page) == "v0002"
    assert registry.get("v0002").manifest.reason == REASON
    page.send("ask_rollback")
    assert "Done: v0001 answers now." in str(page.send("act", None)["data"])
    assert served(page) == "v0001"
    assert registry.get("v0002").manifest.status == "rejected"
    assert [(each.id, each.reason) for each in Catalogue(registry).periods()[1:]] == [
        ("v0002", REASON),
        ("v0001", REASON),
    ]


def test_a_cancelled_change_is_forgotten(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    publish(1)
    page = open_page()
    page.sign_in()
    page.send("ask_promote", "v0002")
    page.send("forget")
    before = registry.history.read()
    page.send("act", None)
    assert registry.history.read() == before


@pytest.mark.parametrize("ask", [("ask_promote", "v0002"), ("ask_rollback",)])
def test_a_change_that_was_overtaken_is_not_made(
    open_page: OpenPage, publish: Publish, registry: Registry, ask: tuple[str, ...]
) -> None:
    publish(promote=True)
    publish(1)
    publish(2)
    page = open_page()
    page.sign_in()
    page.send(*ask)
    registry.promote("v0003", "by another")
    assert "the champion is v0003, no longer v0001" in str(page.send("act", None)["data"])
    assert registry.resolve("latest").id == "v0003"


def test_a_damaged_version_is_not_promoted(open_page: OpenPage, publish: Publish, registry: Registry) -> None:
    publish(promote=True)
    damage(publish(1))
    page = open_page()
    page.sign_in()
    page.send("ask_promote", "v0002")
    told = str(page.send("act", None)["data"])
    assert "Nothing was changed: v0002/model.safetensors differs" in told
    assert str(registry.root) not in told
    assert served(page) == "v0001"
    assert "no version" in str(page.send("ask_promote", "../x")["data"])
    assert "no other promoted version" in (page.send("ask_rollback") and str(page.send("act", None)["data"]))


def test_a_version_that_appears_is_shown(open_page: OpenPage, publish: Publish) -> None:
    publish(promote=True)
    page = open_page()
    shown = page.send("show")["data"]
    assert "v0001" in str(shown)
    assert "v0002" not in str(shown)
    publish(1)
    assert "v0002" in str(page.send("show_if_new", None, "v0001")["data"])
    assert "v0002" not in str(page.send("show_if_new", None, "v0001")["data"])  # nothing new


def test_the_tab_of_an_empty_registry_says_so(open_page: OpenPage, registry: Registry) -> None:
    registry.root.mkdir()
    page = open_page()
    assert "There is no version yet" in str(page.send("show")["data"])
    assert page.send("versions")["data"] == [[]]


def test_programs_are_told_that_any_version_may_be_compared(open_page: OpenPage, publish: Publish) -> None:
    publish(promote=True)
    info = open_page().client.get("/gradio_api/info").json()["named_endpoints"]["/compare"]
    assert [each["parameter_name"] for each in info["parameters"]] == ["image", "version", "other"]
    for each in info["parameters"][1:]:
        assert each["type"] == {"type": "string", "description": "an id such as v0001, or latest"}
