"""Programs that serve models. Each engine is a module with the same names.

The table below is the registry: to add an engine, write the module and add its line. A module offers
``find_engines``, ``find_engine``, ``probe``, ``arguments``, ``launch``, ``parse_load`` and ``explain_exit``
with the signatures of :mod:`narthex.engines.llama_server`.
"""

from __future__ import annotations

import importlib
from types import ModuleType

ENGINES: dict[str, str] = {
    "llama-server": "narthex.engines.llama_server",
}


def engine_module(kind: str) -> ModuleType:
    """The module of an engine kind, imported on first use. KeyError where there is none."""
    return importlib.import_module(ENGINES[kind])
