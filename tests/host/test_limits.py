"""Cores and memory are what this process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narthex.host import limits


def test_affinity_limits_the_cores() -> None:
    all_cpus = limits.usable_cpus()
    one = frozenset({min(all_cpus)})
    try:
        os.sched_setaffinity(0, one)
        assert limits.usable_cpus() == one
        assert limits.logical_cores() == 1
        assert limits.physical_cores() in (1, None)
    finally:
        os.sched_setaffinity(0, all_cpus)


def test_there_are_no_more_physical_cores_than_logical_ones() -> None:
    physical = limits.physical_cores()
    if physical is None:
        pytest.skip("this kernel does not tell the topology")
    assert 1 <= physical <= limits.logical_cores()


def test_this_processs_cgroup_folders_exist_and_go_upwards() -> None:
    folders = limits.cgroup_folders("memory")
    assert all(folder.is_dir() for folder in folders)
    assert [len(folder.parts) for folder in folders] == sorted(
        (len(folder.parts) for folder in folders), reverse=True
    )


def test_a_processs_ceiling_is_that_of_its_cgroups() -> None:
    room = limits.memory_limit()
    ceiling = limits.memory_ceiling(os.getpid())
    assert (ceiling is None) == (room is None)
    assert ceiling is None or (room is not None and ceiling <= room[0])


def test_a_process_that_is_gone_has_no_ceiling() -> None:
    assert limits.memory_ceiling(2**22 + 1) is None


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.cfs_quota_us": "400000\n", "cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_quota_is_read_in_both_versions(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert limits.quota_of(tmp_path) == quota


@pytest.mark.parametrize(
    ("files", "room"),
    [
        (
            {"memory.max": "1000", "memory.current": "900", "memory.stat": "anon 1\ninactive_file 200\n"},
            (1000, 300),
        ),
        ({"memory.max": "max", "memory.current": "900"}, None),
        (
            {
                "memory.limit_in_bytes": "1000",
                "memory.usage_in_bytes": "400",
                "memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
            },
            (1000, 700),
        ),
        ({"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "400"}, None),
        ({}, None),
    ],
)
def test_a_memory_limit_is_read_in_both_versions(
    tmp_path: Path, files: dict[str, str], room: tuple[int, int] | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert limits.room_of(tmp_path) == room
