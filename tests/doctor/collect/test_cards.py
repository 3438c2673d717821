"""Modules, cards, device nodes, driver and processor of recorded hosts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narthex.doctor.collect import devices, driver, modules, pci, processor
from narthex.doctor.collect.gather import Collected, Scope
from narthex.doctor.collect.scope import open_device

Host = Callable[..., Scope]


def value(found: Collected, name: str, about: str = "") -> Any:
    (row,) = [row for row in found.readings if row.name == name and row.about == about]
    return row.value


def text(found: Collected, name: str, about: str = "") -> str:
    (row,) = [row for row in found.readings if row.name == name and row.about == about]
    return row.text or row.gap


def facts(found: Collected) -> list[str]:
    return [fact.text for fact in found.facts]


def test_a_healthy_host_is_told_in_facts(host: Host) -> None:
    scope = host("healthy")
    found = modules.collect(scope)
    assert value(found, "module.nvidia") is value(found, "module.nvidia_uvm") is True
    assert value(found, "module.nouveau") is False
    assert text(found, "module.nvidia_uvm") == "/proc/modules: nvidia_uvm 1789952 2 - Live (POE)"
    assert value(found, "nvidia.params")["DynamicPowerManagement"] == "3"
    assert "PreserveVideoMemoryAllocations: 0" in text(found, "nvidia.params")
    assert facts(found) == ["The kernel modules nvidia and nvidia_uvm are loaded."]
    assert facts(driver.collect(scope)) == [
        "NVIDIA driver 550.54.14: the loaded module and the library agree."
    ]
    assert facts(devices.collect(scope)) == [
        "The NVIDIA device nodes open for reading and writing: /dev/nvidia-uvm, /dev/nvidia0, /dev/nvidiactl."
    ]
    assert facts(pci.collect(scope)) == ["The NVIDIA card 0000:01:00.0 answers and has the driver nvidia."]


def test_cards_are_counted_by_vendor_and_their_sound_devices_are_not(host: Host) -> None:
    found = pci.collect(host("healthy"))
    assert value(found, "pci.nvidia") == 1
    assert value(found, "pci.intel") == 1
    assert value(found, "pci.amd") == 0
    assert text(found, "pci.nvidia") == "1 NVIDIA display controller on the PCI bus: 0000:01:00.0"
    assert value(found, "gpu.power", "0000:00:02.0") == "suspended"
    card = value(found, "pci.card", "0000:01:00.0")
    assert (card["device"], card["driver"], card["fallen_off"]) == ("0x27b2", "nvidia", False)


def test_a_sleeping_card_is_not_woken(host: Host) -> None:
    scope = host("healthy")
    asleep = scope.path("/sys/bus/pci/devices/0000:01:00.0/power/runtime_status")
    asleep.write_text("suspended\n")
    scope.path("/sys/bus/pci/devices/0000:01:00.0/config").write_bytes(b"\xff" * 64)
    assert value(pci.collect(scope), "pci.card", "0000:01:00.0")["fallen_off"] is None


def test_a_module_that_nobody_loaded(host: Host) -> None:
    scope = host("uvm_missing")
    found = modules.collect(scope)
    assert value(found, "module.nvidia") is True
    assert value(found, "module.nvidia_uvm") is False
    assert text(found, "module.nvidia_uvm") == "nvidia_uvm is not in /proc/modules"
    nodes = devices.collect(scope)
    assert value(nodes, "device.node", "/dev/nvidia-uvm") == "missing"
    assert text(nodes, "device.node", "/dev/nvidia-uvm") == "/dev/nvidia-uvm does not exist"
    assert not facts(found)
    assert not facts(nodes)


def test_a_stale_uvm_node_is_told_with_its_error(host: Host) -> None:
    def refuse(path: Path) -> None:
        if path.name == "nvidia-uvm":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        open_device(path)

    found = devices.collect(host("healthy", open_device=refuse))
    assert value(found, "device.node", "/dev/nvidia-uvm") == "EIO"
    assert text(found, "device.node", "/dev/nvidia-uvm") == (
        "/dev/nvidia-uvm can't be opened for reading and writing: Input/output error (EIO)"
    )
    assert value(found, "device.node", "/dev/nvidiactl") == "ok"
    assert not facts(found)


def test_a_node_that_this_user_may_not_open_tells_whose_it_is(host: Host) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    found = devices.collect(host("healthy", open_device=refuse))
    assert value(found, "device.node", "/dev/nvidiactl") == "EACCES"
    assert "Permission denied (EACCES); its mode is -rw" in text(found, "device.node", "/dev/nvidiactl")


def test_a_node_without_a_driver_behind_it(host: Host) -> None:
    scope = host("healthy")
    node = scope.path("/dev/nvidia-uvm")
    node.unlink()
    with socket.socket(socket.AF_UNIX) as behind:  # open() of a socket fails as that of a lost device: ENXIO
        here = os.getcwd()
        os.chdir(node.parent)
        try:
            behind.bind(node.name)
        finally:
            os.chdir(here)
        assert value(devices.collect(scope), "device.node", "/dev/nvidia-uvm") == "ENXIO"


def test_nodes_of_a_card_that_fell_off_are_left_alone(host: Host) -> None:
    opened: list[str] = []
    scope = host("fallen_off", open_device=lambda path: opened.append(path.name))
    found = pci.collect(scope)
    assert value(found, "pci.card", "0000:01:00.0")["fallen_off"] is True
    assert "its registers read ff (rev ff)" in text(found, "pci.card", "0000:01:00.0")
    assert not facts(found)
    devices.collect(scope)
    assert sorted(opened) == ["nvidia-uvm", "nvidiactl"]


def test_revision_ff_is_enough(host: Host) -> None:
    scope = host("healthy")
    scope.path("/sys/bus/pci/devices/0000:01:00.0/revision").write_text("0xff\n")
    assert value(pci.collect(scope), "pci.card", "0000:01:00.0")["fallen_off"] is True


def test_module_and_library_of_two_versions(host: Host) -> None:
    found = driver.collect(host("driver_mismatch"))
    assert value(found, "driver.module_version") == "550.54.14"
    assert value(found, "driver.library_version") == "550.90.07"
    assert text(found, "driver.library_version") == "libnvidia-ml.so.1 is libnvidia-ml.so.550.90.07"
    assert not facts(found)


def test_the_open_module_names_its_version_elsewhere_in_the_line(host: Host) -> None:
    scope = host("healthy")
    scope.path("/proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  "
        "(dvs-builder@U22-I3-AE18-23-3)  Sun Jul 27 07:20:03 UTC 2025\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    assert value(driver.collect(scope), "driver.module_version") == "580.65.06"


def test_nouveau_holds_the_card_and_secure_boot_is_on(host: Host) -> None:
    scope = host("nouveau")
    found = modules.collect(scope)
    assert value(found, "module.nvidia") is False
    assert value(found, "module.nouveau") is True
    assert value(found, "secure_boot") is True
    assert value(found, "module.nvidia_file") is False
    assert "no nvidia module on the disk for the running kernel 6.5.0-44-generic" in text(
        found, "module.nvidia_file"
    )
    assert value(pci.collect(scope), "pci.card", "0000:01:00.0")["driver"] == "nouveau"
    assert devices.collect(scope).readings == ()
    assert text(driver.collect(scope), "driver.library_version") == (
        "can't tell, because no libnvidia-ml.so.1 is found"
    )


def test_a_driver_that_is_installed_and_not_loaded(host: Host) -> None:
    scope = host("not_loaded")
    found = modules.collect(scope)
    assert value(found, "module.nvidia") is False
    assert value(found, "module.nvidia_file") is True
    assert value(pci.collect(scope), "pci.card", "0000:01:00.0")["driver"] == ""
    assert value(devices.collect(scope), "device.node", "/dev/nvidia-uvm") == "missing"


def test_a_host_without_nvidia_is_not_asked_for_its_nodes(host: Host) -> None:
    scope = host("no_nvidia")
    assert value(pci.collect(scope), "pci.nvidia") == 0
    assert devices.collect(scope).readings == ()
    assert value(modules.collect(scope), "module.nvidia") is False


def test_an_amd_card_has_its_own_nodes(host: Host) -> None:
    scope = host("amd")
    nodes = devices.collect(scope)
    assert [row.about for row in nodes.readings] == ["/dev/kfd", "/dev/dri/renderD128"]
    assert value(modules.collect(scope), "module.amdgpu") is True
    memory = value(pci.collect(scope), "gpu.memory", "0000:03:00.0")
    assert (memory["total_bytes"], memory["used_bytes"]) == (25753026560, 1 << 30)
    assert facts(pci.collect(scope)) == ["The AMD card 0000:03:00.0 answers and has the driver amdgpu."]


def test_a_machine_that_hides_everything_says_so(tmp_path: Path) -> None:
    scope = Scope(root=tmp_path)
    assert "there is no /proc/modules" in text(modules.collect(scope), "module.nvidia_uvm")
    assert "there is no /sys/bus/pci/devices" in text(pci.collect(scope), "pci.nvidia")
    assert text(processor.collect(scope), "cpu.flags") == "can't tell, because /proc/cpuinfo can't be read"
    assert devices.collect(scope).readings == ()


def test_the_flags_of_the_processor(host: Host) -> None:
    scope = host("healthy")
    assert value(processor.collect(scope), "cpu.flags") == ["avx", "avx2", "f16c", "fma", "bmi2", "sse4_2"]
    scope.path("/proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm\n")
    assert "this is no x86 processor" in text(processor.collect(scope), "cpu.flags")
    scope.path("/proc/cpuinfo").write_text("flags\t: fpu vme\n")
    assert value(processor.collect(scope), "cpu.flags") == []
