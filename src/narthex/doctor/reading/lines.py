"""A physical line read: what the program wrote, who it was, and of which kind it is."""

from __future__ import annotations

import re

from narthex.doctor.evidence import Entry, Part
from narthex.doctor.reading.carrier import Line, clean, strip
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.json_line import read_json

LONGEST = 16 << 10  # characters that are kept of a line
_KINDS = (  # a service or unit whose name says what it is
    (re.compile(r"open-?webui|open_webui"), "openwebui_log"),
    (re.compile(r"comfy"), "comfyui_log"),
    (re.compile(r"ollama"), "ollama_log"),
    (re.compile(r"llama[-_.]?(?:server|cpp)"), "llama_server_log"),
    (re.compile(r"^kernel$"), "dmesg"),
)
_SPLIT = frozenset(("docker_log", "dmesg", "ollama_log", "openwebui_log", "comfyui_log", "llama_server_log"))


def read_line(text: str) -> Line:
    """Without carriers and JSON around it."""
    line = strip(text)
    if line.body.startswith("{") and line.body.rstrip().endswith("}"):
        inner = read_json(line.body)
        if inner is not None:
            return Line(inner.body, inner.stream or line.stream, inner.stamp or line.stamp, True)
    return line


def kind_of(stream: str, kind: str) -> str:
    """Of a log in which several services write, the kind of one of them."""
    if not stream or kind not in _SPLIT:
        return kind
    low = stream.lower()
    return next((own for pattern, own in _KINDS if pattern.search(low)), kind)


def entry_of(
    source: str,
    kind: str,
    number: int,
    text: str,
    clock: Clock,
    *,
    line: Line | None = None,
    plain: str | None = None,
    parts: tuple[Part, ...] = (),
) -> Entry:
    """The record of a line; of a wrapped one with its parts and what they say together."""
    line = read_line(text) if line is None else line
    return Entry(
        source=source,
        kind=kind_of(line.stream, kind),
        line=number,
        text=text,
        plain=clean(line.body) if plain is None else plain,
        at=clock.at(line.body, line.stamp),
        stream=line.stream,
        parts=parts,
    )
