"""The stack as narthex knows it: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.stack import model_load_hangs, settings_changed_since_profile

MODULES: tuple[ModuleType, ...] = (model_load_hangs, settings_changed_since_profile)
