"""Lines about memory that could not be had, put together into failures, each with the step at which it was.

The same words, «out of memory», stand in the log of a model that is too big, of one that grew while it
worked, of a driver that grants no buffer of that size, and of a container that may no longer touch the card.
Which it is, is told by the neighbours of the line: what was being allocated, and what came before and after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from weakref import WeakKeyDictionary

import msgspec

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Quote, Severity
from narthex.doctor.rules.memory import host_memory, oom_signs
from narthex.doctor.rules.model.telling import is_past, loaded_later
from narthex.doctor.signs import llama, ollama
from narthex.doctor.story import Load, loads
from narthex.units import GIB, MIB

ABSURD = 200 * GIB  # in one buffer: no card has that much; the reckoning behind it has gone wrong
_TOGETHER = 14  # lines within which one failure is told
_WORKING = re.compile(
    r"no longer running|model runner has unexpectedly stopped|error was encountered while running the model"
    r"|post predict|runtime OOM detected|slot update_slots|prompt processing|print_timing"
    r"|embedding generation failed|failed to decode|decode: failed",
    re.IGNORECASE,
)
_LOADING = re.compile(
    r"process has terminated|error loading llama|Load failed|error loading model|failed to load model"
    r"|unable to load model|warming up the model|failed to create context|error starting llama"
    r"|failed to initialize the context|alloc_tensor_range|do load request|unable to create llama context",
    re.IGNORECASE,
)
_BARE_CONTEXT = re.compile(
    r"cudaMemGetInfo|ggml_backend_cuda_device_get_memory|cudaSetDevice|cuDevicePrimaryCtxRetain"
)
_ON_CARD = re.compile(
    r"(?:cuda|hip|musa)Malloc|(?:CUDA|ROCm|Vulkan|SYCL|Metal|MTL|RPC)\d* ?(?:buffer|error)|vk::"
)
_ELSEWHERE = re.compile(
    r"pinned memory|torch|RuntimeError: CUDA|AcceleratorError|when calling `|Tried to allocate"
)
_DEVICE_OOM = re.compile(r"allocateMemory: \w*OutOf\w+Memory")
_POOL = re.compile(
    r"in function (?:alloc\b|ggml_cuda_pool)|pool_\w+::alloc|cuMem(?:Create|SetAccess|Map|Address)"
)  # grows while it works
_FAILED_END = re.compile(
    r"Load failed|error loading llama|failed to create context|unable to load model|loading error|failed to"
    r" load",
    re.IGNORECASE,
)


class Phase(StrEnum):
    """What the memory was for."""

    WEIGHTS = "weights"
    KV = "kv"
    COMPUTE = "compute"
    LOAD = "load"  # at load; for what is not told
    WORK = "work"  # a request was being worked on
    CONTEXT = "context"  # not even the driver's own context could be made on the card


_TOLD = (
    (oom_signs.METAL.pattern, Phase.WORK),
    (oom_signs.RUNTIME_OOM.pattern, Phase.WORK),
    (oom_signs.BUFFER_LIMIT.pattern, Phase.COMPUTE),
    (oom_signs.KV_FAILED.pattern, Phase.KV),
    (re.compile(r"unable to allocate \S+ buffer|alloc_tensor_range", re.IGNORECASE), Phase.WEIGHTS),
    (oom_signs.COMPUTE_FAILED.pattern, Phase.COMPUTE),
    (oom_signs.NO_LAYOUT.pattern, Phase.LOAD),
)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure: its lines and what they tell."""

    hits: tuple[Hit, ...]
    phase: Phase
    sure: bool  # its neighbours tell the phase; else it is the usual one of such a line
    asked_bytes: int | None
    device: str
    function: str
    copies: int
    single: bool  # the driver grants no buffer of that size, however much is free
    recovered: bool  # the program tried again in another way, and that went well
    over: bool  # a later load in this log went well, and no failure came after it
    past: bool  # and that was the same model; where it is not known, the server was started anew
    load: Load | None

    @property
    def quotes(self) -> tuple[Quote, ...]:
        """The lines that tell most: the first, the one with the size, the last."""
        sized = [hit for hit in self.hits if _size(hit)]
        wanted = dict.fromkeys(hit.entry.place for hit in (self.hits[0], *sized[:1], self.hits[-1]))
        rows = {hit.entry.place: hit.quote() for hit in self.hits}
        return tuple(rows[place] for place in sorted(wanted))


