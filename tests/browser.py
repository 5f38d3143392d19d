"""A real browser for tests, which writes down what must not happen; and the page's screenshots.

`python tests/browser.py docs` takes the screenshots anew: of the shipped version, and of one that was taught drawn
images.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from finetuning import HALF, QUICK, QUIET, SYNTHETIC
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright
from servers import serving
from test_fine_tune_service import mistaken

from cifar_lit.cifar10 import CLASS_NAMES
from cifar_lit.cli import main
from cifar_lit.data.images import encode_png
from cifar_lit.inference.predictor import Pixels, Predictor
from cifar_lit.page.examples import load_examples
from cifar_lit.registry.registry import Registry

ROOT = Path(__file__).parent.parent
PASSWORD = "open sesame"
SHORT_MS = 30_000
LONG_MS = 180_000
"""Until a fine-tuning has ended, on busy cores."""
WIDTHS = (1280, 390)
_HEIGHTS = {1280: 1000, 390: 844, 844: 390, 360: 640}
"""A computer; a phone upright and turned; a small one."""

expect.set_options(timeout=SHORT_MS)


def chromium() -> str | None:
    """Where Chromium is: `CIFAR_LIT_CHROMIUM`, or what is found in the path."""
    return os.environ.get("CIFAR_LIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """Chromium, without a window."""
    args = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=args)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One visitor's page, and a record of what went wrong on it.

    Args:
        browser: in which a new, empty profile is opened.
        url: of the server, with no slash at its end.
        width: of the window, pixels.

    Attributes:
        problems: errors on the console and in scripts, and requests that went to anywhere but the server.
    """

    def __init__(self, browser: Browser, url: str, width: int = WIDTHS[0]) -> None:
        self.url = url
        self.problems: list[str] = []
        self._under_way: set[Request] = set()
        self.context: BrowserContext = browser.new_context(
            viewport={"width": width, "height": _HEIGHTS[width]}, permissions=["clipboard-read", "clipboard-write"]
        )
        self.context.set_default_timeout(SHORT_MS)
        self.context.on("request", self._on_request)
        self.context.on("requestfinished", self._on_end)
        self.context.on("requestfailed", self._on_end)
        self.context.on("console", lambda said: self._note(said.text) if said.type == "error" else None)
        self.context.on("weberror", lambda error: self._note(str(error.error)))
        self.page: Page = self.context.new_page()
        self.page.on("websocket", lambda socket: self._note(f"a web socket to {socket.url}"))

    def open(self, *, signed_in: bool = False) -> Page:
        if signed_in:
            assert self.context.request.post(f"{self.url}/login", form={"password": PASSWORD}).ok
        self.page.goto(self.url)
        expect(self.page.locator("#served-version")).to_be_visible()
        return self.page

    def tab(self, *names: str) -> None:
        """Opens a tab, and a tab within it: "Teach", "Add pictures"."""
        for name in names:
            self.page.get_by_role("tab", name=name, exact=True).click()

    def settle(self) -> None:
        """Waits until no request is under way but those that last as long as the page."""
        while any("/heartbeat/" not in each.url for each in self._under_way):
            self.page.wait_for_event("requestfinished")

    def slow_down(self, bytes_per_s: int) -> None:
        """Sends no faster from now on."""
        speed = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s}
        self.context.new_cdp_session(self.page).send("Network.emulateNetworkConditions", speed)

    def close(self) -> None:
        """Ends the visit; what is broken off by that is no problem."""
        problems = list(self.problems)
        self.context.close()
        self.problems = problems

    def _note(self, problem: str) -> None:
        self.problems.append(problem)

    def _on_request(self, request: Request) -> None:
        self._under_way.add(request)
        if not request.url.startswith((f"{self.url}/", "data:", "blob:")):
            self._note(f"a request to {request.url}")

    def _on_end(self, request: Request) -> None:
        self._under_way.discard(request)


