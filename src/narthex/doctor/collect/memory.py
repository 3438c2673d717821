"""Main memory and swap, and whom the kernel ended for want of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.docker_view import WAIT_S, docker_view
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.host.limits import memory_limit
from narthex.units import format_size

NAME = "memory"
TIME_S = WAIT_S

_CGROUPS = "/sys/fs/cgroup"
_DEEPEST = 8  # levels of groups: kubepods/burstable/pod…/… has six
_MOST = 4000  # groups that are looked at
_CONTAINER = re.compile(r"[0-9a-f]{64}")
_OURS = re.compile(r"ollama|llama|comfy|web-?ui", re.IGNORECASE)
_ENDED = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_FILES = ("memory.events.local", "memory.events", "memory.oom_control")  # version 2, older, version 1


def collect(scope: Scope) -> Collected:
    """What there is, and the kernel's own counters since it was started."""
    ram = _ram(scope)
    facts = []
    if ram.value is not None:
        facts.append(Fact(text=f"Memory: {ram.text}."))
    return Collected(readings=(ram, _machine(scope), *_groups(scope)), facts=tuple(facts))


def _ram(scope: Scope) -> Reading:
    text = scope.read("/proc/meminfo")
    if text is None:
        return gap("ram", "/proc/meminfo can't be read")
    rows = {line.partition(":")[0]: line.partition(":")[2].split() for line in text.splitlines()}
    size = {name: int(words[0]) * 1024 for name, words in rows.items() if words and words[0].isdecimal()}
    total, available = size.get("MemTotal", 0), size.get("MemAvailable", size.get("MemFree", 0))
    limit = memory_limit() if scope.is_this_machine else None
    within = ""
    if limit is not None and limit[0] < total:
        total, available = limit[0], min(available, limit[1])
        within = " (the limit of the group that narthex runs in)"
    swap, swap_free = size.get("SwapTotal", 0), size.get("SwapFree", 0)
    swapped = f"{format_size(swap - swap_free)} of {format_size(swap)} swap in use" if swap else "no swap"
    return Reading(
        name="ram",
        value={
            "total_bytes": total,
            "available_bytes": available,
            "swap_total_bytes": swap,
            "swap_free_bytes": swap_free,
        },
        text=f"{format_size(available)} of {format_size(total)} available{within}, {swapped}",
    )


def _machine(scope: Scope) -> Reading:
    found = _ENDED.search(scope.read("/proc/vmstat") or "")
    if found is None:
        return gap(
            "kernel.oom_kills", "/proc/vmstat does not count them (kernels before 4.13)", "this machine"
        )
    text = f"/proc/vmstat counts {_ended(int(found[1]))} since the machine was started"
    return Reading(name="kernel.oom_kills", value=int(found[1]), text=text, about="this machine")


def _ended(count: int) -> str:
    """In words of our own: a count of zero must not read like a line of the oom-killer."""
    return f"{count} {'process' if count == 1 else 'processes'} ended for want of memory"


def _groups(scope: Scope) -> Iterator[Reading]:
    """Groups in which a process was ended. A group's own count: that of the groups below it is theirs."""
    base = scope.path(_CGROUPS)
    for folder, kind in _folders(base):
        try:
            found = _ENDED.search((folder / kind).read_text())
        except OSError:
            continue
        if found is None or not int(found[1]):
            continue
        name, ours = _whose(scope, folder)
        shown = f"{_CGROUPS}/{folder.relative_to(base)}/{kind}"
        text = f"{name}: {shown} counts {_ended(int(found[1]))} since the group was made"
        key = "cgroup.oom_kills" if ours else "kernel.oom_kills"
        yield Reading(name=key, value=int(found[1]), text=text, about=name)


def _folders(base: Path) -> Iterator[tuple[Path, str]]:
    left = _MOST
    for name, below, files in os.walk(base):
        folder = Path(name)
        if len(folder.relative_to(base).parts) >= _DEEPEST:
            below.clear()
        kind = next((kind for kind in _FILES if kind in files), None)
        if kind is not None and folder != base:
            yield folder, kind
        left -= 1
        if left <= 0:
            return


def _whose(scope: Scope, folder: Path) -> tuple[str, bool]:
    """(the unit's or container's name, whether it belongs to the stack)."""
    found = _CONTAINER.search(folder.name)
    if found is None:
        return folder.name, _OURS.search(folder.name) is not None
    containers = {each.id: each for each in docker_view(scope).containers}
    container = containers.get(found[0])
    return (container.name, container.role != "other") if container else (found[0][:12], False)
