"""Where models are computed, as far as the evidence tells: on a GPU or on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.sign import Sign
from narthex.doctor.signs import cuda, kernel, ollama
from narthex.doctor.story import loads, requests, starts

CPU_TOLD = Sign(
    r"no compatible GPUs were discovered|\bno GPU detected|no GPU, using CPU|falling back to CPU\b"
    r"|\bid=cpu library=cpu\b|\b100% CPU\b"
    r"|(?:reported|using|detected) a CPU-only backend|total[_ ]vram\"?=\"?0 B\b",
    words=[
        "no compatible gpus",
        "no gpu detected",
        "no gpu, using",
        "back to cpu",
        "id=cpu",
        "100% cpu",
        "cpu-only backend",
        "total_vram",
        "total vram",
    ],
)
GPU_TOLD = Sign(
    r"\b\d+% GPU\b|\bNvidia GPU detected|Device: cuda:\d|offloaded [1-9]\d*/\d+ layers to GPU"
    r"|total[_ ]vram\"?=\"?(?!0 B)\d"
    r"|\blibrary=\"?(?:cuda|rocm|vulkan|metal|oneapi)\b.*\btotal=\"[^\"]+\" available=",
    words=[
        "% gpu",
        "nvidia gpu detected",
        "device: cuda",
        "layers to gpu",
        "total_vram",
        "total vram",
        "library=",
    ],
)
LAYERS = Sign(  # how many layers llama.cpp is told to put on a GPU
    r"(?:^|[ \"'])(?:-ngl|--n-gpu-layers|--gpu-layers)[ =,\"']+(?P<typed>[\d,]+)"
    r"|LLAMA_ARG_N_GPU_LAYERS[=:] ?\"?(?P<given>\d+)|^\| model \|.*\| ngl \|",
    words=["-ngl", "gpu-layers", "n_gpu_layers", "| ngl |"],
    first=10,
    last=10,
)
WINDOWS = Sign(
    r"\*\* Platform: Windows|--windows-standalone-build|\\(?:Users|AppData|python_embeded|site-packages)\\",
    words=[
        "platform: windows",
        "windows-standalone",
        "\\users\\",
        "\\appdata\\",
        "python_embeded",
        "site-packages",
    ],
    first=5,
    last=5,
)
LIBRARIES = ("cuda", "rocm", "vulkan", "metal")  # what a start names: a GPU was found then
_FRESH = re.compile(r"\b(?:docker|podman|nerdctl)\S* run\b(?!.*(?:while|sleep)).*\bnvidia-smi\b")
_LIBRARY = re.compile(r"\blibrary=\"?(\w+)")
SIGNS = (CPU_TOLD, GPU_TOLD, LAYERS, WINDOWS)


class Told(msgspec.Struct, frozen=True):
    """A line that tells it."""

    entry: Entry
    gpu: bool
    library: str = ""  # "cuda", "rocm", "vulkan", …; "" where the line does not name it


_CACHE: WeakKeyDictionary[Evidence, list[Told]] = WeakKeyDictionary()


def told(evidence: Evidence) -> list[Told]:
    """All such lines, worked out once."""
    if evidence not in _CACHE:
        _CACHE[evidence] = _told(evidence)
    return _CACHE[evidence]


def _told(evidence: Evidence) -> list[Told]:
    rows = []
    for hit in evidence.hits(ollama.COMPUTE):
        if found := _LIBRARY.search(hit["rest"]):
            library = found[1].lower()
            rows.append(Told(hit.entry, library != "cpu", library))
    rows += [Told(hit.entry, True) for hit in evidence.hits(GPU_TOLD)]
    rows += [Told(hit.entry, False) for hit in evidence.hits(CPU_TOLD)]
    return rows


def gpu_after(evidence: Evidence, entry: Entry, *libraries: str) -> Told | None:
    """The first line after this one that tells of a GPU in use, of one of these libraries if any are named:
    what the line complains of did no harm, or is over."""
    return next(
        (
            row
            for row in told(evidence)
            if row.gpu and (not libraries or row.library in libraries) and comes_after(row.entry, entry)
        ),
        None,
    )


def gpu_before(evidence: Evidence, entry: Entry) -> Told | None:
    """The last line before this one, in its own text and since the last start, that tells of a GPU in use."""
    since = max(
        (start.entry.line for start in starts(evidence) if comes_after(entry, start.entry)), default=0
    )
    rows = [row for row in told(evidence) if row.gpu and row.entry.source == entry.source]
    return next((row for row in reversed(rows) if since <= row.entry.line < entry.line), None)


def on_cpu(evidence: Evidence, entry: Entry | None = None) -> Entry | None:
    """The line that tells of work on the CPU: after this one in its own text, or in another text."""
    for row in told(evidence):
        if not row.gpu and (
            entry is None or row.entry.source != entry.source or row.entry.line >= entry.line
        ):
            return row.entry
    return None


def any_gpu(evidence: Evidence, *libraries: str) -> bool:
    """Whether any line tells of a GPU in use."""
    return any(row.gpu and (not libraries or row.library in libraries) for row in told(evidence))


def comes_after(one: Entry, other: Entry) -> bool:
    """Whether it is later: by its place in the same text, by the clock between two; False where unknown."""
    if one.source == other.source:
        return one.line > other.line
    return one.at is not None and other.at is not None and one.at > other.at


def standing(evidence: Evidence, hits: list[Hit]) -> list[Hit]:
    """Those after which no GPU was used: the others are over."""
    return [hit for hit in hits if gpu_after(evidence, hit.entry) is None]


def mended(evidence: Evidence, entry: Entry) -> bool:
    """Whether Ollama was started anew after this line, found a GPU and then did its work."""
    later = [start for start in starts(evidence) if start.gpus and comes_after(start.entry, entry)]
    done = [load.entry for load in loads(evidence) if load.end == "ready"]
    done += [one.entry for one in requests(evidence) if one.works and one.status == 200]
    return any(comes_after(one, start.entry) for start in later for one in done)


def in_fresh_container(evidence: Evidence, entry: Entry) -> bool:
    """Whether the line is what a container said that was started for nvidia-smi alone: it lost nothing, it
    never had the card."""
    return any(_FRESH.search(one.plain) for one in evidence.around(entry, 1, 0) if one.line < entry.line)


def nvidia_traces(evidence: Evidence) -> Iterator[Hit]:
    """Lines that show an NVIDIA card in this machine."""
    yield from evidence.hits(cuda.SMI_WORKS, kernel.LSPCI_NVIDIA, kernel.XID, cuda.NO_DRIVER, cuda.MISMATCH)


def is_windows(hit: Hit) -> bool:
    """Whether a library on Windows or in WSL speaks: there is no nvidia_uvm."""
    return any(word in hit.entry.plain.lower() for word in ("nvcuda.dll", "cudart64", "/wsl/", ":\\"))


def on_windows(evidence: Evidence, hit: Hit) -> bool:
    """The same, or another line of its text tells that it is of Windows."""
    return is_windows(hit) or any(one.entry.source == hit.entry.source for one in evidence.hits(WINDOWS))


def cpu_is_meant(evidence: Evidence) -> bool:
    """Whether llama.cpp was started with no layers for a GPU, and nobody else computes here. Ollama starts
    its runners so where it found none: that is no wish."""
    if on_cpu(evidence) is not None:
        return False
    asked = set[str]().union(*(_layers(evidence, hit) for hit in evidence.hits(LAYERS)))
    return asked == {"0"}


def _layers(evidence: Evidence, hit: Hit) -> set[str]:
    """The numbers of layers that a command, a setting or a table of llama-bench names."""
    if "msg=" in hit.entry.plain:
        return set()
    if found := hit["typed"] or hit["given"]:
        return set(found.strip(",").split(","))
    column = hit.entry.plain.split("|").index(" ngl ")
    rows = [entry.plain.split("|") for entry in evidence.around(hit.entry, 0, 40)[1:]]
    return {row[column].strip() for row in rows if len(row) > column and row[column].strip().isdigit()}
