"""Memory: one rule a file."""

from __future__ import annotations

from types import ModuleType

MODULES: tuple[ModuleType, ...] = ()
