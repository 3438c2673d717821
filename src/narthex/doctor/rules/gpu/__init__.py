"""The GPU and its driver: one rule a file."""

from __future__ import annotations

from types import ModuleType

from narthex.doctor.rules.gpu import (
    driver_library_mismatch,
    driver_not_loaded,
    driver_or_build_compat,
    driver_too_old,
    gpu_arch_not_in_build,
    gpu_discovery_timeout,
    gpu_fell_off_bus,
    gpu_hidden_by_env,
    gpu_hw_ecc,
    gpu_not_visible,
    gpu_xid_app_fault,
    igpu_not_used,
    rocm_gpu_unsupported,
    rocm_host_fault,
    suspend_resume_gpu_lost,
    uvm_module_broken,
    wrong_gpu_selected,
)

MODULES: tuple[ModuleType, ...] = (
    uvm_module_broken,
    suspend_resume_gpu_lost,
    driver_library_mismatch,
    driver_not_loaded,
    driver_too_old,
    gpu_not_visible,
    gpu_discovery_timeout,
    gpu_hidden_by_env,
    wrong_gpu_selected,
    igpu_not_used,
    gpu_arch_not_in_build,
    rocm_gpu_unsupported,
    rocm_host_fault,
    gpu_xid_app_fault,
    gpu_fell_off_bus,
    gpu_hw_ecc,
    driver_or_build_compat,
)
