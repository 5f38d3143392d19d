"""The page in a real browser, as its visitors use it. Each test also fails if anything went wrong behind the scenes."""

import base64
import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("playwright", reason="playwright is not installed")

from browser import LONG_MS, PASSWORD, WIDTHS, Visit, chromium, launched, png
from finetuning import QUICK, SYNTHETIC
from PIL import Image
from playwright.sync_api import Browser, FileChooser, Locator, Page, TimeoutError, expect
from servers import serving
from test_fine_tune_service import mistaken

from cifar_lit.data.images import MAX_BYTES, decode
from cifar_lit.inference.predictor import Prediction, Predictor
from cifar_lit.page.examples import load_examples
from cifar_lit.page.rendering import percent
from cifar_lit.page.uploads import TOO_LARGE
from cifar_lit.registry.registry import Registry
from cifar_lit.serving.login import SIGN_IN

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="there is no chromium: apt-get install chromium, or name one in CIFAR_LIT_CHROMIUM"
)

CAT = Path(__file__).parent.parent / "docs" / "cat.jpg"
OPTIONS = (*SYNTHETIC, *QUICK, "--trainer.accelerator", "cpu")
NAMED = {"button", "textbox", "radio", "checkbox", "combobox", "listbox", "spinbutton", "tab", "link", "progressbar"}
"""What must have a name, by the role that the browser tells a screen reader."""


