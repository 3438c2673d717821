"""Runner and model: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.model import (
    bad_server_setting,
    client_timeout_aborts_load,
    client_timeout_generation,
    context_truncated,
    cpu_illegal_instruction,
    cpu_no_avx,
    embedding_failure,
    gguf_invalid_or_corrupt,
    keep_alive_unload_reload,
    model_load_timeout,
    model_needs_newer_runtime,
    model_not_found,
    model_reload_thrash,
    runner_crash_bug,
    runner_missing_library,
)

MODULES: tuple[ModuleType, ...] = (
    model_reload_thrash,
    keep_alive_unload_reload,
    model_needs_newer_runtime,
    gguf_invalid_or_corrupt,
    runner_missing_library,
    runner_crash_bug,
    cpu_no_avx,
    cpu_illegal_instruction,
    model_load_timeout,
    client_timeout_aborts_load,
    client_timeout_generation,
    embedding_failure,
    context_truncated,
    model_not_found,
    bad_server_setting,
)
