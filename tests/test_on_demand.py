"""What a server's page does not use is not loaded with it."""

import subprocess
import sys

import pytest

DEMAND = "import json, sys; from cifar_lit.page.on_demand import load_on_demand; load_on_demand({name!r}); "


def python(code: str, name: str = "pandas") -> str:
    done = subprocess.run([sys.executable, "-c", DEMAND.format(name=name) + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_page_is_imported_without_pandas() -> None:
    assert (
        python("import cifar_lit.page.app; print([each for each in sys.modules if each.startswith('pandas.')])") == "[]"
    )


@pytest.mark.parametrize(
    "use",
    [
        "import wave; import wave as again; print(again.open.__name__, wave.Error.__module__)",
        "from wave import open as one; print(one.__name__, sys.modules['wave'].Error.__module__)",
    ],
)
def test_a_module_is_what_it_was_once_it_is_used(use: str) -> None:
    assert python(use, "wave") == "open wave"


def test_a_package_within_it_is_found() -> None:
    assert python(
        "import xml.sax; import xml; print(xml.sax.__name__, xml.__path__ is sys.modules['xml'].__path__)", "xml"
    ) == ("xml.sax True")


def test_what_is_not_installed_can_not_be_imported_either() -> None:
    code = "\ntry: import no_such_module\nexcept ModuleNotFoundError as error: print(error.name)"
    assert python(code, "no_such_module") == "no_such_module"


def test_others_find_it_without_loading_it() -> None:
    code = "import importlib.util; print(importlib.util.find_spec('wave').name, 'struct' in vars(sys.modules['wave']))"
    assert python(code, "wave") == "wave False"


def test_what_is_loaded_already_stays() -> None:
    assert python("print(sys.modules['json'].dumps(1))", "json") == "1"
