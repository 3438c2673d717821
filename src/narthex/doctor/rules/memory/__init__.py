"""Memory: one rule a file. The others here read what the rules share: failures, placements, tenants."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.memory import (
    comfyui_vram_oom,
    compute_buffer_oom,
    context_too_large,
    host_oom_kill,
    host_ram_insufficient,
    keep_alive_holds_vram,
    low_vram_mode,
    num_parallel_multiplies_kv,
    partial_offload_slow,
    vram_contention_comfyui_ollama,
    vram_contention_other_process,
    vram_not_recovered,
    vram_oom_in_generation,
    vram_oom_on_load,
)

MODULES: tuple[ModuleType, ...] = (
    vram_oom_on_load,
    compute_buffer_oom,
    vram_oom_in_generation,
    vram_contention_other_process,
    vram_contention_comfyui_ollama,
    comfyui_vram_oom,
    context_too_large,
    num_parallel_multiplies_kv,
    partial_offload_slow,
    host_ram_insufficient,
    host_oom_kill,
    vram_not_recovered,
    low_vram_mode,
    keep_alive_holds_vram,
)
