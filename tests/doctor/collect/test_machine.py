"""Memory, disks, kernel log and proxies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engines.ollama.little import little_ollama

from narthex.doctor.collect import disks, kernel_log, memory, proxies
from narthex.doctor.collect.gather import Collected, Scope
from narthex.testing.fake_docker import FakeDocker

from .boxes import box

Host = Callable[..., Scope]


def row(found: Collected, name: str, about: str = "") -> Any:
    (reading,) = [row for row in found.readings if row.name == name and row.about == about]
    return reading


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name, before all others on the path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_memory_and_swap(host: Host) -> None:
    found = memory.collect(host("healthy"))
    ram = row(found, "ram")
    assert ram.value["total_bytes"] == 65697228 * 1024
    assert ram.value["swap_free_bytes"] == 2097148 * 1024
    assert ram.text == "50.1 GiB of 62.7 GiB available, 0 KiB of 2.00 GiB swap in use"
    assert row(found, "kernel.oom_kills", "this machine").value == 0
    assert [fact.text for fact in found.facts] == [f"Memory: {ram.text}."]


def test_who_was_ended_for_memory_is_named_by_unit_and_container(fake_docker: FakeDocker, host: Host) -> None:
    told = box("comfyui") | {"Id": "4f1c9f0f8a1b2c3d4e5f60718293a4b5c6d7e8f90112233445566778899aabbc"}
    fake_docker.add(told, start=False)
    found = memory.collect(host("killed_for_memory"))
    assert row(found, "kernel.oom_kills", "this machine").value == 4
    unit = row(found, "cgroup.oom_kills", "ollama.service")
    assert unit.value == 1
    assert "system.slice/ollama.service/memory.events counts 1 process ended" in unit.text
    assert row(found, "cgroup.oom_kills", "comfyui").value == 2
    assert row(found, "kernel.oom_kills", "firefox.scope").value == 1  # not of this stack


@pytest.mark.usefixtures("no_docker")
def test_a_container_that_nobody_can_name_is_not_taken_for_one_of_the_stack(host: Host) -> None:
    found = memory.collect(host("killed_for_memory"))
    assert row(found, "kernel.oom_kills", "4f1c9f0f8a1b").value == 2


def test_a_kernel_that_counts_nothing(tmp_path: Path) -> None:
    found = memory.collect(Scope(root=tmp_path))
    assert row(found, "ram").gap == "can't tell, because /proc/meminfo can't be read"
    assert "/proc/vmstat does not count them" in row(found, "kernel.oom_kills", "this machine").gap


@pytest.mark.usefixtures("no_docker")
def test_the_folders_that_are_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "models"
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    found = disks.collect(Scope())
    disk = row(found, "disk", str(store))  # not there yet: the folder above it counts
    told = os.statvfs(tmp_path)
    assert disk.value["total_bytes"] == told.f_blocks * told.f_frsize
    assert disk.value["what"] == "Ollama's models"
    assert disk.value["read_only"] is False
    assert disk.text.startswith(f"{store} (Ollama's models): ")
    assert {each.value["what"] for each in found.readings} >= {"narthex' state", "temporary files"}


@pytest.mark.usefixtures("no_docker")
def test_a_store_that_only_its_server_names(tmp_path: Path) -> None:
    with little_ollama(env={"OLLAMA_MODELS": str(tmp_path)}):  # no store yet, so nothing else shows it
        disk = row(disks.collect(Scope()), "disk", str(tmp_path))
    assert disk.value["what"] == "Ollama's models"


@pytest.mark.usefixtures("no_docker")
def test_a_disk_that_is_mounted_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    read_only = [words[1] for words in mounts if "ro" in words[3].split(",") and os.path.isdir(words[1])]
    if not read_only:
        pytest.skip("nothing is mounted read-only here")
    monkeypatch.setenv("OLLAMA_MODELS", read_only[0])
    disk = row(disks.collect(Scope()), "disk", read_only[0])
    assert disk.value["read_only"] is True
    assert disk.text.endswith(", mounted read-only")


def test_models_of_a_container_are_on_a_disk_of_this_machine(fake_docker: FakeDocker, tmp_path: Path) -> None:
    mount = {"Type": "bind", "Source": str(tmp_path), "Destination": "/root/.ollama"}
    fake_docker.add(box("ollama", Mounts=[mount]), start=False)
    disk = row(disks.collect(Scope()), "disk", str(tmp_path))
    assert "Ollama's models in container ollama" in disk.value["what"]


def test_the_kernels_journal_is_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "journalctl", 'echo "2026-11-22T10:00:00+0000 host kernel: NVRM: $*"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (text,) = kernel_log.collect(Scope()).texts
    assert (text.kind, text.name) == ("dmesg", "journalctl -k")
    assert b"NVRM: --boot --dmesg --no-pager --quiet" in text.data
    (text,) = kernel_log.collect(Scope(since=1_700_000_000.5)).texts
    assert b"_TRANSPORT=kernel --since=@1700000000" in text.data


def test_where_the_journal_shows_nothing_the_ring_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "journalctl", "exit 0")
    program(
        tmp_path,
        "dmesg",
        "echo '2026-11-22T10:00:00,000001+00:00 early'; echo '2026-11-22T11:00:00,000001+00:00 late'",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (text,) = kernel_log.collect(Scope()).texts
    assert (text.name, text.data.count(b"\n")) == ("dmesg", 2)
    (text,) = kernel_log.collect(Scope(since=1795343400.0)).texts  # 10:30
    assert text.data == b"2026-11-22T11:00:00,000001+00:00 late\n"


def test_a_ring_without_times_of_day_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "journalctl", "exit 1")
    program(tmp_path, "dmesg", '[ $# -gt 0 ] && { echo "unknown option" >&2; exit 1; }; echo "[ 1.0] NVRM"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (text,) = kernel_log.collect(Scope()).texts
    assert text.data == b"[ 1.0] NVRM\n"


def test_who_may_not_read_the_kernels_log_is_told_what_root_would_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "journalctl", 'echo "Hint: You are currently not seeing messages" >&2')
    program(tmp_path, "dmesg", 'echo "dmesg: read kernel buffer failed: Operation not permitted" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = kernel_log.collect(Scope())
    assert not found.texts
    (gap,) = found.skipped
    assert gap.why == (
        "can't tell, because this user may read neither the kernel's journal nor dmesg; as root, or in the "
        "group systemd-journal (adm on Debian and Ubuntu), narthex would see it"
    )


def test_a_reader_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "_PART_S", 0.2)
    program(tmp_path, "journalctl", "sleep 300")
    program(tmp_path, "dmesg", "sleep 300")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (gap,) = kernel_log.collect(Scope()).skipped
    assert gap.why == "can't tell, because reading the kernel's log took too long"


@pytest.mark.usefixtures("no_docker")
def test_proxies_of_this_shell_without_their_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in proxies.NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    nothing = row(proxies.collect(Scope()), "proxy", "this shell")
    assert (nothing.value, nothing.text) == ({}, "this shell: no proxy is set")
    monkeypatch.setenv("HTTP_PROXY", "http://anna:hunter2@proxy.example:3128")
    monkeypatch.setenv("https_proxy", "anna:hunter2@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    found = row(proxies.collect(Scope()), "proxy", "this shell")
    assert "proxy.example:3128" in found.value["HTTP_PROXY"]
    assert found.value["https_proxy"] == "proxy.example:3128"
    assert found.value["NO_PROXY"] == "localhost,127.0.0.1"
    assert "hunter2" not in str(found)


def test_proxies_of_the_engine_and_of_containers(fake_docker: FakeDocker) -> None:
    fake_docker.info = {"HttpProxy": "http://proxy.example:3128"}
    fake_docker.add(box("ollama", env=["HTTPS_PROXY=http://u:pw@proxy.example:1"]), start=False)
    found = proxies.collect(Scope())
    assert row(found, "proxy", "the Docker engine").value == {"HTTP_PROXY": "http://proxy.example:3128"}
    assert "pw" not in row(found, "proxy", "ollama").text