def screenshots(folder: Path) -> None:
    """Writes `page.png` and `page_phone.png` of the shipped version, `page_teach.png` and `page_model.png` of another.

    Args:
        folder: is there already.
    """
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made), launched() as browser:
        with serving(ROOT / "checkpoints", password=PASSWORD, teach=Path(made) / "teach") as url:
            for width, name in zip(WIDTHS, ("page.png", "page_phone.png"), strict=True):
                with contextlib.closing(Visit(browser, url, width)) as visit:
                    _classify_cat(visit)
                    _shoot(visit.page, folder / name)
        registry = _synthetic_registry(Path(made))
        teaching = {"password": PASSWORD, "teach": Path(made) / "teach", "finetune": (*SYNTHETIC, *QUICK, *QUIET[:2])}
        with (
            serving(registry.root, poll_s=0.1, **teaching) as url,
            contextlib.closing(Visit(browser, url)) as visit,
        ):
            visit.open(signed_in=True)
            _teach(visit, registry)
            _shoot(visit.page, folder / "page_teach.png")
            visit.tab("Model")
            visit.page.get_by_role("button", name="v0003", exact=True).click()
            expect(visit.page.locator("#model-chosen")).to_contain_text("v0003")
            _shoot(visit.page, folder / "page_model.png", height=1_400)


def _shoot(page: Page, path: Path, height: int | None = None) -> None:
    """All of the page, or what is at its top; in 5, 6 and 5 bits a colour, for a smaller file."""
    page.mouse.move(0, 0)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    shot = shot.crop((0, 0, shot.width, height or shot.height))
    levels = [round(round(value / 255 * each) * 255 / each) for each in (31, 63, 31) for value in range(256)]
    shot.point(levels).save(path, optimize=True)


def png(pixels: torch.Tensor | Pixels) -> bytes:
    return encode_png(np.asarray(pixels))


def _classify_cat(visit: Visit) -> None:
    page = visit.open()
    page.locator("#picture input[type=file]").set_input_files(str(ROOT / "docs" / "cat.jpg"))
    expect(page.locator("#seen img.pixels")).to_have_count(2)
    page.get_by_alt_text("The picture that you chose").evaluate("image => image.decode()")


def _synthetic_registry(folder: Path) -> Registry:
    """Its champion, v0001, has much to learn."""
    config = ["--config", str(ROOT / "configs" / "smoke.yaml"), "--trainer.logger", "false"]
    for epochs in ("1", "8"):
        assert main(["fit", *config, *SYNTHETIC, *QUIET, *HALF, "--trainer.max_epochs", epochs]) == 0
    registry = Registry(folder / "checkpoints")
    registry.promote("v0001", "to have something to learn")
    return registry


def _teach(visit: Visit, registry: Registry) -> None:
    page = visit.page
    pixels, label, _ = mistaken(Predictor.from_version(registry.get("v0001")))
    visit.tab("Teach")
    page.locator("#teach-picture input[type=file]").set_input_files(
        {"name": "drawn.png", "mimeType": "image/png", "buffer": png(pixels)}
    )
    expect(page.locator("#teach-said")).to_be_visible()
    page.get_by_role("radio", name=label).check()
    page.get_by_role("button", name="Add this correction").click()
    expect(page.locator("#teach-count")).to_have_text("1")
    page.get_by_role("button", name="Learn from the corrections").click()
    expect(page.locator("#teach-verdict [data-state=promoted]")).to_contain_text("from now on", timeout=LONG_MS)
    expect(page.locator("#served-version")).to_have_text("v0003")
    # The next correction, of a drawing that looks like something.
    taught = Predictor.from_version(registry.get("v0003"))
    drawn = {each.name: png(torch.from_numpy(each.pixels)) for each in load_examples() if each.name in CLASS_NAMES}
    label = next(name for name, data in drawn.items() if taught.predict_bytes(data).prediction != name)
    page.locator("#teach-picture").get_by_label("Remove Image").click()
    page.locator("#teach-picture input[type=file]").set_input_files(
        {"name": f"{label}.png", "mimeType": "image/png", "buffer": drawn[label]}
    )
    expect(page.locator("#teach-seen .version")).to_have_text("v0003")
    page.get_by_role("radio", name=label).check()
    page.get_by_role("button", name="Add this correction").click()
    expect(page.locator("#teach-count")).to_have_text("1")


if __name__ == "__main__":
    screenshots(Path(sys.argv[1]))
