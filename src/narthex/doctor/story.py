"""What happened, from the logs: Ollama's starts, its loads, the requests that it answered.

Of the starts and requests each is told by its own lines; :mod:`narthex.doctor.loads` puts a load together.
All are worked out once for an Evidence, however many rules ask.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar
from weakref import WeakKeyDictionary

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.loads import Load, gather, size_bytes
from narthex.doctor.signs import ollama
from narthex.engines.ollama.durations import go_seconds
from narthex.engines.ollama.log import server_config

__all__ = ["Device", "Load", "Request", "Start", "loads", "requests", "starts"]

T = TypeVar("T")

_FIELD = re.compile(r"([\w.]+)=(\"[^\"]*\"|\S*)")
_DISCOVERY_S = 120.0  # all devices of one start are told within this time


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One line «inference compute»: a card, or the CPU where Ollama found none."""

    library: str  # "cpu", "cuda", "rocm", "vulkan", "metal": lower case
    name: str  # "NVIDIA GeForce RTX 4070"
    total_bytes: int | None = None
    available_bytes: int | None = None
    compute: str = ""  # "8.9"
    integrated: bool = False
    entry: Entry


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the server. Without devices: it told none, or their lines are not at hand."""

    entry: Entry
    config: Entry | None = None  # the line «server config»
    at: float | None
    version: str = ""
    devices: tuple[Device, ...] = ()
    env: dict[str, str] = {}
    source: str
    stream: str = ""

    @property
    def gpus(self) -> tuple[Device, ...]:
        """The devices that are no CPU."""
        return tuple(device for device in self.devices if device.library != "cpu")

    @property
    def only_cpu(self) -> bool:
        """Whether it looked, and found no GPU."""
        return bool(self.devices) and not self.gpus


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the access log, written when the request ended."""

    entry: Entry
    source: str
    at: float | None
    status: int
    seconds: float
    client: str
    method: str
    path: str  # without the query

    @property
    def works(self) -> bool:
        """Whether it needs a model: a generation, a chat, an embedding."""
        return self.method == "POST" and self.path in _WORK


_WORK = frozenset(
    {
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
    }
)


def starts(evidence: Evidence) -> list[Start]:
    """Starts of Ollama, in the order of the sources and lines."""
    return _once(evidence, "starts", _starts)


def loads(evidence: Evidence) -> list[Load]:
    """Loads of models by Ollama, and by a llama-server of its own."""
    return _once(evidence, "loads", lambda evidence: list(gather(evidence)))


def requests(evidence: Evidence) -> list[Request]:
    """Requests that Ollama answered; of very many the first and the last."""
    return _once(evidence, "requests", _requests)


_CACHE: WeakKeyDictionary[Evidence, dict[str, object]] = WeakKeyDictionary()


def _once(evidence: Evidence, name: str, make: Callable[[Evidence], list[T]]) -> list[T]:
    known = _CACHE.setdefault(evidence, {})
    if name not in known:
        known[name] = make(evidence)
    return list(known[name])  # type: ignore[call-overload, no-any-return]


def _starts(evidence: Evidence) -> list[Start]:
    found: list[Start] = []
    for hit in evidence.hits(ollama.CONFIG, ollama.LISTENING, ollama.COMPUTE):
        text = hit.entry.plain
        same = found[-1] if found and found[-1].source == hit.entry.source else None
        groups = hit.match.groupdict()
        if "env" in groups:
            start = _start(hit, env=server_config([text]))
            found.append(msgspec.structs.replace(start, config=hit.entry))
        elif "version" in groups:
            if same is not None and not same.version and not same.devices:
                found[-1] = msgspec.structs.replace(same, version=groups["version"], entry=hit.entry)
            else:
                found.append(_start(hit, version=groups["version"]))
        elif (device := _device(hit)) is not None:
            if same is None or _too_late(same, device):
                found.append(_start(hit, devices=(device,)))
            else:
                found[-1] = msgspec.structs.replace(same, devices=(*same.devices, device))
    return found


def _start(
    hit: Hit, *, version: str = "", devices: tuple[Device, ...] = (), env: dict[str, str] | None = None
) -> Start:
    entry = hit.entry
    return Start(
        entry=entry,
        at=entry.at,
        version=version,
        devices=devices,
        env=env or {},
        source=entry.source,
        stream=entry.stream,
    )


def _too_late(start: Start, device: Device) -> bool:
    """Whether a device can't be of that start: its own first lines are not at hand."""
    if not start.devices:
        return False
    last = start.devices[-1]
    if last.library == "cpu" or device.library == "cpu":
        return True  # the CPU is told alone
    return (
        last.entry.at is not None
        and device.entry.at is not None
        and (device.entry.at - last.entry.at > _DISCOVERY_S)
    )


def _device(hit: Hit) -> Device | None:
    fields = {name: value.strip('"') for name, value in _FIELD.findall(hit["rest"])}
    library = fields.get("library", "").lower()
    if not library:
        return None
    return Device(
        library=library,
        name=fields.get("description") or fields.get("name", ""),
        total_bytes=size_bytes(fields.get("total", "")),
        available_bytes=size_bytes(fields.get("available", "")),
        compute=fields.get("compute", ""),
        integrated=fields.get("type", "").lower() == "igpu",
        entry=hit.entry,
    )


def _requests(evidence: Evidence) -> list[Request]:
    return [
        Request(
            entry=hit.entry,
            source=hit.entry.source,
            at=hit.entry.at if hit.entry.at is not None else _when(hit["time"]),
            status=int(hit["status"]),
            seconds=go_seconds(hit["took"]) or 0.0,
            client=hit["client"],
            method=hit["method"],
            path=hit["path"].partition("?")[0],
        )
        for hit in evidence.hits(ollama.ACCESS)
    ]


def _when(text: str) -> float:
    """The access log tells local time without its zone; taken as UTC, distances are right."""
    return datetime.strptime(text, "%Y/%m/%d - %H:%M:%S").replace(tzinfo=UTC).timestamp()