@pytest.fixture(scope="module")
def registry(parents: Path, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Its champion, v0001, has much to learn; v0002 knows all."""
    return Registry(shutil.copytree(parents, tmp_path_factory.mktemp("browser") / "checkpoints"))


@pytest.fixture(scope="module")
def predictors(registry: Registry) -> dict[str, Predictor]:
    return {each: Predictor.from_version(registry.get(each)) for each in ("v0001", "v0002")}


@pytest.fixture(scope="module")
def url(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    registry.promote("v0001", "for these tests")
    folder = tmp_path_factory.mktemp("teach")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        with serving(registry.root, poll_s=0.1, password=PASSWORD, teach=folder, finetune=OPTIONS) as url:
            yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, url: str, registry: Registry) -> Iterator[Callable[..., Visit]]:
    """`visit(width=1280, signed_in=False)` opens the page, which v0001 answers."""
    visits: list[Visit] = []
    if registry.pointer() != "v0001":
        registry.promote("v0001", "for the next test")

    def begin(width: int = WIDTHS[0], *, signed_in: bool = False) -> Visit:
        visits.append(Visit(browser, url, width))
        visits[-1].open(signed_in=signed_in)
        expect(visits[-1].page.locator("#served-version")).to_have_text("v0001")
        return visits[-1]

    yield begin
    for each in visits:
        each.close()
    assert [problem for each in visits for problem in each.problems] == []


def choose(page: Page, component: str, *files: Path) -> None:
    page.locator(f"#{component} input[type=file]").first.set_input_files([str(file) for file in files])


def expect_answer(page: Page, expected: Prediction) -> None:
    """All that the *Classify* tab says of a picture."""
    ranked = sorted(expected.probabilities.items(), key=lambda item: -item[1])
    expect(page.locator("#probabilities tr")).to_have_text([f"{name}{percent(share)}" for name, share in ranked])
    expect(page.locator("#answer .verdict strong")).to_have_text(expected.prediction)
    expect(page.locator("#seen .version")).to_have_text(expected.version)
    expect(page.locator("#seen img.pixels")).to_have_count(2)


def focus_with_tab_key(page: Page, wanted: Locator) -> None:
    """Presses Tab until the element has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError(f"the Tab key does not reach {wanted}")


# Classify


def test_an_upload_is_answered_and_can_be_taken_away(
    visit: Callable[..., Visit], predictors: dict[str, Predictor]
) -> None:
    page = visit().page
    expect(page.locator("#answer .hint")).to_be_visible()
    choose(page, "picture", CAT)
    expect_answer(page, predictors["v0001"].predict_bytes(CAT.read_bytes()))
    page.locator("#picture").get_by_label("Remove Image").click()
    expect(page.locator("#answer .hint")).to_be_visible()
    expect(page.locator("#seen img")).to_have_count(0)


def test_a_picture_can_be_pasted(visit: Callable[..., Visit], predictors: dict[str, Predictor]) -> None:
    page = visit().page
    picture = png(torch.from_numpy(decode(CAT.read_bytes()).pixels))
    page.evaluate(
        """async (data) => {
          const blob = await (await fetch(`data:image/png;base64,${data}`)).blob();
          await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
        }""",
        base64.b64encode(picture).decode(),
    )
    page.locator("#picture").get_by_label("Paste from clipboard").click()
    expect_answer(page, predictors["v0001"].predict_bytes(picture))


def test_what_is_no_picture_gets_a_sentence_and_the_next_one_an_answer(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    page = visit().page
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(CAT.read_bytes()[:5_000])
    choose(page, "picture", cut)
    expect(page.locator("#answer .problem")).to_contain_text("This can't be classified: ")
    expect(page.locator("#probabilities")).to_have_count(0)
    page.locator("#picture").get_by_label("Remove Image").click()
    choose(page, "picture", CAT)
    expect_answer(page, predictors["v0001"].predict_bytes(CAT.read_bytes()))


def test_examples_are_answered(visit: Callable[..., Visit], predictors: dict[str, Predictor]) -> None:
    page = visit().page
    for example in load_examples():
        page.locator(f"#examples button[data-name={example.name}]").click()
        expect_answer(page, predictors["v0001"].predict_bytes(png(torch.from_numpy(example.pixels))))
        expect(page.get_by_alt_text("The picture that you chose")).to_be_visible()


def test_several_pictures_are_answered_and_a_bad_one_fails_alone(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    page = visit().page
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"II*\0 not one of ours")
    page.get_by_role("button", name="Several pictures at once").click()
    choose(page, "pictures", CAT, bad)
    found = predictors["v0001"].predict_bytes(CAT.read_bytes())
    rows = page.locator("#answers tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text(f"cat.jpg{found.prediction} {percent(found.confidence)}")
    expect(rows.nth(1)).to_contain_text("bad.pngThis can't be classified: this is a TIFF")


# On a phone


def expect_on_screen(page: Page, *selectors: str) -> None:
    """The whole of them, of which there is at least one each."""
    for selector in selectors:
        found = page.locator(selector)
        expect(found).not_to_have_count(0)
        for each in found.all():
            expect(each).to_be_in_viewport(ratio=0.99)


ANSWER = ("#answer .verdict strong", "#answer .verdict .share", "#probabilities th", "#probabilities .figure")


def test_on_a_phone_the_answer_is_on_the_screen_without_scrolling(visit: Callable[..., Visit]) -> None:
    page = visit(390).page
    heading = page.locator("#page-header")
    before = heading.bounding_box()
    choose(page, "picture", CAT)
    expect_on_screen(page, "#picture", *ANSWER)
    assert page.evaluate("scrollY") == 0
    after = heading.bounding_box()
    assert before is not None
    assert after is not None
    assert after["height"] < before["height"] / 2
    page.locator("#picture").get_by_label("Remove Image").click()
    expect(page.locator("#answer .hint")).to_be_visible()
    assert heading.bounding_box() == before


@pytest.mark.parametrize("width", [844, 360])
def test_on_a_phone_too_small_for_the_heading_besides_the_answer_comes_onto_the_screen(
    visit: Callable[..., Visit], width: int
) -> None:
    page = visit(width).page
    choose(page, "picture", CAT)
    expect(page.locator("#probabilities tr")).to_have_count(10)
    expect_on_screen(page, *ANSWER)


@pytest.mark.parametrize("width", [390, 844, 360, 1280])
def test_an_example_far_down_the_page_is_answered_on_the_screen(visit: Callable[..., Visit], width: int) -> None:
    page = visit(width).page
    for _ in range(2):
        page.get_by_role("button", name="Several pictures at once").scroll_into_view_if_needed()
        page.locator("#examples button[data-name=ship]").click()
        expect(page.locator("#probabilities tr")).to_have_count(10)
        expect_on_screen(page, *ANSWER)


@pytest.mark.parametrize("width", [390, 844])
def test_on_a_phone_a_correction_is_made_on_one_screen(visit: Callable[..., Visit], width: int) -> None:
    visitor = visit(width, signed_in=True)
    visitor.tab("Teach")
    choose(visitor.page, "teach-picture", CAT)
    expect(visitor.page.locator("#teach-said")).to_be_visible()
    expect_on_screen(visitor.page, "#teach-said", *(("#teach-label label", "#teach-add") if width == 390 else ()))


def test_a_refusal_is_on_a_phones_screen_and_says_what_the_file_is_and_what_to_do(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = visit(390).page
    contents = {"scan.tif": b"II*\0", "notes.pdf": b"%PDF-1.7", "logo.svg": b"<svg>", "clip.MOV": b"\0\0\0\x14ftypqt  "}
    kinds = ("a TIFF", "a PDF", "an SVG", "an MP4 or QuickTime video")
    for (name, content), kind in zip(contents.items(), kinds, strict=True):
        (tmp_path / name).write_bytes(content + bytes(50))
        choose(page, "picture", tmp_path / name)
        expect(page.locator("#answer .problem")).to_contain_text(f"This can't be classified: this is {kind}")
        expect(page.locator("#answer .problem")).to_contain_text("On a phone, choose a screenshot of it instead.")
        expect_on_screen(page, "#answer .problem")
        expect(page.locator("#picture img")).to_be_hidden()
        page.locator("#picture").get_by_label("Remove Image").click()


@pytest.mark.parametrize("name", ["IMG_0001.HEIF", "IMG_0001", "IMG_0001.pdf"])
def test_a_picture_is_answered_whatever_the_browser_takes_its_name_for(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], tmp_path: Path, name: str
) -> None:
    shutil.copy(CAT, tmp_path / name)
    page = visit().page
    choose(page, "picture", tmp_path / name)
    expect_answer(page, predictors["v0001"].predict_bytes(CAT.read_bytes()))
    page.locator("#picture").get_by_label("Remove Image").click()
    page.evaluate(
        """([data, name]) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)), bag = new DataTransfer();
          bag.items.add(new File([bytes], name));
          const zone = document.querySelector('#picture input[type=file]').parentElement;
          zone.dispatchEvent(new DragEvent('drop', {dataTransfer: bag, bubbles: true, cancelable: true}));
        }""",
        [base64.b64encode(CAT.read_bytes()).decode(), name],
    )
    expect_answer(page, predictors["v0001"].predict_bytes(CAT.read_bytes()))


def test_a_file_that_is_too_large_is_not_sent_and_those_beside_it_are(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    with (tmp_path / "clip.mov").open("wb") as file:
        file.truncate(230 * 2**20)
    page = visit(390).page
    said = page.locator("#choosing .problem")
    choose(page, "picture", tmp_path / "clip.mov")
    expect(said).to_have_text(f"clip.mov has 230.0 MiB, {TOO_LARGE}")
    assert f"at most {MAX_BYTES >> 20} MiB are taken." in TOO_LARGE
    expect_on_screen(page, "#choosing .problem")
    expect(page.locator("#answer .hint")).to_be_visible()
    page.get_by_role("button", name="Several pictures at once").click()
    choose(page, "pictures", CAT, tmp_path / "clip.mov")
    expect(page.locator("#answers tbody tr")).to_have_count(1)
    expect(said).to_be_visible()
    choose(page, "picture", CAT)
    expect(said).to_have_count(0)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_photograph_of_24_megapixels_is_sent_with_progress_and_answered(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], tmp_path: Path, width: int
) -> None:
    path = tmp_path / "IMG_0001.JPG"
    coarse = torch.randint(256, (750, 1_000, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(coarse.numpy()).resize((6_000, 4_000)).save(path, quality=90)
    assert 5 * 2**20 < path.stat().st_size < 12 * 2**20
    visitor = visit(width)
    visitor.slow_down(5_000_000)
    page = visitor.page
    choose(page, "picture", path)
    expect_on_screen(page, "#picture .uploading")
    page.wait_for_function(
        """() => {
          const done = parseFloat(document.documentElement.style.getPropertyValue('--upload-progress-width'));
          return done > 10 && done < 95;
        }"""
    )
    expect_answer(page, predictors["v0001"].predict_bytes(path.read_bytes()))
    expect_on_screen(page, *ANSWER)


def test_a_script_that_sends_too_much_is_told_so(browser: Browser, url: str) -> None:
    with contextlib.closing(browser.new_page()) as page:
        page.goto(f"{url}/health")
        ask = "async (size) => (await fetch('/predict', {method: 'POST', body: new Uint8Array(size)})).status"
        assert page.evaluate(ask, MAX_BYTES + 2**20) == 413


def test_without_https_what_needs_it_is_not_offered(browser: Browser, url: str) -> None:
    with contextlib.closing(browser.new_page()) as page:
        page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
        page.goto(url)
        expect(page.locator("#picture").get_by_label("Upload file")).to_be_visible()
        for name in ("Capture from camera", "Paste from clipboard"):
            expect(page.locator("#picture").get_by_label(name)).to_be_hidden()


# Teach


def test_a_correction_becomes_a_champion_under_the_visitors_eyes(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], registry: Registry, tmp_path: Path
) -> None:
    pixels, label, said = mistaken(predictors["v0001"])
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(pixels))
    visitor = visit()
    page = visitor.page
    choose(page, "picture", picture)
    expect(page.locator("#answer .verdict strong")).to_have_text(said)

    visitor.tab("Teach")
    expect(page.locator("#teach-room")).to_have_count(0)
    visitor.settle()
    page.locator("#teach-sign-in").click()
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#served-version")).to_have_text("v0001")

    choose(page, "picture", picture)
    expect(page.locator("#answer .verdict strong")).to_have_text(said)
    visitor.tab("Teach")
    page.get_by_role("button", name="Take the picture from Classify").click()
    expect(page.locator("#teach-said")).to_have_text(said)
    page.get_by_role("radio", name=label).check()
    page.get_by_role("button", name="Add this correction").click()
    expect(page.locator("#teach-outcome")).to_have_text(f"Added: it is {label}, not {said}.")
    expect(page.locator("#teach-count")).to_have_text("1")
    page.get_by_role("button", name="Learn from the corrections").click()
    expect(page.get_by_role("progressbar", name="Fine-tuning")).to_be_visible()

    verdict = page.locator("#teach-verdict [data-state=promoted]")
    expect(verdict).to_contain_text("answers everybody from now on", timeout=LONG_MS)
    taught = registry.resolve("latest")
    assert taught.manifest.parent == "v0001"
    expect(page.locator("#teach-version")).to_have_text(taught.id)
    expect(page.locator("#served-version")).to_have_text(taught.id)  # without loading the page again
    expect(page.locator("#teach-waiting")).to_have_text("No correction waits to be learned.")
    page.get_by_role("button", name="Ask again").click()
    expect(page.locator("#teach-seen .version")).to_have_text(taught.id)
    expect(page.locator("#teach-said")).to_have_text(label)
    visitor.tab("Classify")
    page.locator("#picture").get_by_label("Remove Image").click()
    choose(page, "picture", picture)
    expect_answer(page, Predictor.from_version(taught).predict_bytes(picture.read_bytes()))

    visitor.tab("Teach")
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_visible()
    page.get_by_role("button", name="Undo, and discard what it learned from").click()
    expect(page.locator("#teach-verdict [data-state=undone]")).to_contain_text("v0001 answers everybody again.")
    expect(page.locator("#served-version")).to_have_text("v0001")
    expect(page.get_by_role("button", name="Undo", exact=True)).to_be_hidden()
    expect(page.locator("#teach-waiting")).to_have_text("No correction waits to be learned.")


# Model


def test_two_versions_are_compared_on_one_picture(
    visit: Callable[..., Visit], predictors: dict[str, Predictor], tmp_path: Path
) -> None:
    pixels, _, _ = mistaken(predictors["v0001"])
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(pixels))
    one, other = (each.predict_bytes(picture.read_bytes()) for each in predictors.values())
    visitor = visit()
    visitor.tab("Model", "Compare two")
    page = visitor.page
    expect(page.get_by_label("One", exact=True)).to_have_value("v0001")
    page.get_by_label("The other", exact=True).fill("v0002")
    page.keyboard.press("Enter")
    choose(page, "model-picture", picture)
    expect(page.locator("#model-compared .m-verdict")).to_have_text(
        f"They disagree v0001 says {one.prediction} with {percent(one.confidence)}, "
        f"v0002 says {other.prediction} with {percent(other.confidence)}."
    )
    expect(page.locator("#model-compared .m-class")).to_have_count(10)


def test_a_version_is_promoted_and_rolled_back(visit: Callable[..., Visit], registry: Registry) -> None:
    visitor = visit(signed_in=True)
    visitor.tab("Model")
    page = visitor.page
    page.get_by_role("button", name="v0002", exact=True).click()
    expect(page.locator("#model-chosen")).to_contain_text("v0002")
    page.get_by_role("button", name="Let v0002 answer").click()
    expect(page.locator("#model-question")).to_have_text("Promote v0002, replacing v0001?")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#model-confirm")).to_have_count(0)
    assert registry.pointer() == "v0001"

    page.get_by_role("button", name="Let v0002 answer").click()
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator("#model-outcome")).to_have_text("Done: v0002 answers now.")
    expect(page.locator("#served-version")).to_have_text("v0002")
    expect(page.get_by_role("button", name="v0002 answers already")).to_be_disabled()

    page.get_by_role("button", name="Go back to the version before").click()
    expect(page.locator("#model-question")).to_contain_text("served before v0002")
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.locator("#model-outcome")).to_have_text("Done: v0001 answers now.")
    expect(page.locator("#served-version")).to_have_text("v0001")
    assert registry.pointer() == "v0001"
    visitor.tab("History")
    expect(page.locator("#model-periods tbody tr").first).to_contain_text("rolled back to")


