"""What is as it should be, told as facts: whoever looks for a fault need not look there.

Among them are the lines that people take for the cause, and that are none: each with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Fact
from narthex.doctor.sign import Sign
from narthex.doctor.signs import comfyui, harmless, ollama
from narthex.doctor.story import Start, loads, requests, starts
from narthex.units import GIB


def facts_of(evidence: Evidence, troubled: Collection[str] = ()) -> Iterator[Fact]:
    """Facts from log lines; those of the live machine come from its collectors. ``troubled``: areas in which
    something is wrong: that a machine computes on the CPU is no comfort where its GPU is lost."""
    for tell in (_device, _layers, _answers, _comfy, *_HARMLESS):
        if tell is _device and {"gpu", "container"} & set(troubled) and not _uses_gpu(evidence):
            continue
        if (fact := tell(evidence)) is not None:
            yield fact


def _last_start(evidence: Evidence) -> Start | None:
    return next((start for start in reversed(starts(evidence)) if start.devices), None)


def _uses_gpu(evidence: Evidence) -> bool:
    """Whether the last start found a GPU, or a load since lies on one."""
    start = _last_start(evidence)
    return bool(start and start.gpus) or any(load.signs_of_gpu for load in loads(evidence)[-1:])


def _device(evidence: Evidence) -> Fact | None:
    start = _last_start(evidence)
    if start is None:
        return None
    told = f"Ollama {start.version}" if start.version else "Ollama"
    if start.gpus:
        names = ", ".join(
            f"{gpu.name or gpu.library}" + (f" ({gpu.total_bytes / GIB:.1f} GiB)" if gpu.total_bytes else "")
            for gpu in start.gpus
        )
        text = f"{told} found the GPU: {names}, by {start.gpus[0].library}."
    else:
        text = f"{told} found no GPU and computes on the CPU."
    return Fact(text=text, evidence=tuple(device.entry.quote() for device in start.devices[:4]))


def _layers(evidence: Evidence) -> Fact | None:
    done = [load for load in loads(evidence) if load.end in ("ready", "") and load.is_full]
    if not done or not _on_gpu(done[-1].weights_bytes):
        return None
    load = done[-1]
    quotes = tuple(entry.quote() for entry in (load.offloaded, load.last) if entry is not None)
    took = f", loaded in {load.seconds:.1f} s" if load.seconds else ""
    return Fact(
        text=f"The last model that was placed whole lies on the GPU: {load.layers_on} of {load.layers_of} "
        f"layers{took}.",
        evidence=quotes or (load.entry.quote(),),
    )


def _comfy(evidence: Evidence) -> Fact | None:
    device, done = evidence.last(harmless.COMFY_DEVICE), evidence.last(comfyui.DONE)
    # a job that failed or was stopped is «executed» too
    count = evidence.count(comfyui.DONE) - evidence.count(comfyui.EXCEPTION, comfyui.INTERRUPTED)
    done = done if count > 0 else None
    if device is None and done is None:
        return None
    told = [f"works on {device['device']}, {device['name'].strip()}"] if device else []
    told += [f"has carried out {count} job{'s' if count > 1 else ''}"] if done else []
    return Fact(
        text=f"ComfyUI {' and '.join(told)}.", evidence=tuple(hit.quote() for hit in (device, done) if hit)
    )


def _on_gpu(weights: dict[str, int]) -> bool:
    """«offloaded N/N» is no proof by itself: without a device llama.cpp prints it, too."""
    return not weights or any(name != "Host" for name in weights)


def _answers(evidence: Evidence) -> Fact | None:
    work = [one for one in requests(evidence) if one.works]
    good = [one for one in work if one.status == 200]
    if not good:
        return None
    longest = max(one.seconds for one in good)
    return Fact(
        text=f"{len(good)} of {len(work)} requests to a model were answered with 200; the longest took "
        f"{longest:.1f} s.",
        evidence=(good[-1].entry.quote(),),
    )


def _plain(
    sign: Sign, text: str, when: Callable[[Evidence], bool] | None = None
) -> Callable[[Evidence], Fact | None]:
    """A fact that a line tells, where the circumstances make it harmless."""

    def tell(evidence: Evidence) -> Fact | None:
        hit: Hit | None = evidence.last(sign)
        if hit is None or (when is not None and not when(evidence)):
            return None
        return Fact(text=text, evidence=(hit.quote(),))

    return tell


def _pull_ended_well(evidence: Evidence) -> bool:
    last = evidence.last(harmless.RETRY)
    if evidence.has(harmless.GAVE_UP):
        return False  # the access log says 200 also where a pull failed
    ended = [one for one in requests(evidence) if one.path == "/api/pull" and one.status == 200]
    return last is not None and any(
        one.source == last.entry.source and one.entry.line > last.entry.line for one in ended
    )


def _loads_go_well(evidence: Evidence) -> bool:
    rows = loads(evidence)
    return bool(rows) and rows[-1].end == "ready"


_HARMLESS = (
    _plain(
        ollama.LOW_VRAM_MODE,
        "«entering low vram mode» is harmless: it only chooses a smaller default context. Nothing is slower "
        "by it.",
    ),
    _plain(ollama.DEFAULT_CONTEXT, "The default context was chosen by the size of the video memory; that is "
        "normal."),
    _plain(harmless.CPU_QUOTA, "The warning about the CPU quota is harmless: Ollama then uses all cores "
        "that it "
        "sees."),
    _plain(
        harmless.DROPPED,
        "An integrated GPU is left out, and the other card is used: that is meant.",
        _uses_gpu,
    ),
    _plain(
        harmless.OVERRIDE,
        "A variable chooses the visible devices, and the GPU is found with it: it does no harm.",
        _uses_gpu,
    ),
    _plain(
        harmless.DISCOVERY,
        "One probe for GPUs failed or took too long, and the GPU was found all the same: that line is noise.",
        _uses_gpu,
    ),
    _plain(harmless.NOISE, "«key not found» lines only tell that a default is used for a value that the "
        "model does "
        "not set."),
    _plain(
        harmless.FLASH_OFF,
        "A model without flash attention (an embedding model, as a rule) is run without it and without a "
        "quantised "
        "cache: Ollama does that by itself.",
    ),
    _plain(
        harmless.NOT_BACK,
        "The memory of an unloaded model was not seen to come back within five seconds, and loads go well "
        "since: a late "
        "count, as on machines whose GPU shares the main memory.",
        lambda evidence: _loads_go_well(evidence) or evidence.has(harmless.UNIFIED),
    ),
    _plain(harmless.RETRY, "Parts of a download were tried again, and the download ended "
        "well.", _pull_ended_well),
    _plain(harmless.SHIFT, "«context limit hit - shifting» tells of a long answer; the oldest words of the "
        "chat make "
        "room."),
    _plain(harmless.NO_MMAP, "On a machine that computes on the CPU Ollama reads models without mmap; that "
        "is meant."),
    _plain(harmless.FULL_CAPACITY, "A context smaller than the model was trained for is chosen, which is "
        "usual."),
    _plain(harmless.TEMPLATE, "The model brings no chat template of its own; Ollama takes a plain one."),
)  # fmt: skip
