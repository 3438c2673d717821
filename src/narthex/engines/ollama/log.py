"""Reading Ollama's log: what a server is set to, what devices it found, what one load became.

Every era has its own words for a load. They are told apart by the lines themselves, not by the version: a
self-built server calls itself 0.0.0 whatever it is. Eras B to E: from Ollama's sources and real logs of its
users; only era F was also seen on a real server of ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from narthex.engines import llama_log
from narthex.engines._base import DeviceBuffers, EngineDevice, LoadReport
from narthex.engines.ollama.command import RunnerCommand, runner_command
from narthex.engines.ollama.entries import Entry, access_lines, entries, raw_lines
from narthex.engines.ollama.eras import era_of

__all__ = [
    "RunnerCommand",
    "access_lines",
    "compute_devices",
    "default_ctx_line",
    "is_start",
    "last_load",
    "last_load_command",
    "parse_load",
    "raw_lines",
    "runner_command",
    "server_config",
]

_START = re.compile(r'msg="starting (?:llama-server|llama server|runner)"')
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_REQUEST = re.compile(r"(\w+):(\[[^\]]*\]|\d+\[.*?\](?=[ }])|\S*?)(?=[ }])")
_LAYERS = re.compile(r"^(\d+)\[")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)i?B")
_POWERS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_FLASH = {"true": "on", "Enabled": "on", "false": "off", "Disabled": "off", "Auto": "auto"}
_TERMS = {"model weights": "model", "kv cache": "context", "compute graph": "compute"}
_SETTING = r"(?:[A-Z][A-Z0-9_]*|https?_proxy|no_proxy):"
_CONFIG = re.compile(rf"({_SETTING})(\[[^\]]*\]|.*?)(?= {_SETTING}|$)")


def parse_load(lines: Sequence[str], version: str) -> LoadReport:
    """The report of the last load in these lines.

    ``gaps`` tell what the log does not say, and where it says what can't be: layers «offloaded» while every
    buffer lies in main memory.
    """
    before, after = _around_last_start(lines)
    said = entries(after)
    # «slot …» lines are of requests, and may be of another runner that answers meanwhile.
    report = llama_log.parse_load(line for line in raw_lines(after) if not line.startswith("slot "))
    buffers = report.buffers or _layout(said)
    command = last_load_command(lines)
    told_ctx = command.num_ctx if command else None
    placed, total = _layers(report, said, entries(before))
    placed, gaps = _proven(placed, total, buffers)
    flash = {"on": True, "off": False}.get(command.flash_attn or "") if command else None
    return msgspec.structs.replace(
        report,
        buffers=buffers,
        coarse=bool(buffers) and not report.buffers,
        offloaded_layers=placed,
        total_layers=total,
        num_ctx=(_counts_slots(after) and report.num_ctx) or told_ctx or report.num_ctx,
        ubatch=report.ubatch or (command.ubatch if command else None),
        flash_attn=report.flash_attn if report.flash_attn is not None else flash,
        gaps=(*gaps, *_missing(buffers, command, entries(before), version)),
    )


def is_start(line: str) -> bool:
    """Whether Ollama logs here that it starts a runner, in the words of any era."""
    return bool(_START.search(line))


def last_load(lines: Sequence[str]) -> Sequence[str]:
    """From the line that starts the newest load on; all of them where no load starts here."""
    return _around_last_start(lines)[1]


def last_load_command(lines: Sequence[str]) -> RunnerCommand | None:
    """What the runner of the last load was told; None where no load starts in these lines."""
    after = _around_last_start(lines)[1]
    said = entries(after)
    if not said or "cmd" not in said[0].fields:
        return None
    command = runner_command(said[0].fields["cmd"].split(" "))
    requests = [
        entry.fields["request"] for entry in said if entry.msg == "load" and "request" in entry.fields
    ]
    told = [request for request in requests if "Operation:close" not in request and "KvSize:" in request]
    return _with_request(command, told[-1]) if told else command


def server_config(lines: Sequence[str]) -> dict[str, str]:
    """The environment of the last start, as Ollama understood it; empty where that line is missing.

    Lists are joined by commas, as they are set. OLLAMA_FLASH_ATTENTION is «false» when it is not set, too.
    ``LLAMA_ARG_*`` other than FIT and FIT_TARGET are not among them, although they have an effect. Proxies
    are left out: their addresses may hold passwords.
    """
    starts = [entry for entry in entries(lines) if entry.msg == "server config"]
    if not starts:
        return {}
    text = starts[-1].fields.get("env", "").removeprefix("map[").removesuffix("]")
    found = {match[1][:-1]: match[2] for match in _CONFIG.finditer(text)}
    return {
        name: ",".join(value[1:-1].split()) if value.startswith("[") else value
        for name, value in found.items()
        if not name.lower().endswith("_proxy")
    }


def compute_devices(lines: Sequence[str]) -> tuple[EngineDevice, ...]:
    """The GPUs that the last start found; none where it computes on the CPU, or the lines are missing."""
    devices: list[EngineDevice] = []
    for entry in entries(lines):
        if entry.msg == "server config":
            devices.clear()
        fields = entry.fields
        library = fields.get("library", "")
        if entry.msg != "inference compute" or library in ("", "cpu"):
            continue
        # Up to 0.12.3 «name» is what is «description» later, and nothing tells the device's number.
        known = "description" in fields
        devices.append(
            EngineDevice(
                name=fields["name"] if known else f"{_library(library)}{len(devices)}",
                description=fields.get("description") or fields.get("name", ""),
                total_bytes=_bytes(fields.get("total", "")),
                free_bytes=_bytes(fields.get("available", "")),
            )
        )
    return tuple(devices)


def default_ctx_line(lines: Sequence[str]) -> int | None:
    """The default context that the last start chose for its video memory, from 0.15.5 on."""
    told = [entry.fields for entry in entries(lines) if entry.msg == "vram-based default context"]
    text = told[-1].get("default_num_ctx", "") if told else ""
    return int(text) if text.isdecimal() else None


def _around_last_start(lines: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """What was said between the last two starts of a runner, and from the last one on."""
    starts = [index for index, line in enumerate(lines) if is_start(line)]
    if not starts:
        return (), lines
    previous = starts[-2] if len(starts) > 1 else 0
    return lines[previous : starts[-1]], lines[starts[-1] :]


def _counts_slots(lines: Sequence[str]) -> bool:
    """Whether llama-server itself was started: its own lines tell one slot's context, padded as it is. Older
    runners tell the context of all slots together."""
    return bool(lines) and "starting llama-server" in lines[0]


def _with_request(command: RunnerCommand, request: str) -> RunnerCommand:
    """Era E: the options go to the runner over HTTP, and the log shows them as a Go struct."""
    told = dict(_REQUEST.findall(request))
    numbers = {name: int(value) for name, value in told.items() if value.isdecimal()}
    parallel, layers = numbers.get("Parallel") or 1, told.get("GPULayers", "")
    counted = _LAYERS.match(layers)
    return msgspec.structs.replace(
        command,
        num_ctx=numbers["KvSize"] // parallel if "KvSize" in numbers else None,
        parallel=parallel,
        batch=numbers.get("BatchSize"),
        ubatch=numbers.get("BatchSize"),
        gpu_layers=int(counted[1]) if counted else 0 if layers == "[]" else None,
        kv_type=told.get("KvCacheType") or "f16",
        flash_attn=_FLASH.get(told.get("FlashAttention", "")),
        threads=numbers.get("NumThreads") or None,
        mmap={"true": True, "false": False}.get(told.get("UseMmap", "")),
    )


def _layout(said: Sequence[Entry]) -> tuple[DeviceBuffers, ...]:
    """Eras D and E, Ollama's own engine: what it allotted to each device."""
    sizes: dict[str, dict[str, int]] = {}
    for entry in said:
        term = _TERMS.get(entry.msg)
        device = next(
            (entry.fields[key] for key in ("device", "buffer", "backend") if key in entry.fields), ""
        )
        if term and device and "size" in entry.fields:
            sizes.setdefault(llama_log.device_of(device), {})[term] = _bytes(entry.fields["size"])
    return tuple(
        DeviceBuffers(
            device=device,
            model_bytes=sizes[device].get("model", 0),
            context_bytes=sizes[device].get("context", 0),
            compute_bytes=sizes[device].get("compute", 0),
        )
        for device in sorted(sizes, key=lambda name: (name == "Host", name))
    )


