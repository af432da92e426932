"""The CEL engine: the Rust extension of `common-expression-language`, without its package.

The package imports its own command line, and with that typer and rich: 14 MB in every worker, for nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load() -> ModuleType:
    if "cel.cel" in sys.modules:
        return sys.modules["cel.cel"]
    package = importlib.util.find_spec("cel")
    assert package is not None, "common-expression-language is a dependency"
    assert package.submodule_search_locations is not None
    for folder in package.submodule_search_locations:
        for library in Path(folder).glob("cel.*.so"):
            extension = importlib.util.spec_from_file_location("cel.cel", library)
            assert extension is not None
            assert extension.loader is not None
            module = importlib.util.module_from_spec(extension)
            extension.loader.exec_module(module)
            sys.modules["cel.cel"] = module  # it can be initialised once in a process
            return module
    raise ImportError("common-expression-language has no compiled extension here; install its wheel")


cel = _load()
