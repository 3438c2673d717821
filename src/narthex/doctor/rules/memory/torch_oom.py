"""PyTorch's reports that a card is full, with their figures, and whether it is ComfyUI that writes."""

from __future__ import annotations

import re
from weakref import WeakKeyDictionary

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.finding import Quote
from narthex.doctor.rules.memory.amounts import size_of
from narthex.doctor.sign import Sign
from narthex.units import GIB

OOM = Sign(
    r"OutOfMemoryError|Allocation on device\b|(?:CUDA|HIP|MPS|XPU)(?: backend)? out of memory"
    r"|Got an OOM, unloading all loaded models|not enough GPU video memory available"
    r"|(?:AcceleratorError|RuntimeError|during processing !+):? (?:CUDA|HIP) error: out of memory",
    words=[
        "outofmemoryerror",
        "allocation on device",
        "out of memory",
        "got an oom",
        "video memory available",
    ],
)
# Figures stand in the same line, or in lines of their own below.
FIGURES = Sign(
    r"^(?P<what>Currently allocated|Requested|Device limit|Free \(according to CUDA\)) ?: (?P<size>[\d.]+"
    r" ?\w+)",
    words=["currently allocated", "requested", "device limit", "free (according to cuda)"],
)
TILED = Sign(r"Ran out of memory when regular VAE (?:de|en)coding, retrying with tiled")
# ComfyUI's own words, by which its log is known under any name.
COMFYUI = Sign(
    r"got prompt|Prompt executed in|!!! Exception during processing|Set vram state to: \w+|ComfyUI"
    r"|Requested to load \w+|loaded (?:completely|partially)|KSampler|VAEDecode|cudaMallocAsync",
    words=[
        "got prompt",
        "prompt executed",
        "exception during processing",
        "set vram state",
        "comfyui",
        "requested to load",
        "loaded completely",
        "loaded partially",
        "ksampler",
        "vaedecode",
        "cudamallocasync",
    ],
    first=20,
    last=60,
)
SIGNS = (OOM, FIGURES, TILED, COMFYUI)

_TRIED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+)|([\d.]+ \w+) total capacity|max allowed: ([\d.]+ \w+)")
_FREE = re.compile(r"of which ([\d.]+ \w+) is free|; ([\d.]+ \w+) free;")
_OWN = re.compile(r"this process has ([\d.]+ \w+) memory in use")
_RESERVED = re.compile(r"([\d.]+ \w+) reserved in total by PyTorch")
_ALLOCATED = re.compile(
    r"([\d.]+ \w+)(?: is)? (?:already )?allocated(?: by PyTorch|;|,)|MPS allocated: ([\d.]+ \w+)"
)
_KEPT = re.compile(r"([\d.]+ \w+) is reserved by PyTorch but unallocated")
_OTHERS = re.compile(r"(?<!this )Process (\d+) has ([\d.]+ \w+) memory in use")
_OTHER_PROGRAM = re.compile(
    r"vllm|invokeai|text-generation|tabby|sglang|lmdeploy|a1111|stable-diffusion-webui|sentence_transformers"
    r"|whisper|train|open_webui",
    re.IGNORECASE,
)
_BOGUS = 2**60  # Windows tells 17179869184.00 GiB where it does not know
_ALIKE = 1.5 * GIB  # the screen, the driver's own share
_ENOUGH = 0.12


class TorchOom(msgspec.Struct, frozen=True, kw_only=True):
    """One report. None: it does not say."""

    hits: tuple[Hit, ...]
    requested_bytes: int | None = None
    own_bytes: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None
    others: tuple[tuple[int, int], ...] = ()  # PID and bytes, where PyTorch itself names them
    comfyui: bool

    @property
    def others_bytes(self) -> int | None:
        """What processes other than this hold: named, or what is missing."""
        if self.others:
            return sum(size for _, size in self.others)
        if self.total_bytes is None or self.own_bytes is None or self.free_bytes is None:
            return None
        return max(0, self.total_bytes - self.own_bytes - self.free_bytes)

    @property
    def blames_others(self) -> bool | None:
        """Whether others hold a good part of the card; None where the figures are not there."""
        if (size := self.others_bytes) is None:
            return None
        return size > max(_ALIKE, _ENOUGH * (self.total_bytes or 0))

    @property
    def is_empty(self) -> bool:
        """Nothing was allocated by it, and it says so: then the card was not full of it."""
        return self.own_bytes is not None and self.own_bytes < 2**20 and not self.blames_others

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The lines with figures first."""
        sized = [
            hit for hit in self.hits if re.search(r"\d+(?:\.\d+)? (?:[KMG]iB|bytes|GB|MB)", hit.entry.plain)
        ]
        rows = {hit.entry.place: hit for hit in (*sized[:4], *self.hits[:1])}
        return tuple(rows[place].quote() for place in sorted(rows))


_CACHE: WeakKeyDictionary[Evidence, tuple[TorchOom, ...]] = WeakKeyDictionary()


def torch_ooms(evidence: Evidence) -> tuple[TorchOom, ...]:
    """All reports, in the order of the sources and lines."""
    if evidence not in _CACHE:
        groups: list[list[Hit]] = []
        for hit in evidence.hits(OOM, FIGURES):
            last = groups[-1][-1].entry if groups else None
            if last is None or last.source != hit.entry.source or hit.entry.line - last.line > 60:
                groups.append([])
            groups[-1].append(hit)
        _CACHE[evidence] = tuple(
            _report(evidence, group)
            for group in groups
            if any(OOM.pattern.search(h.entry.plain) for h in group)
        )
    return _CACHE[evidence]


def is_comfyui(evidence: Evidence, entry: Entry) -> bool:
    """Whether ComfyUI wrote it. Of this stack it is the one that computes with PyTorch on the card; OpenWebUI
    does so only for embeddings, and other programs tell their names."""
    if entry.kind == "comfyui_log" or "Allocation on device" in entry.plain:
        return True
    if any(
        hit.entry.source == entry.source and (not entry.stream or hit.entry.stream == entry.stream)
        for hit in evidence.hits(COMFYUI)
    ):
        return True
    near = " ".join(one.plain for one in evidence.around(entry, 12, 4))
    return entry.kind != "openwebui_log" and not _OTHER_PROGRAM.search(near)


def _report(evidence: Evidence, group: list[Hit]) -> TorchOom:
    text = "\n".join(hit.entry.plain for hit in group)
    listed = {
        found[1].lower(): size_of(found[2])
        for found in re.finditer(r"^([A-Z][\w ()]+?) ?: ([\d.]+ ?\w+)", text, re.MULTILINE)
    }
    own = _first(_OWN, text) or _first(_RESERVED, text)
    if own is None:
        allocated, kept = _first(_ALLOCATED, text), _first(_KEPT, text) or 0
        own = allocated + kept if allocated is not None else listed.get("currently allocated")
    return TorchOom(
        hits=tuple(group),
        requested_bytes=_first(_TRIED, text) or listed.get("requested"),
        own_bytes=own,
        total_bytes=_first(_TOTAL, text) or listed.get("device limit"),
        free_bytes=_one(_first(_FREE, text), listed.get("free (according to cuda)")),
        others=tuple((int(pid), size_of(size) or 0) for pid, size in dict(_OTHERS.findall(text)).items()),
        comfyui=any(is_comfyui(evidence, hit.entry) for hit in group),
    )


def _one(first: int | None, second: int | None) -> int | None:
    return first if first is not None else second


def _first(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    size = size_of(next(group for group in found.groups() if group)) if found else None
    return size if size is None or size < _BOGUS else None