_CACHE: WeakKeyDictionary[Evidence, tuple[Failure, ...]] = WeakKeyDictionary()


def failures(evidence: Evidence) -> tuple[Failure, ...]:
    """All of them, in the order of the sources and lines; worked out once, many rules ask."""
    if evidence not in _CACHE:
        known = loads(evidence)
        groups = _groups(
            [hit for hit in evidence.hits(*oom_signs.FAILURES) if not _is_elsewhere(evidence, hit)]
        )
        _CACHE[evidence] = tuple(
            _judge(evidence, group, known) for group in groups if not _is_main_memory(evidence, group)
        )
    return _CACHE[evidence]


def pending(evidence: Evidence, *phases: Phase) -> Failure | None:
    """The last failure at one of these steps that no second try mended."""
    rows = [one for one in failures(evidence) if one.phase in phases and not one.recovered]
    return next((one for one in reversed(rows) if not one.over), rows[-1] if rows else None)


def severity(failure: Failure) -> Severity:
    """Of a failure at load: what went well later is no trouble, what another model did later says little."""
    return Severity.INFO if failure.past else Severity.WARNING if failure.over else Severity.ERROR


def _is_main_memory(evidence: Evidence, group: tuple[Hit, ...]) -> bool:
    """A cache or working buffer in main memory fails in the same words; the line before names the CPU."""
    first, last = group[0].entry, group[-1].entry
    near = "\n".join(entry.plain for entry in evidence.around(first, 4, last.line - first.line))
    return bool(host_memory.CPU_BUFFER.pattern.search(near)) and not _ON_CARD.search(near)


def _is_elsewhere(evidence: Evidence, hit: Hit) -> bool:
    """PyTorch borrows CUDA's words; pinned main memory is done without. Neither is a failed load.

    Vulkan tells the reason in a line of its own, after the line that names pinned memory.
    """
    if hit.entry.kind == "comfyui_log" or _ELSEWHERE.search(hit.entry.plain):
        return True
    if not _DEVICE_OOM.search(hit.entry.plain):
        return False
    return any(
        "failed to allocate pinned memory" in entry.plain.lower()
        for entry in evidence.around(hit.entry, 1, 0)
    )


def _groups(hits: list[Hit]) -> Iterator[tuple[Hit, ...]]:
    group: list[Hit] = []
    for hit in hits:
        if group and not _belongs(group[-1], hit):
            yield tuple(group)
            group = []
        group.append(hit)
    if group:
        yield tuple(group)


def _belongs(before: Hit, hit: Hit) -> bool:
    one, other = before.entry, hit.entry
    if one.source != other.source or other.line - one.line > _TOGETHER:
        return False
    return one.at is None or other.at is None or other.at - one.at < 30


def _judge(evidence: Evidence, group: tuple[Hit, ...], known: list[Load]) -> Failure:
    first, last = group[0].entry, group[-1].entry
    near = evidence.around(first, 6, last.line - first.line + 12)
    text = "\n".join(entry.plain for entry in near)
    told = "\n".join(hit.entry.plain for hit in group)
    load = _load_of(group, known)
    asked = max((size for hit in group if (size := _size(hit))), default=None)
    phase, sure = _phase(evidence, group, text, asked, load)
    function = re.search(r"in function (\w+)", text)
    copies = re.search(r"n_copies=(\d+)", text)
    return Failure(
        hits=group,
        phase=phase,
        sure=sure,
        asked_bytes=asked,
        device=_device(told),
        function=function[1] if function else "",
        copies=int(copies[1]) if copies else 0,
        single=bool(oom_signs.BUFFER_LIMIT.pattern.search(told)),
        recovered=_recovered(evidence, group, load),
        over=_over(evidence, group),
        past=_over(evidence, group) and _past(evidence, group, load, phase),
        load=load,
    )


def _phase(
    evidence: Evidence, group: tuple[Hit, ...], text: str, asked: int | None, load: Load | None
) -> tuple[Phase, bool]:
    """What it was for, and whether that is told. The surest words are asked first."""
    told = "\n".join(hit.entry.plain for hit in group)
    phase = next((phase for pattern, phase in _TOLD if pattern.search(told)), None)
    if phase is not None or (asked or 0) >= ABSURD:
        bare = phase in (Phase.KV, Phase.COMPUTE) and not asked and not _ON_CARD.search(text)
        return phase or Phase.COMPUTE, not bare  # alone they do not tell whose memory it was
    if _BARE_CONTEXT.search(text):
        return Phase.CONTEXT, True
    if _working(evidence, group, text, load):
        return Phase.WORK, True
    if _LOADING.search(text) or (load is not None and load.end in ("failed", "")):
        return Phase.LOAD, True
    return _usual(told, text, asked)