def _layers(
    report: LoadReport, said: Sequence[Entry], announced: Sequence[Entry]
) -> tuple[int | None, int | None]:
    """Layers on the GPU and of the model: by the engine, else as Ollama announced them."""
    if report.offloaded_layers is not None:
        return report.offloaded_layers, report.total_layers
    if told := [found for entry in said if (found := _OFFLOADED.search(entry.msg))]:
        return int(told[-1][1]), int(told[-1][2])
    for entry in reversed([*announced, *said]):
        placed, total = (entry.fields.get(f"layers.{name}", "") for name in ("offload", "model"))
        if entry.msg.startswith("offload") and placed.isdecimal() and total.isdecimal():
            return int(placed), int(total)
    return None, None


def _proven(
    placed: int | None, total: int | None, buffers: tuple[DeviceBuffers, ...]
) -> tuple[int | None, list[str]]:
    """Layers on the GPU, as far as a buffer on a GPU proves them."""
    if not placed or not buffers or any(row.device != "Host" and row.model_bytes for row in buffers):
        return placed, []
    return 0, [
        f"The log says that {placed}/{total} layers are on a GPU, but every buffer lies in main memory: "
        "the CPU computes."
    ]


def _missing(
    buffers: tuple[DeviceBuffers, ...],
    command: RunnerCommand | None,
    announced: Sequence[Entry],
    version: str,
) -> list[str]:
    gaps = [] if command else ["The log holds no line that starts this load: what was loaded is not known."]
    if buffers:
        return gaps
    full = [
        entry.fields["memory.required.full"] for entry in announced if "memory.required.full" in entry.fields
    ]
    estimate = f" Ollama's own estimate is {full[-1]}." if full else ""
    why = "it may be cut" if era_of(version).size_means == "log" else f"Ollama {version} may print none"
    return [*gaps, f"The log has no line about buffers ({why}): where the bytes lie is not known.{estimate}"]


def _library(library: str) -> str:
    return {"cuda": "CUDA", "rocm": "ROCm", "metal": "Metal", "oneapi": "SYCL"}.get(library, library)


def _bytes(text: str) -> int:
    """From ``7.6 GiB``: binary, one decimal. 0 where it is no size."""
    found = _SIZE.fullmatch(text.strip())
    return round(float(found[1]) * _POWERS[found[2]]) if found else 0
