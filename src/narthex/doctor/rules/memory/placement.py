"""Where a load put its layers, and why some stayed in main memory: weights, cache, or neighbours."""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Quote
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.sign import Sign
from narthex.doctor.signs import ollama
from narthex.doctor.story import Load, Start, loads, starts
from narthex.units import GIB, MIB

# The estimate of eras B to D in one line: Load holds its sum, the parts are read here.
ESTIMATE = Sign(
    r"memory\.(?:required\.\w+|weights\.\w+|graph\.\w+)=",
    words=["memory.required.full", "memory.weights.total"],
    first=200,
    last=800,
)
PINNED = Sign(r"failed to allocate (?P<mib>[\d.]+) MiB of pinned memory")
SIGNS = (ESTIMATE, PINNED)

LEAST_CTX = 4096  # less context than this nobody wants
_DRIVER = 512 * MIB  # of each card: the driver's context, and Ollama's margin


class Reason(StrEnum):
    """What keeps a model from the GPU."""

    WEIGHTS = "weights"  # alone too large
    CONTEXT = "context"  # with little context it would fit
    PARALLEL = "parallel"  # with one slot it would fit
    NEIGHBOURS = "neighbours"  # on an empty card it would fit
    ASKED = "asked"  # num_gpu asks for it
    UNKNOWN = "unknown"  # the figures are not there


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A load that is not wholly on the GPU, or failed, with what it needed."""

    load: Load
    weights_bytes: int | None
    kv_bytes: int | None
    graph_bytes: int
    available_bytes: int | None
    card_bytes: int | None  # all cards of the last start before it
    held_bytes: int  # by other models of this Ollama, at the time

    @property
    def missing_bytes(self) -> int | None:
        """Of the cards' memory what neither was free nor belongs to Ollama."""
        if self.card_bytes is None or self.available_bytes is None:
            return None
        return max(0, self.card_bytes - self.available_bytes - self.held_bytes)

    @property
    def much_is_missing(self) -> bool:
        """More than a screen and a driver take."""
        return (self.missing_bytes or 0) > max(2 * GIB, 0.2 * (self.card_bytes or 0))

    @property
    def reason(self) -> Reason:
        """Why not all of it is on the GPU."""
        weights, free, kv = self.weights_bytes, self.available_bytes, self.kv_bytes or 0
        if weights is None or free is None:
            return self._guess
        rest = weights + self.graph_bytes + _DRIVER
        if rest + kv <= free:
            return Reason.ASKED if self.load.layers_on is not None else Reason.UNKNOWN
        slots = self.load.parallel or 1
        if slots > 1 and rest + kv / slots <= free:
            return Reason.PARALLEL
        if rest + self._least_kv <= free:
            return Reason.CONTEXT
        if self.much_is_missing and rest + kv <= (self.card_bytes or 0):
            return Reason.NEIGHBOURS
        return Reason.WEIGHTS

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The line of the layers, and the one of the command or estimate."""
        rows = [self.load.entry, self.load.offloaded, *self.load.signs_of_gpu[-2:]]
        entries = {entry.place: entry for entry in rows if entry is not None}
        return tuple(entries[place].quote() for place in sorted(entries))[:4]

    @property
    def _least_kv(self) -> float:
        """The cache of the least context that is of use."""
        kv, tokens = self.kv_bytes or 0, (self.load.num_ctx or 0) * (self.load.parallel or 1)
        return kv * LEAST_CTX / tokens if tokens > LEAST_CTX else kv * 0.1

    @property
    def _guess(self) -> Reason:
        """Without the figures of the weights: a cache larger than the part on the GPU tells it."""
        kv, slots = self.kv_bytes or 0, self.load.parallel or 1
        card = self.card_bytes
        weights = self.weights_bytes or _all_weights(self.load)
        rest = weights + self._least_kv + self.graph_bytes + _DRIVER if weights else None
        large = kv > (weights or GIB) or (card is not None and kv > card / 2)
        if rest is not None and card is not None and rest + kv > card:
            large = rest <= card  # on the empty card
        if kv <= GIB or not large:
            return Reason.UNKNOWN
        return Reason.PARALLEL if slots >= 4 and kv / slots < 2 * GIB else Reason.CONTEXT


def placements(evidence: Evidence) -> list[Placement]:
    """Of every model the last load, where a part of it stayed off a GPU that is there."""
    known, begun = loads(evidence), starts(evidence)
    last = {load.model or f"{load.source}:{load.entry.line}": load for load in known}
    rows = []
    for load in last.values():
        start = _start_of(load, begun)
        if is_partial(load, start) or _none_of_it(evidence, load):
            rows.append(place(evidence, load))
    return rows


def place(evidence: Evidence, load: Load) -> Placement:
    """The reckoning for one load."""
    start = _start_of(load, starts(evidence))
    told = _estimate(evidence, load)
    weights = _weights(load) or _plus(told.get("weights.total"), told.get("projector.weights"))
    kv = sum(load.kv_bytes.values()) or told.get("required.kv")
    graph = max(load.compute_bytes.values(), default=0)
    graph = graph or told.get("graph.full", 0) + told.get("projector.graph", 0)
    held = _held(evidence, load)
    free = load.available_bytes
    if free is None:
        free = _free_before(evidence, load)
    if free is None:
        free = _free_at_start(start, held)
    return Placement(
        load=load,
        weights_bytes=weights,
        kv_bytes=kv,
        graph_bytes=graph,
        available_bytes=free,
        card_bytes=_card(start),
        held_bytes=held,
    )


def _plus(one: int | None, more: int | None) -> int | None:
    return None if one is None else one + (more or 0)


def is_partial(load: Load, start: Start | None) -> bool:
    """Whether a part of it stayed off a GPU that is there. On a host without one nothing is partial."""
    if load.end == "failed":
        return False
    if load.layers_on is None or not load.layers_of:
        devices = {name for name, size in load.kv_bytes.items() if size}
        return "Host" in devices and len(devices) > 1
    if load.layers_on >= load.layers_of:
        return False
    if load.layers_on > 0:
        return True
    return bool((start is not None and start.gpus) or (load.available_bytes and load.signs_of_gpu))


def _none_of_it(evidence: Evidence, load: Load) -> bool:
    """Whether no layer came on a card that the estimate names: it tells the library and the card's memory."""
    if load.layers_on != 0 or load.end == "failed":
        return False
    line = _estimate_line(evidence, load)
    return bool(re.search(r"offload to (?!cpu)\w+|library=(?!cpu)\w+", line)) and bool(load.available_bytes)


