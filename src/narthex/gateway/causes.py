"""Causes of a failed load or answer: which of the doctor's they can be, and what each means to a client."""

from __future__ import annotations

from narthex.outcomes import Outcome

# What can be the reason of one load or answer that failed. The doctor knows more: what a log also tells of
# downloads, other programs or slowness is no answer to this question.
MEMORY: tuple[str, ...] = (
    "vram_oom_on_load",
    "context_too_large",
    "num_parallel_multiplies_kv",
    "compute_buffer_oom",
    "vram_oom_in_generation",
    "vram_contention_other_process",
    "vram_contention_comfyui_ollama",
    "vram_not_recovered",
    "host_oom_kill",
    "host_ram_insufficient",
)
OTHERS: tuple[str, ...] = (
    "bad_server_setting",
    "container_gpu_lost_cgroup",
    "container_started_without_gpu",
    "cpu_illegal_instruction",
    "cpu_no_avx",
    "disk_full",
    "driver_library_mismatch",
    "driver_not_loaded",
    "driver_or_build_compat",
    "driver_too_old",
    "embedding_failure",
    "gguf_invalid_or_corrupt",
    "gpu_arch_not_in_build",
    "gpu_fell_off_bus",
    "gpu_hw_ecc",
    "gpu_xid_app_fault",
    "model_load_hangs",
    "model_load_timeout",
    "model_needs_newer_runtime",
    "model_not_found",
    "models_dir_permission",
    "port_in_use",
    "rocm_gpu_unsupported",
    "rocm_host_fault",
    "runner_crash_bug",
    "runner_missing_library",
    "suspend_resume_gpu_lost",
    "uvm_module_broken",
)
# Where no rule has an answer the engine's own end has: the cause, and its way out.
BY_OUTCOME: dict[Outcome, tuple[str, str]] = {
    Outcome.OUT_OF_MEMORY: ("vram_oom_on_load", "Ask for less context, or see what fits: {plan}."),
    Outcome.OUT_OF_MEMORY_COMPUTE: (
        "vram_oom_in_generation",
        "Ask for less context or a smaller batch; `narthex tune {model}` proves what holds.",
    ),
    Outcome.KILLED_BY_KERNEL: (
        "host_oom_kill",
        "Take a smaller context or model, or end what else fills the main memory: {plan}.",
    ),
    Outcome.HOST_OUT_OF_MEMORY: (
        "host_ram_insufficient",
        "Take a smaller context or model, or end what else fills the main memory: {plan}.",
    ),
    Outcome.UNSUPPORTED_FLAG: ("bad_server_setting", "Take the setting back, or a newer engine."),
    Outcome.UNSUPPORTED_SETTING: ("bad_server_setting", "Take the setting back; the engine's words name it."),
    Outcome.UNSUPPORTED_ARCHITECTURE: ("model_needs_newer_runtime", "Take a newer engine: update it."),
    Outcome.CORRUPT_FILE: (
        "gguf_invalid_or_corrupt",
        "Fetch the model's file again; `narthex inspect {model}` tells what of it is damaged.",
    ),
    Outcome.FILE_MISSING: ("model_not_found", "Fetch the model again: its file is gone."),
    Outcome.MODEL_UNKNOWN: ("model_not_found", "Fetch the model: ollama pull {model}."),
    Outcome.DISK_FULL: ("disk_full", "Make room on the disk of the models."),
    Outcome.PORT_IN_USE: ("port_in_use", "Try again: another program took the port in that moment."),
    Outcome.CRASHED: ("runner_died", "Try again; where it dies again, `narthex doctor` reads its log."),
    Outcome.RUNNER_DIED: ("runner_died", "Try again; the next request loads it anew."),
    Outcome.SERVER_DOWN: ("ollama_unreachable", "Start it: sudo systemctl start ollama."),
    Outcome.QUEUE_FULL: ("queue_full", "Ask again in a moment."),
    Outcome.LOAD_TIMEOUT: ("model_load_timeout", "Set OLLAMA_LOAD_TIMEOUT higher, or find what is slow."),
    Outcome.STALLED: ("model_load_hangs", "See what it waits for: narthex doctor."),
    Outcome.TIMEOUT: ("model_load_hangs", "See what it waits for: narthex doctor."),
    Outcome.FAILED: ("engine_failed", "Its log tells more: narthex doctor."),
}
STATUS: dict[str, int] = {
    "model_not_found": 404,
    "model_load_hangs": 504,
    "model_load_timeout": 504,
    "runner_crash_bug": 502,
    "runner_died": 502,
    "gpu_xid_app_fault": 502,
}
AGAIN_S = {
    "ollama_unreachable": 5.0,
    "queue_full": 5.0,
    "runner_crash_bug": 1.0,
    "runner_died": 1.0,
    "port_in_use": 1.0,
}
# These pass, or hit one request alone; everything else would hit the same load again.
PASSING = frozenset(
    {
        "ollama_unreachable",
        "queue_full",
        "vram_oom_in_generation",
        "port_in_use",
        "host_oom_kill",
        "runner_died",
    }
)
