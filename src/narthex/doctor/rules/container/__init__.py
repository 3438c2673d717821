"""The GPU in containers: one rule a file; inside.py reads what they share."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.container import (
    container_gpu_lost_cgroup,
    container_started_without_gpu,
    container_toolkit_or_driver_missing,
)

MODULES: tuple[ModuleType, ...] = (
    container_started_without_gpu,
    container_toolkit_or_driver_missing,
    container_gpu_lost_cgroup,
)