def _start_of(load: Load, begun: list[Start]) -> Start | None:
    before = [start for start in begun if start.source == load.source and start.entry.line <= load.entry.line]
    return before[-1] if before else (begun[-1] if begun else None)


def _card(start: Start | None) -> int | None:
    sizes = [device.total_bytes for device in start.gpus if device.total_bytes] if start else []
    return sum(sizes) if sizes else None


def _free_before(evidence: Evidence, load: Load) -> int | None:
    """Of the last lines before it that tell free memory, a card each: of an excerpt Load may hold none."""
    others = [one.last.line for one in loads(evidence) if one.source == load.source and one is not load]
    since = max((line for line in others if line < load.entry.line), default=0)
    cards: dict[str, int] = {}
    for hit in evidence.hits(ollama.GPU_MEMORY, ollama.UPDATED_VRAM):
        if hit.entry.source == load.source and since < hit.entry.line <= load.entry.line:
            if "library=cpu" in hit.entry.plain:
                continue
            card = re.search(r"\b(?:id|gpu)=(\S+)", hit.entry.plain)
            cards[card[1] if card else ""] = size_of(hit["available"]) or 0
    return sum(cards.values()) if cards else None


def _free_at_start(start: Start | None, held: int) -> int | None:
    sizes = [device.available_bytes for device in start.gpus] if start else []
    known = [size for size in sizes if size is not None]
    return max(0, sum(known) - held) if known and len(known) == len(sizes) else None


def _weights(load: Load) -> int | None:
    """All weights. A part that stays in the mapped file is told too large: there the layers tell."""
    told = sum(load.weights_bytes.values())
    on_gpu = sum(size for name, size in load.weights_bytes.items() if name != "Host")
    if not told or (load.is_full is not True and "Host" not in load.weights_bytes):
        return None  # of the log only some lines are at hand
    if load.layers_on and load.layers_of and on_gpu:
        return min(told, round(on_gpu * load.layers_of / load.layers_on * 1.1))
    return told


def _all_weights(load: Load) -> int | None:
    """From those on the GPU and the layers that they are."""
    on_gpu = sum(size for name, size in load.weights_bytes.items() if name != "Host")
    if load.layers_on and load.layers_of and on_gpu:
        return round(on_gpu * load.layers_of / load.layers_on)
    return None


def _estimate(evidence: Evidence, load: Load) -> dict[str, int]:
    line = _estimate_line(evidence, load)
    found = re.findall(r'\b(?:memory\.)?((?:\w+\.)\w+)="?([\d.]+ [KMGT]?i?B)', line)
    return {name: size for name, text in found if (size := size_of(text)) is not None}


def _estimate_line(evidence: Evidence, load: Load) -> str:
    near = [
        hit
        for hit in evidence.hits(ESTIMATE)
        if hit.entry.source == load.source and abs(hit.entry.line - load.entry.line) <= 12
    ]
    return min(near, key=lambda hit: abs(hit.entry.line - load.entry.line)).entry.plain if near else ""


def _held(evidence: Evidence, load: Load) -> int:
    """What Ollama's other models held: those whose load ended well before it and that nothing replaced.

    An unload leaves no line at INFO, so this is the most that it can be.
    """
    others: dict[str, int] = {}
    for other in loads(evidence):
        if other.source != load.source or other.entry.line >= load.entry.line:
            continue
        if other.end == "ready" and other.model != load.model:
            others[other.model] = _on_gpu(other)
    return sum(others.values())


def _on_gpu(load: Load) -> int:
    parts = (load.kv_bytes, load.weights_bytes, load.compute_bytes)
    told = sum(size for part in parts for name, size in part.items() if name != "Host")
    return told or load.required_bytes or 0
