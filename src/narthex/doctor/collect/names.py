"""Names of readings: what collectors look at on the live machine, and what a value is."""

from __future__ import annotations

NAMES: dict[str, str] = {
    # the kernel and the cards
    "module.nvidia": "bool: the kernel module is loaded",
    "module.nvidia_uvm": "bool: likewise",
    "module.nouveau": "bool: likewise",
    "module.amdgpu": "bool: likewise; where there is an AMD card",
    "module.nvidia_file": "bool: a driver module for the running kernel is on the disk",
    "secure_boot": "bool: the firmware lets only signed modules be loaded",
    "device.node": 'str per path (about "/dev/nvidia-uvm"): "ok", "missing", or the errno of an open for '
    'reading and writing ("EIO", "EACCES", "EPERM")',
    "driver.module_version": 'str: the loaded module\'s, "550.54.14"',
    "driver.library_version": "str: of libnvidia-ml.so.1, from its file name",
    "driver.cuda_version": 'str: the newest CUDA that the driver serves, "12.4"',
    "nvml.status": 'str: "ok", or the error: "LIB_RM_VERSION_MISMATCH", "DRIVER_NOT_LOADED", '
    '"LIBRARY_NOT_FOUND", "UNKNOWN", "GPU_IS_LOST", "NO_PERMISSION", "TIMEOUT"',
    "pci.nvidia": "int: NVIDIA display controllers on the PCI bus",
    "pci.amd": "int: AMD display controllers on the PCI bus",
    "pci.intel": "int: Intel display controllers on the PCI bus",
    "pci.card": "dict per PCI address: vendor, device (hex), driver (nvidia, nouveau, vfio-pci, amdgpu; "
    '"" none), fallen_off (bool; None unknown), runtime_status',
    "gpu.count": "int: cards that NVML lists",
    "gpu.memory": "dict per card (about its index; of AMD its PCI address): name, uuid, pci, "
    "total_bytes, used_bytes, free_bytes",
    "gpu.process": "dict per tenant (about its PID): card, name («python3 (ComfyUI)» where it is known), "
    "service (as of a listener), vram_bytes",
    "gpu.ecc": "dict per card: uncorrectable, corrected (since the last reset), pending_retirement",
    "gpu.persistence": "bool per card",
    "gpu.throttle": "list of str per card: why it runs slower than it could",
    "gpu.lost": "str per card: the error that NVML gives instead of a handle",
    "gpu.power": 'str per PCI address: runtime_status, "active" or "suspended"',
    "nvidia.params": "dict: of /proc/driver/nvidia/params",
    "cpu.flags": "list of str: avx, avx2, avx512f, f16c, fma as far as there",
    # memory, disk, network
    "ram": "dict: total_bytes, available_bytes, swap_total_bytes, swap_free_bytes",
    "cgroup.oom_kills": "int per unit or container of the stack (about its name): processes in its cgroup "
    "that the kernel ended for memory since the group was made",
    "kernel.oom_kills": "int: the same of anyone: about «this machine» since it was started, about another "
    "group of those in it",
    "disk": "dict per folder (about its path): total_bytes, free_bytes, inodes_total, inodes_free, "
    "read_only, what (Ollama's models, Docker's root, …)",
    "listener": "dict per port (about): addresses, public (bool), process, pid, service (ollama, openwebui, "
    'comfyui, llama_server; ""), told_by (process, container, port)',
    "proxy": "dict per place (about «this shell», a container, a unit): the proxy variables, without secrets",
    # Docker
    "docker.engine": 'str: "ok", "absent", "denied", "down"',
    "docker.version": "str",
    "docker.runtimes": "list of str",
    "docker.default_runtime": "str",
    "docker.cgroup_driver": "str: systemd or cgroupfs",
    "docker.rootless": "bool",
    "docker.desktop": "bool: it runs in a virtual machine of Docker Desktop",
    "docker.installs": "list of str: snap, apt, package, desktop; two are one too many",
    "docker.toolkit": 'str: the path of nvidia-ctk, nvidia-container-cli or nvidia-container-runtime; "" '
    "where there is none",
    "docker.cdi": "list of str: CDI specification files for NVIDIA",
    "docker.cdi_driver": "str: the driver version that those files name",
    "docker.daemon_json": 'str per file (about its path): "ok", or why it does not parse',
    "container": "dict per name: id, role (ollama, openwebui, comfyui, llama_server, other), image, command "
    "(list of str), state, health, exit_code, error, oom_killed, restarts, restart_policy, gpu_request (list "
    "of str; empty where none), runtime, ports (list of dict: host_ip, host_port, port), env, network_mode, "
    "networks, extra_hosts, log_driver, started_at, finished_at, memory_bytes, compose",
    # services
    "ollama.answers": "bool per URL",
    "ollama.version": "str",
    "ollama.place": "str: process, container, elsewhere",
    "ollama.env": "dict: OLLAMA_* and the like of the running server",
    "ollama.models": "list of dict: name, size_bytes, digest",
    "ollama.resident": "dict per model name: size_bytes, size_vram_bytes, num_ctx, expires_at, seconds_left",
    "ollama.loading": "dict per PID of a runner whose model is not listed: seconds, moves (bool), url",
    "ollama.seconds": "float: how long its version took to come",
    "openwebui.answers": "bool per URL",
    "openwebui.health": "bool",
    "openwebui.version": "str",
    "openwebui.backend": "dict per base URL (about): reachable, error, from_inside (bool)",
    "openwebui.env": "dict: the settings that matter here, without secrets",
    "comfyui.answers": "bool per URL",
    "comfyui.stats": "dict: version, argv, ram_free_bytes, vram_total_bytes, vram_free_bytes, "
    "torch_vram_bytes",
    "comfyui.queue": "dict: running, pending",
    "comfyui.last_job": "dict per URL: status (success, error, interrupted), error, node, at",
    # the journal of narthex
    "journal.profile": "dict per model: name, at, knobs, engine, engine_version, driver, proven",
    "journal.changed": "list of str per model: what is another than when its profile was proven",
}
