"""The package from Python, and what is installed with it."""

import doctest
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cifar_lit
from cifar_lit import api
from cifar_lit.cli import main
from cifar_lit.errors import InputError, SettingError
from cifar_lit.registry.registry import Registry
from cifar_lit.registry.shipped import registry_to_read

PACKAGE = Path(cifar_lit.__file__).parent
CAT = PACKAGE / "page" / "examples" / "cat.jpg"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an image and nothing else."""
    monkeypatch.delenv("CIFAR_LIT_REGISTRY", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, tmp_path / "cat.jpg")
    return tmp_path


EXAMPLES = [each for each in doctest.DocTestFinder().find(api) if each.examples]


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each.name.endswith(".fit") else [], id=each.name)
        for each in EXAMPLES
    ],
)
def test_the_examples_in_the_docstrings_are_true(example: doctest.DocTest, empty: Path) -> None:
    result = doctest.DocTestRunner().run(example, clear_globs=False)
    assert (result.failed, result.attempted > 0) == (0, True)


def test_each_public_function_has_an_example() -> None:
    assert {each.name.rpartition(".")[2] for each in EXAMPLES} == {"api", "predict", "load", "versions", "fit"}


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, cifar_lit; cifar_lit.__version__; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        cifar_lit.lode  # type: ignore[attr-defined]  # noqa: B018


@pytest.fixture
def model(registry: Registry, publish: Any) -> Any:
    publish(promote=True)
    return cifar_lit.load(registry=registry.root)


def test_paths_arrays_tensors_and_images_get_the_same_answer(model: Any, empty: Path) -> None:
    image = Image.open("cat.jpg").convert("RGB")
    pixels = np.asarray(image)
    expected = model.predict("cat.jpg")
    assert model.predict(Path("cat.jpg")) == model.predict(image) == model.predict(pixels) == expected
    first, second = model.predict(["cat.jpg", Path("cat.jpg")])
    assert [first, second] == model.predict(np.stack([pixels, pixels]))
    assert first.probabilities == pytest.approx(expected.probabilities)
    assert model.predict(torch.from_numpy(pixels.copy())) == expected
    assert model.predict([]) == []
    assert tuple(expected.probabilities) == model.class_names
    assert (expected.version, model.name) == ("v0001", "v0001")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((32, 32, 3)),
        np.zeros((3, 32, 32), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((0, 9, 9, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(images: Any, model: Any) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        model.predict(images)


@pytest.mark.parametrize("options", [{"trainer.epochs": 1}, {"trainer.fast_dev_run": True}])
def test_a_training_without_a_version_is_an_error(options: dict[str, Any], empty: Path) -> None:
    with pytest.raises(SettingError):
        cifar_lit.fit("smoke", {"data.num_synthetic": 100, "trainer.enable_progress_bar": False, **options})


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_callers_program_too_after_the_best_epoch_is_a_version(signum: int, empty: Path) -> None:
    ended: list[int] = []
    before = signal.signal(signum, lambda number, _: ended.append(number))
    try:
        end = {"class_path": "test_interruptions.EndAt", "init_args": {"step": 3, "signum": int(signum)}}
        cifar_lit.fit("smoke", {"data.num_synthetic": 100, "trainer.callbacks": [end], "trainer.logger": False})
    finally:
        signal.signal(signum, before)
    (version,) = cifar_lit.versions("checkpoints")
    assert (ended, version.manifest.training["ended_by"]) == ([signum], "Ctrl-C" if signum == 2 else "SIGTERM")


def test_where_there_is_no_registry_the_shipped_champion_answers_and_that_is_said(
    empty: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["predict", "cat.jpg", "--format", "csv"]) == 0
    assert ",v0002\n" in capsys.readouterr().out
    assert "there is no registry checkpoints/ yet: the shipped v0002 is used" in caplog.text
    assert not Path("checkpoints").exists()


def test_a_registry_that_is_named_or_there_is_taken(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry_to_read("elsewhere").root == Path("elsewhere")
    monkeypatch.setenv("CIFAR_LIT_REGISTRY", "named")
    assert registry_to_read().root == Path("named")
    monkeypatch.delenv("CIFAR_LIT_REGISTRY")
    Path("checkpoints").mkdir()
    assert registry_to_read().root == Path("checkpoints")


def test_a_config_that_is_not_shipped_is_refused_with_those_that_are(empty: Path, capsys: Any) -> None:
    assert main(["fit", "--config", "quik"]) == 2
    assert "--config quik: no such file, and the shipped ones are accurate," in capsys.readouterr().err


def test_what_is_shipped_is_in_the_wheel() -> None:
    patterns = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = PACKAGE / "shipped"
    found = {path for pattern in patterns["cifar_lit.shipped"] for path in shipped.glob(pattern) if path.is_file()}
    registry = Registry(shipped / "checkpoints")
    champion = registry.champion()
    assert champion is not None
    assert {shipped / "checkpoints" / "champion", champion.path / "manifest.json"} <= found
    assert {champion.path / name for name in champion.manifest.files} <= found
    assert set((shipped / "configs").glob("*.yaml")) <= found


def test_what_the_page_is_made_of_is_in_the_wheel() -> None:
    patterns = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    page = PACKAGE / "page"
    found = {path for pattern in patterns["cifar_lit.page"] for path in page.glob(pattern)}
    kinds = {".py", ".pyc"}
    assert found == {path for path in page.rglob("*") if path.is_file() and path.suffix not in kinds}
    assert {path.suffix for path in found} >= {".html", ".css", ".js", ".jpg"}


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "cifar_lit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"cifar-lit {cifar_lit.__version__}\n"
