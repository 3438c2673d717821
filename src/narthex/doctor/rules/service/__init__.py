"""Service and network: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.service import queue_full

MODULES: tuple[ModuleType, ...] = (queue_full,)
