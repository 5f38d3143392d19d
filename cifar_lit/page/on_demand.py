"""Modules that are loaded when something of them is used, and not when they are imported."""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def load_on_demand(name: str) -> None:
    """Has `import NAME` load nothing, until an attribute of the module is asked for; then it is what it always was.

    Gradio imports pandas for data frames that a page may show: 66 MiB and 0.3 s. `importlib.util.LazyLoader` does not
    do: a second import of the module asks for its `__spec__`, and that loads it.

    Args:
        name: of a package that may be imported before it is used; nothing is done if it has been loaded, or is not
            installed.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return

    def load(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    stand_in = ModuleType(name)
    stand_in.__spec__ = spec  # `find_spec` asks for it
    stand_in.__getattr__ = load  # type: ignore[method-assign]
    sys.modules[name] = stand_in
