"""Which offer is it that an Ollama holds loaded, and what does it hold of the memory?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from narthex.engines.ollama.durations import FOREVER_S
from narthex.engines.ollama.formers import seconds_left
from narthex.engines.ollama.names import same
from narthex.engines.ollama.records import Resident
from narthex.gateway.hands._base import Seen
from narthex.gateway.hands._held import has_card, vram_of
from narthex.gateway.offer import Offer
from narthex.memory.overhead import device_overhead

FOREIGN = "ollama:"
"""What the key of a resident begins with that is none of the offers."""


class Ours(msgspec.Struct, frozen=True):
    """What a load of ours became: the name that Ollama lists it under, and its context."""

    name: str
    context_length: int | None


def key_of(resident: Resident, offers: Iterable[Offer], ours: Mapping[str, Ours]) -> str:
    """The offer that is loaded there. Another context is another offer: a request of ours would make Ollama
    load the model anew."""
    alike = [offer for offer in offers if is_named(resident, offer)]
    told = resident.context_length
    for key, mine in ours.items():
        if same(mine.name, resident.name) and told == mine.context_length:
            return key
    exact = [offer for offer in alike if told is None or offer.num_ctx == told]
    # Without a context of its own an offer takes what the server gives it.
    open_ones = [offer for offer in alike if offer.num_ctx is None and "num_ctx" not in offer.options]
    found = next(iter([*exact, *open_ones]), None)
    return found.key if found is not None else f"{FOREIGN}{resident.name}"


def is_named(resident: Resident, offer: Offer) -> bool:
    """Whether it is that model, by its name or the digest of its manifest."""
    by_digest = bool(offer.digest) and offer.digest.removeprefix("sha256:") == resident.digest
    return by_digest or same(resident.name, offer.model)


def foreign_offer(resident: Resident, offers: Iterable[Offer]) -> Offer:
    """A resident that is none of the offers, as one: it can be let go, and holds its twin's place."""
    alike = next((offer for offer in offers if is_named(resident, offer)), None)
    return Offer(
        key=f"{FOREIGN}{resident.name}",
        backend="ollama",
        name=resident.name,
        model=resident.name,
        twin=alike.twin if alike is not None else resident.digest or resident.name,
        num_ctx=resident.context_length,
        need_bytes=resident.size or None,
        need_source="observed",
        digest=resident.digest,
    )


def seen(key: str, resident: Resident, *, pid: int | None, here: bool) -> Seen:
    """``here``: the server computes on this machine."""
    left = seconds_left(resident, 0.0 if here else None)
    return Seen(
        key=key,
        held=held(resident, pid=pid, here=here),
        busy=True if left is not None and left < 0 else None,  # it moves again once it is idle
        forever=left is not None and left > FOREVER_S,
    )


def held(resident: Resident, *, pid: int | None, here: bool) -> int | None:
    """Bytes of VRAM; of main memory where this machine has no card.

    By NVML where the runner can be seen. Else what Ollama lists, which leaves out what a CUDA process takes
    beside its buffers. None where it lists no size.
    """
    if here and pid is not None and (known := vram_of(frozenset({pid}))) is not None:
        return known
    if resident.size_vram:
        return resident.size_vram + device_overhead(None)[0]
    if here and not has_card():
        return resident.size or None
    return resident.size_vram