def _usual(told: str, text: str, asked: int | None) -> tuple[Phase, bool]:
    """What such a line most often means, where nothing stands around it."""
    if oom_signs.LARGE_BUFFER.pattern.search(told) and (asked or 0) >= GIB:
        return Phase.COMPUTE, False
    if oom_signs.CUDA_OOM.pattern.search(told):
        return Phase.WORK, bool(_POOL.search(text))
    return Phase.LOAD, False


def _working(evidence: Evidence, group: tuple[Hit, ...], text: str, load: Load | None) -> bool:
    """Whether a model was loaded and at work: a request's words near it, or «started» before it."""
    place = group[0].entry.place
    if load is not None and load.end == "ready":
        return load.last.line < place[1]
    if _WORKING.search(text) and not re.search(r"process has terminated|warming up the model", text):
        return True
    if load is not None:
        return False
    answered = [
        hit
        for hit in evidence.hits(ollama.ACCESS)
        if hit.entry.source == place[0] and hit.entry.line < place[1] and hit["status"] == "200"
        and hit["method"] == "POST" and re.search(r"chat|generate|embed|completions", hit["path"])
    ]  # fmt: skip
    return bool(answered) and not re.search(r"process has terminated|Load failed", text)


def _load_of(group: tuple[Hit, ...], known: list[Load]) -> Load | None:
    """The load under way or last done in that source when it happened."""
    source, line = group[-1].entry.place
    before = [load for load in known if load.source == source and load.entry.line <= line + 2]
    if len(before) > 1 and before[-1].entry.line > line and before[-1].command is not None:
        return before[-2]  # the next try begins right after it
    return before[-1] if before else None


def _recovered(evidence: Evidence, group: tuple[Hit, ...], load: Load | None) -> bool:
    """Whether the program says that it tries otherwise, and no failed end follows before the next load."""
    source, line = group[-1].entry.place
    again = [
        hit
        for hit in evidence.hits(oom_signs.RETRIED)
        if hit.entry.source == source and -3 <= hit.entry.line - line <= 8
    ]
    if not again:
        return False
    end = load.last.line if load is not None and load.end == "ready" and load.last.line > line else None
    if end is not None:
        return True
    ended = evidence.hits(ollama.LOAD_FAILED, llama.MODEL_ERROR)
    told = [hit for hit in ended if hit.entry.source == source and hit.entry.line > again[0].entry.line]
    good = [
        hit
        for hit in evidence.hits(ollama.STARTED, llama.MODEL_LOADED)
        if hit.entry.source == source and hit.entry.line > line
    ]
    if told and (not good or told[0].entry.line < good[0].entry.line):
        return False
    return not _FAILED_END.search(
        " ".join(entry.plain for entry in evidence.around(again[0].entry, 0, 12) if entry.line > line)
    )


def _over(evidence: Evidence, group: tuple[Hit, ...]) -> bool:
    source, line = group[-1].entry.place
    good = [
        hit
        for hit in evidence.hits(ollama.STARTED, llama.MODEL_LOADED)
        if hit.entry.source == source and hit.entry.line > line
    ]
    later = [hit for hit in evidence.hits(*oom_signs.FAILURES) if hit.entry.source == source]
    return bool(good) and all(hit.entry.line < good[-1].entry.line for hit in later)


def _past(evidence: Evidence, group: tuple[Hit, ...], load: Load | None, phase: Phase) -> bool:
    """A model that loads again after it died at work has mended nothing; one that loads now at last has."""
    last = group[-1].entry
    if load is not None and load.model and phase is not Phase.WORK:
        return loaded_later(evidence, last, load.model) is not None
    return is_past(evidence, last)


def _size(hit: Hit) -> int | None:
    groups = hit.match.groupdict()
    if groups.get("mib"):
        return round(float(groups["mib"]) * MIB)
    count = groups.get("bytes") or groups.get("sycl")
    return int(count) if count else None


def _device(told: str) -> str:
    if found := re.search(r"\b((?:CUDA|ROCm|HIP|Vulkan|SYCL|Metal|MTL|RPC|MUSA)\d+)\b", told):
        return found[1]
    found = re.search(r"on device (\d+)|current device: (\d+)", told)
    return f"device {found[1] or found[2]}" if found else ""
