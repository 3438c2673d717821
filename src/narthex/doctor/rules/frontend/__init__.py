"""OpenWebUI and ComfyUI: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.frontend import (
    comfyui_job_failed,
    comfyui_unreachable,
    owui_500_while_ollama_ok,
    owui_cannot_reach_ollama,
    owui_hang_unreachable_url,
    owui_task_options_differ,
    owui_timeout,
    owui_tools_fill_context,
)

MODULES: tuple[ModuleType, ...] = (
    owui_cannot_reach_ollama,
    owui_hang_unreachable_url,
    owui_500_while_ollama_ok,
    owui_task_options_differ,
    owui_tools_fill_context,
    owui_timeout,
    comfyui_job_failed,
    comfyui_unreachable,
)