def test_a_visitor_who_is_not_signed_in_can_change_nothing(visit: Callable[..., Visit], registry: Registry) -> None:
    visitor = visit()
    page = visitor.page
    visitor.tab("Teach")
    expect(page.locator("#teach-sign-in")).to_be_visible()
    for name in ("Add this correction", "Learn from the corrections", "Stop"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    visitor.tab("Model")
    expect(page.locator("#model-sign-in")).to_be_visible()
    page.get_by_role("button", name="v0002", exact=True).click()
    expect(page.locator("#model-chosen")).to_contain_text("v0002")
    for name in ("Let v0002 answer", "Go back to the version before", "Yes, do it"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    assert registry.pointer() == "v0001"


def test_whose_sign_in_has_ended_meanwhile_is_told_so(visit: Callable[..., Visit], registry: Registry) -> None:
    visitor = visit(signed_in=True)
    visitor.tab("Model")
    page = visitor.page
    page.get_by_role("button", name="v0002", exact=True).click()
    page.get_by_role("button", name="Let v0002 answer").click()
    expect(page.locator("#model-question")).to_be_visible()
    visitor.context.clear_cookies()
    page.get_by_role("button", name="Yes, do it").click()
    expect(page.get_by_text(SIGN_IN)).to_be_visible()
    assert registry.pointer() == "v0001"


# Everywhere


def test_what_goes_wrong_behind_the_scenes_is_noticed(browser: Browser, url: str) -> None:
    with contextlib.closing(Visit(browser, url)) as visitor:
        page = visitor.open()
        assert visitor.problems == []
        with page.expect_event("requestfailed"):
            page.evaluate("() => { new Image().src = 'http://127.0.0.1:9/elsewhere'; }")
        with page.expect_console_message():
            page.evaluate("() => console.error('an error of the console')")
        with page.expect_event("pageerror"):
            page.evaluate("() => { setTimeout(() => { throw new Error('an error of the page'); }); }")
        told = "\n".join(visitor.problems)
    for each in ("a request to http://127.0.0.1:9/elsewhere", "an error of the console", "an error of the page"):
        assert each in told


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window_and_all_that_is_used_has_a_name(
    visit: Callable[..., Visit], width: int, tmp_path: Path
) -> None:
    visitor = visit(width, signed_in=True)
    page = visitor.page
    bad = tmp_path / f"{'a_long_name' * 12}.png"
    bad.write_bytes(b"II*\0 not one of ours")
    choose(page, "picture", CAT)
    expect(page.locator("#seen img.pixels")).to_have_count(2)
    page.get_by_role("button", name="Several pictures at once").click()
    choose(page, "pictures", CAT, bad)
    expect(page.locator("#answers tbody tr")).to_have_count(2)
    check_view(visitor, width)
    visitor.tab("Teach")
    page.get_by_role("button", name="Take the picture from Classify").click()
    expect(page.locator("#teach-said")).to_be_visible()
    for name in ("Add pictures", "Increment", "Correct"):
        visitor.tab(name)
        check_view(visitor, width)
    visitor.tab("Model")
    for name in ("History", "Compare two", "All versions"):
        visitor.tab(name)
        if name == "Compare two":
            choose(page, "model-picture", CAT)
            expect(page.locator("#model-compared .m-verdict")).to_be_visible()
        check_view(visitor, width)


def check_view(visitor: Visit, width: int) -> None:
    assert visitor.page.evaluate("document.scrollingElement.scrollWidth") <= width
    tree = visitor.context.new_cdp_session(visitor.page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in tree if not node["ignored"] and node["role"]["value"] in NAMED]
    assert len(seen) > 5
    nameless = [node["role"]["value"] for node in seen if not node.get("name", {}).get("value", "").strip()]
    assert nameless == []
    expect(visitor.page.locator("img:not([alt])")).to_have_count(0)


def file_chooser_by_keyboard(page: Page) -> FileChooser:
    """Tries again: a component that is drawn anew just then loses the focus."""
    for patience_ms in (5_000, 10_000, 20_000):
        focus_with_tab_key(page, page.locator("#picture").get_by_label("Drop an image file here to upload"))
        with contextlib.suppress(TimeoutError):
            with page.expect_file_chooser(timeout=patience_ms) as chooser:
                page.keyboard.press("Enter")
            return chooser.value
    raise AssertionError("Enter opened no file chooser")


def test_the_keyboard_is_enough(visit: Callable[..., Visit], predictors: dict[str, Predictor]) -> None:
    visitor = visit()
    page = visitor.page
    visitor.settle()
    file_chooser_by_keyboard(page).set_files(CAT)
    expect_answer(page, predictors["v0001"].predict_bytes(CAT.read_bytes()))

    focus_with_tab_key(page, page.locator("#examples button[data-name=ship]"))
    page.keyboard.press("Enter")
    ship = next(each.pixels for each in load_examples() if each.name == "ship")
    expect_answer(page, predictors["v0001"].predict_bytes(png(torch.from_numpy(ship))))

    page.locator("#tab-classify-button").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#tab-teach-button")).to_have_attribute("aria-selected", "true")
    focus_with_tab_key(page, page.locator("#teach-sign-in"))
    visitor.settle()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")

    focus_with_tab_key(page, page.locator("#tab-model-button"))
    page.keyboard.press("Enter")
    focus_with_tab_key(page, page.get_by_role("button", name="v0002", exact=True))
    page.keyboard.press("Enter")
    expect(page.locator("#model-chosen")).to_contain_text("v0002")
    focus_with_tab_key(page, page.get_by_role("button", name="Let v0002 answer"))
    page.keyboard.press("Enter")
    focus_with_tab_key(page, page.get_by_role("button", name="Cancel"))
    page.keyboard.press("Enter")
    expect(page.locator("#model-question")).to_have_count(0)


def test_a_refusal_by_the_quota_is_told_in_words(
    browser: Browser, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with (
        serving(registry.root, requests_per_minute=1, decode_workers=1) as url,
        contextlib.closing(Visit(browser, url)) as visitor,
    ):
        page = visitor.open()
        choose(page, "picture", CAT)
        expect(page.locator("#answer .verdict")).to_be_visible()
        page.locator("#picture").get_by_label("Remove Image").click()
        expect(page.locator(".refusal")).to_contain_text("more than 1 requests a minute came from here")
        page.locator(".refusal").click()
        expect(page.locator(".refusal")).to_have_count(0)
        assert all("status of 429" in problem for problem in visitor.problems)
