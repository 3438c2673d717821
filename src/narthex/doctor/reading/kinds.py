"""What kind of text it is, by its content; the name of its file only decides between equals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from narthex.doctor.reading.carrier import clean
from narthex.doctor.reading.lines import read_line

OTHER = "commands"  # a terminal's transcript may hold anything
_LINES = 200  # that are looked at, of each part of the sample

# What a line is worth for a kind. Of two programs in one log the one with more such lines wins.
_MARKS: dict[str, tuple[tuple[re.Pattern[str], int], ...]] = {
    kind: tuple((re.compile(pattern, re.IGNORECASE), worth) for pattern, worth in marks)
    for kind, marks in {
        "ollama_log": (
            (r"^(?:(?:time=\S+ )?level=[A-Z]+ (?:source=\S+\.go:\d+|msg=)|msg=\")", 3),
            (r"^\[GIN(?:-debug)?\] ", 3),
            (r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \w+\.go:\d+: ", 3),
            (r"inference compute|llama runner|ollama\.service|Listening on \S+ \(version|OLLAMA_\w+:", 3),
            (r"/(?:\.ollama|blobs/sha256-)", 1),
        ),
        "llama_server_log": (
            (
                r"^(?:llama_|llm_|load_tensors|ggml_|print_info|common_|sched_reserve|system_info|build: \d)",
                2,
            ),
            (r"^(?:srv|slot|que) +\w+: |^main: (?:server is|loading model|HTTP)|llama[-_](?:server|cli)", 3),
            (r"GGML_ASSERT|unable to load model|\.gguf\b", 1),
        ),
        "openwebui_log": (
            (r"open_webui\.|open-webui|openwebui", 4),
            (r"\| (?:INFO|ERROR|WARNING|DEBUG) +\| [\w.]+:\w+:\d+ - ", 3),
            (r"uvicorn|^INFO: +\S+:\d+ - \"(?:GET|POST)", 1),
        ),
        "comfyui_log": (
            (r"ComfyUI|^got prompt$|Prompt executed in|custom_nodes|!!! Exception during processing", 4),
            (r"Set vram state to|VAE dtype|Total VRAM \d+ MB|cudaMallocAsync|CLIPTextEncode|KSampler", 3),
            (r"Using (?:pytorch|xformers|sub quadratic) .*attention|loaded (?:completely|partially)", 3),
        ),
        "dmesg": (
            (r"^NVRM: |nvidia-modeset|\[drm\b|amdgpu 0000:|oom-kill:|Out of memory: Killed process", 3),
            (r"Memory cgroup out of memory|invoked oom-killer|PM: (?:suspend|hibernat)|segfault at", 3),
            (r"^(?:ACPI|usb|pci|pcieport|audit|EXT4-fs|systemd-journald)\b.*:", 1),
        ),
        "nvidia_smi": (
            (r"NVIDIA-SMI|Driver Version: \S+ +CUDA Version|^\| +GPU +Name|Persistence-M|Volatile Uncorr", 5),
            (r"Failed to initialize NVML|couldn't communicate with the NVIDIA driver|^GPU \d+: .*UUID", 5),
            (r"^\|.*(?:MiB / *\d+MiB|Compute Processes|No running processes)|^Attached GPUs", 4),
        ),
        "docker_log": (
            (r"Error response from daemon|dockerd|containerd|nvidia-container-cli|docker: Error", 4),
            (r"^(?:Container|Network|Volume) \S+ +(?:Creat|Start|Stopp|Error)|OCI runtime", 3),
        ),
        "client_error": (
            (r"^(?:requests|aiohttp|httpx|urllib3|openai|ollama)\.[\w.]*(?:Error|Exception)", 3),
            (r"^Error: |ResponseError|^curl: \(\d+\)|^HTTP/\d|Internal Server Error|^\{\"error\":", 2),
            (r"^Traceback \(most recent|^[\w.]+(?:Error|Exception)\b", 2),
        ),
        "commands": (
            (r"^(?:\$|❯|PS [A-Z]:\\|\[?[\w.-]+@[\w.<>-]+[ :][^$#]*[$#]) ?", 5),
            (r"^(?:# )?(?:sudo |docker (?:run|exec|ps|compose)|curl |systemctl )", 4),
            (r"^(?:# )?ollama (?:run|pull|ps|list|show|serve|--version)\b", 4),
        ),
    }.items()
}
_NAMES = (
    ("openwebui_log", re.compile(r"open-?_?webui|owui|webui")),
    ("comfyui_log", re.compile(r"comfy")),
    ("nvidia_smi", re.compile(r"nvidia[-_]?smi|^smi\b")),
    ("dmesg", re.compile(r"dmesg|kern|journal-?k")),
    ("docker_log", re.compile(r"docker|compose|container")),
    ("llama_server_log", re.compile(r"llama[-_]?(?:server|cpp)")),
    ("ollama_log", re.compile(r"ollama|^server(?:-\d+)?\.log")),
    ("client_error", re.compile(r"error|client|stderr")),
    ("commands", re.compile(r"command|terminal|session|history|shell|typescript|\.sh$")),
)
_PROGRAMS = ("ollama_log", "openwebui_log", "comfyui_log", "llama_server_log", "dmesg")


def kind_of_text(sample: Sequence[str], name: str = "") -> str:
    """The kind of a text, from parts of it (its beginning, its middle), each cut to some lines. A log in
    which several services write is a ``docker_log``."""
    marks = dict.fromkeys(_MARKS, 0)
    streams: dict[str, set[str]] = {}
    kernel = 0
    for row in (row for part in sample for row in part.split("\n")[:_LINES] if row.strip()):
        line = read_line(row)
        body = clean(line.body)[:600]
        kernel += line.stream == "kernel" or (row.lstrip().startswith("[ ") and line.carried)
        for kind, patterns in _MARKS.items():
            worth = max((worth for pattern, worth in patterns if pattern.search(body)), default=0)
            if worth:
                marks[kind] += worth
                if kind in _PROGRAMS:
                    streams.setdefault(line.stream.partition("[")[0], set()).add(kind)
    marks["dmesg"] += 3 * kernel
    _lean(marks, name)
    if _mixed(streams):
        return "docker_log"
    best = max(marks, key=lambda kind: marks[kind])
    return best if marks[best] else OTHER


def _lean(marks: dict[str, int], name: str) -> None:
    """Ollama's log is full of llama.cpp's lines, a terminal's transcript of anything; equals go by name."""
    if marks["ollama_log"]:
        marks["ollama_log"] += marks["llama_server_log"]
    if marks["commands"] >= 4:
        marks["commands"] += max(marks.values())
    told = next((kind for kind, pattern in _NAMES if pattern.search(name.lower())), None)
    if told is not None:
        marks[told] += 1 + (max(marks.values()) // 10)


def _mixed(streams: dict[str, set[str]]) -> bool:
    """Two services, each of another kind, write in turns."""
    kinds = {frozenset(kinds) for stream, kinds in streams.items() if stream and stream != "kernel"}
    return len(kinds) > 1 and len(frozenset().union(*kinds)) > 1 and len(streams) > 1
