"""Device nodes of GPUs: there, and to be opened for reading and writing by this user."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.pci import find_cards
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact

NAME = "GPU device nodes"
TIME_S = 2.0

_ALWAYS = ("/dev/nvidiactl", "/dev/nvidia-uvm")  # every CUDA program opens them
_MINOR = re.compile(r"^Device Minor:\s*(\d+)", re.MULTILINE)


def collect(scope: Scope) -> Collected:
    """Opened without waiting and closed at once. Nodes of a vendor without card or driver are not looked
    for, and no node of a card that has fallen off: that open can hang in the kernel."""
    readings = tuple(_look(scope, path) for path in dict.fromkeys((*_nvidia(scope), *_amd(scope))))
    well = {row.about for row in readings if row.value == "ok"}
    facts = []
    if well.issuperset(_ALWAYS) and all(row.value == "ok" for row in readings):
        facts.append(Fact(text=f"The NVIDIA device nodes open for reading and writing: {_list(well)}."))
    return Collected(readings=readings, facts=tuple(facts))


def _nvidia(scope: Scope) -> Iterator[str]:
    cards = [card for card in find_cards(scope) or () if card.vendor == "nvidia"]
    loaded = scope.has("/proc/driver/nvidia")
    if not loaded and not any(card.driver in ("", "nvidia") for card in cards):
        yield from (path for path in _ALWAYS if scope.has(path))
        return
    yield from _ALWAYS
    if any(card.fallen_off for card in cards):
        return
    gpus = "/proc/driver/nvidia/gpus"
    for address in scope.names(gpus):
        if found := _MINOR.search(scope.read(f"{gpus}/{address}/information") or ""):
            yield f"/dev/nvidia{found[1]}"


def _amd(scope: Scope) -> Iterator[str]:
    if not any(card.driver == "amdgpu" and not card.fallen_off for card in find_cards(scope) or ()):
        return
    yield "/dev/kfd"
    yield from (f"/dev/dri/{name}" for name in scope.names("/dev/dri") if name.startswith("renderD"))


def _look(scope: Scope, path: str) -> Reading:
    try:
        scope.open_device(scope.path(path))
    except FileNotFoundError:
        return _said(path, "missing", f"{path} does not exist")
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, str(error.errno))
        why = f"{os.strerror(error.errno or 0)} ({code})"
        text = f"{path} can't be opened for reading and writing: {why}{_way_in(scope.path(path), code)}"
        return _said(path, code, text)
    return _said(path, "ok", f"{path} opens for reading and writing")


def _way_in(path: Path, code: str) -> str:
    """Of a node that this user may not open: whose it is."""
    if code not in ("EACCES", "EPERM"):
        return ""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"; its mode is {stat.filemode(found.st_mode)}, its group {_group(found.st_gid)}"


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _said(path: str, value: str, text: str) -> Reading:
    return Reading(name="device.node", value=value, text=text, about=path)


def _list(paths: set[str]) -> str:
    return ", ".join(sorted(paths))
