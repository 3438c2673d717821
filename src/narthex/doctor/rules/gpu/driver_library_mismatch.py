"""The driver's libraries are of another version than the kernel module that is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Command, Finding, Quote, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.gpu import steps, where
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel

INSTALLED = Sign(
    r"^version: +(?P<module>\d{3}\.\d[\d.]*\d)$"
    r"|\b(?:libnvidia-compute|nvidia-utils|nvidia-driver|nvidia-dkms)\S* +(?P<package>\d{3}\.\d[\d.]*\d)",
    words=["version:", "libnvidia-compute", "nvidia-utils", "nvidia-driver", "nvidia-dkms"],
    kinds=("commands", "nvidia_smi", "dmesg"),
)

REMEDY = Remedy(
    text="Reboot, so that the new kernel module is loaded. Without a reboot: stop every user of the "
    "GPU and load "
    "the modules anew. Then keep unattended upgrades away from the driver.",
    commands=(
        Command(
            text="cat /proc/driver/nvidia/version; ls -l /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.*",
            safe=True,
            note="the two versions; in a container the library comes from the host at its start",
        ),
        Command(text="sudo reboot", safe=False, root=True, note="the sure way"),
        Command(
            text="sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia nvidia_uvm",
            safe=False,
            root=True,
            note="only with the desktop, containers and all GPU programs stopped",
        ),
        Command(
            text="sudo apt-mark hold $(dpkg -l | awk '/^ii +(nvidia|libnvidia)/ {print $2}')",
            safe=True,
            root=True,
            note="Debian and Ubuntu: no upgrade of the driver behind your back; upgrade by hand, then reboot",
        ),
    ),
    verify="nvidia-smi lists the card, and both versions are the same. Containers that were running over the "
    "upgrade are restarted.",
    verify_commands=(
        steps.SMI,
        Command(text="cat /proc/driver/nvidia/version", safe=True),
        steps.COMPUTE_LINE,
    ),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """NVML, CUDA or the kernel say it, or the two versions differ."""
    said = [
        *evidence.hits(cuda.MISMATCH),
        *cuda.with_code(evidence, 803),
        *cuda.with_nvml_code(evidence, 18),
    ]
    told = [hit for hit in _unique(said) if not _is_over(evidence, hit)]
    kernel_says = [hit for hit in evidence.hits(kernel.API_MISMATCH) if not _is_over(evidence, hit)]
    live = _live(evidence)
    module, library = _versions(evidence)
    newer = [] if told or kernel_says or live else _newer_on_disk(evidence, module)
    if not (told or kernel_says or live or newer):
        return
    quotes = [*live, *(hit.quote() for hit in (*told[:3], *kernel_says[:1], *newer[:1]))]
    quotes += [hit.quote() for hit in evidence.hits(kernel.MODULE_VERSION, cuda.LIBRARY_VERSION)[:2]]
    figures = (
        f" The module is {module}, the library {library}." if module and library and module != library else ""
    )
    yield Finding(
        cause="driver_library_mismatch",
        title="The NVIDIA libraries and the loaded kernel module are of different versions"
        + (f" ({library} and {module})" if figures else ""),
        severity=Severity.CRITICAL if told or live else Severity.WARNING,
        confidence=0.95 if told or live else 0.6 if newer else _kernel_only(evidence, kernel_says),
        evidence=tuple(dict.fromkeys(quotes))[:5],
        why="The driver was upgraded on disk while the old module stays loaded: programs that run go "
        "on, new ones "
        f"fail.{figures}",
        remedy=REMEDY,
        ruled_out=(
            RuledOut(cause="uvm_module_broken", why="nvidia-smi would work and CUDA would say 999."),
            RuledOut(
                cause="container_toolkit_or_driver_missing",
                why="The toolkit runs and finds a driver; it is the driver that refuses.",
            ),
        ),
    )


def _unique(hits: list[Hit]) -> list[Hit]:
    return list({hit.entry.place: hit for hit in hits}.values())


def _is_over(evidence: Evidence, hit: Hit) -> bool:
    """A boot, a working nvidia-smi or a GPU in use came after it."""
    later = evidence.hits(kernel.BOOT, cuda.SMI_WORKS)
    return (
        any(where.comes_after(one.entry, hit.entry) for one in later)
        or where.gpu_after(evidence, hit.entry) is not None
    )


def _kernel_only(evidence: Evidence, hits: list[Hit]) -> float:
    """One client alone may bring other libraries along, as a container or a sandbox does."""
    used = evidence.hits(kernel.XID)  # a process worked on the card after it
    if any(where.comes_after(one.entry, hit.entry) for one in used for hit in hits):
        return 0.4
    return 0.4 if evidence.has(cuda.SMI_WORKS) or where.any_gpu(evidence) else 0.75


def _newer_on_disk(evidence: Evidence, module: str) -> list[Hit]:
    """What modinfo or the package manager names, where it is not what is loaded and nothing works."""
    if not module or evidence.has(cuda.SMI_WORKS) or where.any_gpu(evidence):
        return []
    return [hit for hit in evidence.hits(INSTALLED) if (hit["module"] or hit["package"]) != module]


def _live(evidence: Evidence) -> list[Quote]:
    module = evidence.reading("driver.module_version")
    library = evidence.reading("driver.library_version")
    status = evidence.reading("nvml.status")
    if status is not None and status.value == "LIB_RM_VERSION_MISMATCH":
        rows = (status, module, library)
    elif status is not None and status.value == "ok":
        return []
    elif module is not None and library is not None and _differ(module.value, library.value):
        rows = (module, library, status)
    else:
        return []
    return [evidence.quote_reading(row) for row in rows if row is not None and row.value is not None]


def _differ(module: object, library: object) -> bool:
    return (
        isinstance(module, str)
        and isinstance(library, str)
        and bool(module and library)
        and module != library
    )


def _versions(evidence: Evidence) -> tuple[str, str]:
    module, library = (
        evidence.value("driver.module_version") or "",
        evidence.value("driver.library_version") or "",
    )
    for hit in evidence.hits(kernel.MODULE_VERSION):
        module = module or hit["module"] or hit["nvrm"] or hit["proc"]
    for hit in evidence.hits(cuda.LIBRARY_VERSION):
        library = library or hit["library"]
    for hit in evidence.hits(kernel.API_MISMATCH):
        library = library or hit["client"]
    return module, library


RULE = Rule(
    slug="driver_library_mismatch",
    title="Driver and library versions differ",
    area="gpu",
    meaning="An upgrade, often an unattended one, replaced the NVIDIA libraries while the old "
    "kernel module is "
    "still loaded. What runs goes on; nothing new can use the GPU until the modules are loaded anew.",
    signature=(
        "Failed to initialize NVML: Driver/library version mismatch",
        "nvidia-container-cli: initialization error: nvml error: driver/library version mismatch",
        "NVRM: API mismatch: the client has the version …",
        "system has unsupported display driver / cuda driver combination (803)",
        "version mismatch between driver and cuda driver library - reboot or upgrade may be required",
    ),
    certain="/proc/driver/nvidia/version and the version in the name of libnvidia-ml.so are not the same.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="driver_too_old", how="The driver works; it only can't serve the CUDA that is asked for."
        ),
        LookAlike(cause="driver_not_loaded", how="No module is loaded at all: «couldn't communicate»."),
        LookAlike(cause="uvm_module_broken", how="nvidia-smi works; CUDA says 999."),
    ),
    check=check,
    signs=(INSTALLED, *where.SIGNS),
    readings=("nvml.status", "driver.module_version", "driver.library_version"),
    explains=(
        "gpu_not_visible",
        "uvm_module_broken",
        "gpu_discovery_timeout",
        "container_toolkit_or_driver_missing",
        "container_started_without_gpu",
        "container_gpu_lost_cgroup",
    ),
    overrules=(
        "gpu_not_visible",
        "uvm_module_broken",
        "driver_not_loaded",
        "driver_too_old",
        "container_toolkit_or_driver_missing",
    ),
)
