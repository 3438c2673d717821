"""Kernel modules: which GPU drivers are loaded, and whether one is there to be loaded."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.pci import find_cards
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact

NAME = "kernel modules"
TIME_S = 1.0

_MODULES = ("nvidia", "nvidia_uvm", "nouveau")
_LIST = "/proc/modules"
_PARAMS = "/proc/driver/nvidia/params"
_SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"  # the EFI specification's GUID
_NO_MODULES = f"there is no {_LIST}: this kernel loads no modules, or hides them"


def collect(scope: Scope) -> Collected:
    """From /proc/modules; /sys/module knows those that are built into the kernel, too."""
    listed = scope.read(_LIST)
    amd = any(card.vendor == "amd" for card in find_cards(scope) or ())
    readings = [_module(scope, name, listed) for name in (*_MODULES, *(("amdgpu",) if amd else ()))]
    params = scope.read(_PARAMS)
    if params is not None:
        readings.append(Reading(name="nvidia.params", value=_rows(params), text=_said(params)))
    nvidia, uvm = (row.value for row in readings[:2])
    if nvidia is not True and listed is not None:
        readings.extend((_on_disk(scope), _secure_boot(scope)))
    facts = [Fact(text="The kernel modules nvidia and nvidia_uvm are loaded.")] if nvidia and uvm else []
    return Collected(readings=tuple(readings), facts=tuple(facts))


def _module(scope: Scope, name: str, listed: str | None) -> Reading:
    key = f"module.{name}"
    for row in (listed or "").splitlines():
        fields = row.split()
        if fields and fields[0] == name:
            return Reading(name=key, value=len(fields) < 5 or fields[4] == "Live", text=_shown(row))
    if scope.has(f"/sys/module/{name}"):
        return Reading(name=key, value=True, text=f"/sys/module/{name} is there: {name} is in the kernel")
    if listed is None:
        return gap(key, _NO_MODULES)
    return Reading(name=key, value=False, text=f"{name} is not in {_LIST}")


def _shown(row: str) -> str:
    """Without the address in memory, which is nobody's business and zero without root."""
    fields = row.split()
    return " ".join((f"{_LIST}:", *fields[:5], *fields[6:]))


def _rows(text: str) -> dict[str, str]:
    split = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip().strip('"') for name, colon, value in split if colon}


def _said(text: str) -> str:
    """Of the parameters those that decide about suspend and power."""
    wanted = ("PreserveVideoMemoryAllocations", "DynamicPowerManagement", "EnableS0ixPowerManagement")
    rows = _rows(text)
    told = ", ".join(f"{name}: {rows[name]}" for name in wanted if name in rows)
    return f"{_PARAMS}: {told or 'read'}"


def _on_disk(scope: Scope) -> Reading:
    """Whether the driver was built for the kernel that runs."""
    key = "module.nvidia_file"
    kernel = (scope.read("/proc/sys/kernel/osrelease") or platform.release()).strip()
    folders = [f"{base}/modules/{kernel}" for base in ("/lib", "/usr/lib")]
    listing = next((text for folder in folders if (text := scope.read(f"{folder}/modules.dep"))), None)
    if listing is None:
        return gap(key, f"there is no list of modules for the running kernel {kernel}")
    found = next((path for path in _paths(listing) if _is_nvidia(path)), "")
    if found:
        return Reading(name=key, value=True, text=f"a module for kernel {kernel} is on the disk: {found}")
    return Reading(
        name=key, value=False, text=f"no nvidia module on the disk for the running kernel {kernel}"
    )


def _paths(listing: str) -> Iterator[str]:
    return (line.partition(":")[0] for line in listing.splitlines())


def _is_nvidia(path: str) -> bool:
    return path.rpartition("/")[2].partition(".")[0] in ("nvidia", "nvidia-current")


def _secure_boot(scope: Scope) -> Reading:
    path = f"/sys/firmware/efi/efivars/{_SECURE_BOOT}"
    try:
        raw = scope.path(path).read_bytes()  # four bytes of attributes, then the value
    except FileNotFoundError:
        return Reading(name="secure_boot", value=False, text="the firmware tells of no Secure Boot")
    except OSError as error:
        return gap("secure_boot", f"{path} can't be read: {error.strerror}")
    on = len(raw) > 4 and raw[4] == 1
    return Reading(name="secure_boot", value=on, text=f"Secure Boot is {'on' if on else 'off'}")
