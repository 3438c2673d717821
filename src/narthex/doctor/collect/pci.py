"""Graphics cards on the PCI bus, as /sys shows them: also one without a driver, or fallen off the bus."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.units import format_count, format_size

NAME = "graphics cards on the PCI bus"
TIME_S = 1.0

VENDORS = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_NAMES = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}
_FOLDER = "/sys/bus/pci/devices"
_DISPLAY = ("0x0300", "0x0302", "0x0380")  # VGA, 3D, other display controller
_AWAY = b"\xff" * 4  # what a device that no longer answers is read as


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """One display controller."""

    address: str  # "0000:01:00.0"
    vendor: str
    device: str  # "0x27b2"
    driver: str  # "" without one
    fallen_off: bool | None  # None: asleep, or it can't be read
    runtime_status: str  # "active", "suspended", "" unknown
    vram_total_bytes: int = 0  # as the driver amdgpu tells; 0 with another
    vram_used_bytes: int = 0


def find_cards(scope: Scope) -> list[Card] | None:
    """Cards of the three vendors, by address; None where this machine shows no PCI bus."""
    return scope.once("pci", lambda: _look(scope))


def collect(scope: Scope) -> Collected:
    """What is on the bus, and whether it answers."""
    cards = find_cards(scope)
    if cards is None:
        why = f"there is no {_FOLDER}: a container without /sys, or a machine without a PCI bus"
        return Collected(readings=tuple(gap(f"pci.{vendor}", why) for vendor in _NAMES))
    counts = [_count(vendor, cards) for vendor in _NAMES]
    rows = [reading for card in cards for reading in _readings(card)]
    return Collected(readings=(*counts, *rows), facts=tuple(_facts(cards)))


def _look(scope: Scope) -> list[Card] | None:
    folder = scope.path(_FOLDER)
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return None
    return [card for path in found if (card := _card(path)) is not None]


def _card(path: Path) -> Card | None:
    vendor = VENDORS.get(_line(path / "vendor"))
    if vendor is None or not _line(path / "class").startswith(_DISPLAY):
        return None
    status = _line(path / "power" / "runtime_status")
    return Card(
        address=path.name,
        vendor=vendor,
        device=_line(path / "device"),
        driver=_driver(path),
        fallen_off=_fallen_off(path, status),
        runtime_status=status,
        vram_total_bytes=_number(path / "mem_info_vram_total"),
        vram_used_bytes=_number(path / "mem_info_vram_used"),
    )


def _fallen_off(path: Path, status: str) -> bool | None:
    """A card that is gone reads as ones everywhere; /sys keeps the identity of old, so its registers are
    read. One that sleeps is not read, that would wake it."""
    if _line(path / "revision") == "0xff":
        return True
    if status in ("suspended", "suspending"):
        return None
    try:
        with (path / "config").open("rb") as file:
            return file.read(4) == _AWAY
    except OSError:
        return None


def _driver(path: Path) -> str:
    try:
        return (path / "driver").readlink().name
    except OSError:
        return ""


def _count(vendor: str, cards: Iterable[Card]) -> Reading:
    found = [card.address for card in cards if card.vendor == vendor]
    where = f": {', '.join(found)}" if found else ""
    text = f"{format_count(len(found), f'{_NAMES[vendor]} display controller')} on the PCI bus{where}"
    return Reading(name=f"pci.{vendor}", value=len(found), text=text)


def _readings(card: Card) -> list[Reading]:
    name = f"{_NAMES[card.vendor]} card {card.address} ({card.device})"
    driver = f"driver {card.driver}" if card.driver else "no driver"
    state = f", power {card.runtime_status}" if card.runtime_status else ""
    gone = ", it does not answer: its registers read ff (rev ff)" if card.fallen_off else ""
    value = {
        name: getattr(card, name) for name in ("vendor", "device", "driver", "fallen_off", "runtime_status")
    }
    rows = [Reading(name="pci.card", value=value, text=f"{name}: {driver}{state}{gone}", about=card.address)]
    if card.runtime_status:
        # Another vendor's sleeping card is no trouble of the NVIDIA driver: it is told in other words.
        how = "power/runtime_status" if card.vendor == "nvidia" else "power state"
        text = f"{_NAMES[card.vendor]} card {card.address} {how}: {card.runtime_status}"
        rows.append(Reading(name="gpu.power", value=card.runtime_status, text=text, about=card.address))
    if card.vram_total_bytes:
        rows.append(_memory(name, card))
    return rows


def _memory(name: str, card: Card) -> Reading:
    total, used = card.vram_total_bytes, card.vram_used_bytes
    value = {
        "name": name,
        "uuid": "",
        "pci": card.address,
        "total_bytes": total,
        "used_bytes": used,
        "free_bytes": total - used,
    }
    text = f"{name}: {format_size(used)} of {format_size(total)} in use, {format_size(total - used)} free"
    return Reading(name="gpu.memory", value=value, text=text, about=card.address)


def _facts(cards: Iterable[Card]) -> list[Fact]:
    ours = {"nvidia": ("nvidia",), "amd": ("amdgpu",), "intel": ("i915", "xe")}
    return [
        Fact(text=f"The {_NAMES[card.vendor]} card {card.address} answers and has the driver {card.driver}.")
        for card in cards
        if card.fallen_off is False and card.driver in ours[card.vendor]
    ]


def _number(path: Path) -> int:
    text = _line(path)
    return int(text) if text.isdecimal() else 0


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
