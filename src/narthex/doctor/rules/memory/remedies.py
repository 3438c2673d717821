"""Steps against too little memory, in the house's order: num_ctx, then num_gpu, then num_batch."""

from __future__ import annotations

import re

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Request
from narthex.doctor.rules.memory.tenants import Resident

_LOCAL = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\])[:/]")

SHOW_CARD = Command(
    text="nvidia-smi --query-gpu=memory.total,memory.used,memory.free --format=csv",
    safe=True,
    argv=("nvidia-smi", "--query-gpu=memory.total,memory.used,memory.free", "--format=csv"),
)
SHOW_TENANTS = Command(
    text="nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv",
    safe=True,
    argv=("nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv"),
)
LOOK_AT_CARD = msgspec.structs.replace(SHOW_CARD, argv=())  # as a step of a remedy it is for a person's eyes
LOOK_AT_TENANTS = msgspec.structs.replace(SHOW_TENANTS, argv=())
SHOW_RESIDENTS = Command(text="ollama ps", safe=True, note="PROCESSOR has to say «100% GPU»")


def plan(model: str = "MODEL") -> Command:
    """What fits, without loading anything."""
    return Command(text=f"narthex plan {model}", safe=True, note="what fits beside what, nothing is loaded")


def tune(model: str = "MODEL") -> Command:
    """Measure it."""
    return Command(
        text=f"narthex tune {model}",
        safe=False,
        note="finds and proves the largest context that holds; it unloads what is loaded",
    )


def less_context(ctx: int | None = None) -> Command:
    """The mildest step, and the one that frees most."""
    half = str(max(4096, ctx // 2 // 1024 * 1024)) if ctx else "half of what it is now"
    return Command(
        text=f"Ask for less context: num_ctx {half}",
        safe=False,
        note="in the request, the Modelfile, or OLLAMA_CONTEXT_LENGTH; the model is loaded anew",
    )


def smaller(model: str = "MODEL", ctx: int | None = None, layers: int | None = None) -> tuple[Command, ...]:
    """Take less of the card, the mildest step first."""
    fewer = str(max(0, layers - 3)) if layers else "some less than now"
    return (
        plan(model),
        less_context(ctx),
        Command(text=f"Then fewer layers on the GPU: num_gpu {fewer}", safe=False),
        _BATCHES,
        tune(model),
    )


def lighter(model: str = "MODEL", ctx: int | None = None) -> tuple[Command, ...]:
    """Make the whole smaller, so that more of it fits on the card and less is left to main memory."""
    return (plan(model), less_context(ctx), _BATCHES, kv_quantised(), _QUANTISATION, tune(model))


_BATCHES = Command(text="Then smaller batches: num_batch 256", safe=False)
_QUANTISATION = Command(text="Take a smaller quantisation, or a smaller model", safe=False)


def kv_quantised() -> Command:
    """Half the cache."""
    return Command(
        text="Set OLLAMA_KV_CACHE_TYPE=q8_0 and OLLAMA_FLASH_ATTENTION=1 for the service and restart it",
        safe=False,
        note="the cache takes about half",
    )


def ollama_url(evidence: Evidence) -> str:
    """Where Ollama answers on this machine; "" where that is not known."""
    return _answering(evidence, "ollama.answers")


def comfyui_url(evidence: Evidence) -> str:
    """Where ComfyUI answers on this machine."""
    return _answering(evidence, "comfyui.answers")


def unload(evidence: Evidence, resident: Resident) -> Command:
    """Let a model go. narthex does it itself where it is loaded now, and idle."""
    url = ollama_url(evidence)
    idle = resident.live and resident.seconds_left is not None and resident.seconds_left > 0
    text = f"ollama stop {resident.model}"
    if not (url and idle):
        return Command(text=text, safe=False, note="a request under way is waited for")
    return Command(
        text=text,
        safe=True,
        note="nobody uses it now; the next request loads it again",
        request=Request(url=f"{url}/api/generate", body={"model": resident.model, "keep_alive": 0}),
    )


def free_comfyui(evidence: Evidence) -> Command:
    """Let ComfyUI's models go. It acts on this between two jobs, never within one."""
    url = comfyui_url(evidence)
    queue = evidence.value("comfyui.queue") or {}
    body = {"unload_models": True, "free_memory": True}
    text = (
        f"curl -X POST {url or 'http://127.0.0.1:8188'}/free -H 'Content-Type: application/json' "
        + '-d \'{"unload_models":true,"free_memory":true}\''
    )
    idle = bool(queue) and not queue.get("running") and not queue.get("pending")
    if not (url and idle):
        return Command(text=text, safe=True, note="ComfyUI does it when the running job is done")
    return Command(
        text=text, safe=True, note="its queue is empty", request=Request(url=f"{url}/free", body=body)
    )


def _answering(evidence: Evidence, name: str) -> str:
    for reading in evidence.all_readings(name):
        if reading.value is True and _LOCAL.match(reading.about):
            return reading.about.rstrip("/")
    return ""
