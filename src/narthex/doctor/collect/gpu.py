"""The NVIDIA cards as NVML tells them: memory, tenants, ECC, persistence, what slows them down."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from narthex.doctor.collect.collected import Collected, gap
from narthex.doctor.collect.nvml_child import CardSeen, NvmlSeen
from narthex.doctor.collect.pci import find_cards
from narthex.doctor.collect.ports import TITLES, service_of
from narthex.doctor.collect.scope import Scope
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Fact
from narthex.host.facts import GpuFacts
from narthex.units import format_size

NAME = "NVML"
ASK_S = 6.0  # waking several cards without persistence mode takes seconds
TIME_S = ASK_S + 0.5

_MEANING = {
    "LIB_RM_VERSION_MISMATCH": "Driver/library version mismatch",
    "DRIVER_NOT_LOADED": "the driver is not loaded",
    "LIBRARY_NOT_FOUND": "libnvidia-ml.so.1 is not found",
    "GPU_IS_LOST": "GPU is lost",
    "NO_PERMISSION": "Insufficient Permissions",
    "UNKNOWN": "Unknown Error",
}


def collect(scope: Scope) -> Collected:
    """NVML is asked in a program of its own, which is ended when it hangs."""
    seen = _ask(scope)
    if isinstance(seen, Reading):
        return Collected(readings=(seen, gap("gpu.count", "NVML does not answer")))
    if seen.status != "ok":
        return Collected(readings=(_refused(seen), gap("gpu.count", "NVML can't be used")))
    status = Reading(name="nvml.status", value="ok", text=f"NVML works, driver {seen.driver}")
    names = ", ".join(card.facts.name for card in seen.cards if card.facts)
    count = Reading(
        name="gpu.count", value=len(seen.cards), text=f"NVML lists {len(seen.cards)} cards: {names or 'none'}"
    )
    rows = [reading for card in seen.cards for reading in _card(scope, card)]
    return Collected(readings=(status, count, _cuda(seen), *rows), facts=tuple(_facts(seen)))


def _ask(scope: Scope) -> NvmlSeen | Reading:
    ran = scope.children.run(scope.nvml, seconds=ASK_S)
    if ran.late:
        asleep = "; a card without persistence mode may need longer to wake" if find_cards(scope) else ""
        text = f"NVML did not answer within {ASK_S:g} s{asleep}"
        return Reading(name="nvml.status", value="TIMEOUT", text=text)
    try:
        return msgspec.json.decode(ran.out, type=NvmlSeen)
    except msgspec.DecodeError:
        last = ran.err.splitlines()[-1] if ran.err else f"status {ran.status}"
        return gap("nvml.status", f"the program that asks NVML ended without an answer: {last}")


def _refused(seen: NvmlSeen) -> Reading:
    if seen.status == "NO_BINDINGS":
        return gap("nvml.status", seen.message)
    meaning = _MEANING.get(seen.status, seen.message)
    text = f"NVML can't be used: {meaning} (NVML_ERROR_{seen.status})"
    return Reading(name="nvml.status", value=seen.status, text=text)


def _cuda(seen: NvmlSeen) -> Reading:
    if not seen.cuda:
        return gap("driver.cuda_version", "the driver does not tell which CUDA it serves")
    text = f"the driver {seen.driver} serves CUDA up to {seen.cuda}"
    return Reading(name="driver.cuda_version", value=seen.cuda, text=text)


def _card(scope: Scope, card: CardSeen) -> Iterator[Reading]:
    about = str(card.index)
    if card.facts is None:
        text = (
            f"NVML can't ask card {about}: {_MEANING.get(card.error, card.error)} (NVML_ERROR_{card.error})"
        )
        yield Reading(name="gpu.lost", value=card.error, text=text, about=about)
        return
    yield _memory(card, card.facts)
    for tenant in card.facts.processes:
        service = service_of(tenant.pid) if scope.is_this_machine else ""
        name = f"{tenant.name} ({TITLES[service]})" if service == "comfyui" else tenant.name or ""
        who = name or "a process that can't be seen"
        yield Reading(
            name="gpu.process",
            value={
                "card": card.index,
                "name": name,
                "service": service,
                "vram_bytes": tenant.vram_bytes,
            },
            text=f"card {about}: {who} (PID {tenant.pid}) holds {format_size(tenant.vram_bytes)}",
            about=str(tenant.pid),
        )
    yield from _state(card, card.facts)


def _memory(card: CardSeen, facts: GpuFacts) -> Reading:
    return Reading(
        name="gpu.memory",
        value={
            "name": facts.name,
            "uuid": facts.uuid,
            "pci": card.pci,
            "total_bytes": facts.total_bytes,
            "used_bytes": facts.used_bytes,
            "free_bytes": facts.free_bytes,
        },
        text=f"card {card.index}, {facts.name}: {format_size(facts.used_bytes)} of "
        f"{format_size(facts.total_bytes)} in use, {format_size(facts.free_bytes)} free",
        about=str(card.index),
    )


def _state(card: CardSeen, facts: GpuFacts) -> Iterator[Reading]:
    about = str(card.index)
    if card.ecc is None:
        yield gap("gpu.ecc", f"card {about} has no ECC memory, or ECC is off", about)
    else:
        value = msgspec.to_builtins(card.ecc)
        told = ", ".join(f"{name} {_said(found)}" for name, found in value.items())
        yield Reading(name="gpu.ecc", value=value, text=f"card {about} ECC: {told}", about=about)
    if card.persistence is None:
        yield gap("gpu.persistence", f"card {about} does not tell its persistence mode", about)
    else:
        text = f"card {about} persistence mode: {'on' if card.persistence else 'off'}"
        yield Reading(name="gpu.persistence", value=card.persistence, text=text, about=about)
    slow = list(facts.throttle_reasons)
    warm = f", {facts.temperature_c:g} °C" if facts.temperature_c is not None else ""
    text = f"card {about} is slowed down by: {', '.join(slow) or 'nothing'}{warm}"
    yield Reading(name="gpu.throttle", value=slow, text=text, about=about)


def _said(found: object) -> str:
    return (
        {None: "unknown", True: "yes", False: "no"}.get(found, str(found))
        if isinstance(found, bool | None)
        else str(found)
    )


def _facts(seen: NvmlSeen) -> Iterator[Fact]:
    for card in seen.cards:
        if card.facts is not None:
            free, total = format_size(card.facts.free_bytes), format_size(card.facts.total_bytes)
            yield Fact(text=f"NVML lists card {card.index}, {card.facts.name}: {free} of {total} free.")
