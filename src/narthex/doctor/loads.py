"""One model load after another, put together from the lines that Ollama and llama.cpp print of it.

Every era has its own words. Of a long log only some lines are at hand, so a load is built from whatever is
there: a line that can't belong to the load before it begins a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from narthex.doctor.evidence import Entry, Evidence, Hit
from narthex.doctor.signs import llama, ollama
from narthex.engines import llama_log
from narthex.engines._base import LoadReport
from narthex.engines.ollama.command import RunnerCommand, runner_command
from narthex.engines.ollama.log import last_load_command

End = Literal["ready", "failed", "aborted", ""]

_BLOB = re.compile(r"sha256[-:][0-9a-f]{6,64}")
_MODEL = re.compile(r"\bmodel=(?P<path>\"[^\"]*\"|\S+)")
_FIELD = re.compile(r"([\w.]+)=(\"[^\"]*\"|\S+)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)i?B")
_POWERS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_PID = re.compile(r"\[\d+\]$")
_BARE_START = 'level=INFO msg="starting runner" cmd="ollama runner"'
_TWICE_S = 3.0  # «started in …» is written twice of one load, this close
_LEFT = re.compile(r"context canceled|client connection closed")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One start of a runner for a model. None and "": the log does not tell it, or its line is not there."""

    entry: Entry  # the line that starts the runner, else the first one of it that is there
    source: str
    at: float | None = None
    model: str = ""  # the blob's name ("sha256-…"), else the file's path
    num_ctx: int | None = None  # of one slot
    parallel: int | None = None
    batch: int | None = None
    gpu_layers: int | None = None  # that the runner was told to place on the GPU; None: it chooses itself
    layers_on: int | None = None
    layers_of: int | None = None  # output layer counted
    kv_bytes: dict[str, int] = {}  # by device; "Host" is main memory of every kind
    weights_bytes: dict[str, int] = {}
    compute_bytes: dict[str, int] = {}
    required_bytes: int | None = None  # what Ollama foresaw for the GPU, all layers on it
    available_bytes: int | None = None  # on all its GPUs, as Ollama saw it before
    end: End = ""
    seconds: float | None = None  # until it was ready
    error: str = ""
    command: RunnerCommand | None = None
    offloaded: Entry | None = None  # the line «offloaded N/M layers to GPU»
    last: Entry  # the line that tells the end, else the last one of it
    signs_of_gpu: tuple[Entry, ...] = ()  # lines of buffers on a GPU

    @property
    def is_full(self) -> bool | None:
        """Whether every layer is on a GPU; None where that is not told."""
        if self.layers_on is None or not self.layers_of:
            return None
        return self.layers_on >= self.layers_of


def size_bytes(text: str) -> int | None:
    """Bytes of ``"7.6 GiB"``; of a list ``[7.6 GiB 7.6 GiB]`` the sum; None where there is no size."""
    found = _SIZE.findall(text)
    return sum(round(float(number) * _POWERS[unit]) for number, unit in found) if found else None


def model_name(path: str) -> str:
    """A blob's own name, wherever the store lies; else the path."""
    path = path.strip('"')
    found = _BLOB.search(path)
    return found[0].replace(":", "-") if found else path


def gather(evidence: Evidence) -> tuple[Load, ...]:
    """All loads, in the order of the sources and their lines."""
    done: list[Load] = []
    drafts: dict[tuple[str, str], _Draft] = {}
    for hit, step in _steps(evidence):
        key = hit.entry.source, _PID.sub("", hit.entry.stream)
        draft = drafts.get(key)
        if draft is not None and not draft.begins_anew(step, hit):
            draft.take(hit, step)
            continue
        if draft is not None:
            done.append(drafts.pop(key).load())
        if step not in _NEVER_FIRST:
            drafts[key] = _Draft(first=hit.entry)
            drafts[key].take(hit, step)
    done.extend(draft.load() for draft in drafts.values())
    place = {source.name: number for number, source in enumerate(evidence.sources)}
    return tuple(sorted(done, key=lambda load: (place.get(load.source, 0), load.entry.line)))


_STEPS = (
    (ollama.FITS, "fits"),
    (ollama.ESTIMATE, "estimate"),
    (ollama.STARTING, "starting"),
    (ollama.LOAD_REQUEST, "request"),
    (ollama.GPU_MEMORY, "gpu memory"),
    (ollama.LAYOUT, "layout"),
    (ollama.STARTED, "ready"),
    (ollama.LOAD_FAILED, "failed"),
    (ollama.CLIENT_LEFT_LOAD, "aborted"),
    (ollama.OFFLOADED, "offloaded"),
    (llama.OWN_START, "own"),
    (llama.META, "meta"),
    (llama.TENSORS, "raw"),
    (llama.BUFFER, "raw"),
    (llama.CONTEXT, "raw"),
    (llama.SLOT, "raw"),
    (llama.MODEL_LOADED, "ready"),
    (llama.MODEL_ERROR, "error"),
    (ollama.LISTENING, "server"),
)
_NEVER_FIRST = frozenset({"gpu memory", "server"})
_BEFORE_START = frozenset({"fits", "estimate", "meta", "own", "gpu memory"})


def _steps(evidence: Evidence) -> Iterator[tuple[Hit, str]]:
    """The lines of loads in order, and what each is; a line can be two things."""
    place = {source.name: number for number, source in enumerate(evidence.sources)}
    rows = {
        (place.get(hit.entry.source, 0), hit.entry.line, number): (hit, step)
        for number, (sign, step) in enumerate(_STEPS)
        for hit in evidence.hits(sign)
    }
    return (rows[key] for key in sorted(rows))


def _group(hit: Hit, name: str) -> str:
    return hit[name] if name in hit.match.groupdict() else ""


def _number(hit: Hit, name: str) -> float | None:
    return hit.number(name) if name in hit.match.groupdict() else None


@dataclass
class _Draft:
    """A load while its lines come in."""

    first: Entry
    steps: set[str] = field(default_factory=set)
    start: Entry | None = None
    final: Entry | None = None
    latest: Entry | None = None
    cmd: str = ""
    request: str = ""
    model: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    gpu_available: dict[str, int] = field(default_factory=dict)
    layout: dict[str, dict[str, int]] = field(default_factory=dict)
    raw: list[str] = field(default_factory=list)
    layers: tuple[int, int] | None = None
    offloaded: Entry | None = None
    on_gpu: list[Entry] = field(default_factory=list)
    end: End = ""
    seconds: float | None = None
    error: str = ""

    def begins_anew(self, step: str, hit: Hit) -> bool:
        """Whether this line can't belong to this load."""
        ended, told = bool(self.end), self.steps
        if step == "starting":
            anew = bool(told - _BEFORE_START)
        elif step in ("fits", "estimate"):
            anew = bool(told - {"fits", "estimate", "meta"})
        elif step == "request":
            anew = ended and hit["operation"].lower() != "close"
        elif step == "ready":
            anew = ended and not self.same_end(hit)
        elif step in ("failed", "aborted"):
            anew = self.end == "ready" or ("verdict" in told and step == "failed" and self.told_before(hit))
        elif step == "own":
            anew = "starting" not in told and (ended or bool(told & {"raw", "offloaded"}))
        elif step == "offloaded" and not ended:
            anew = "starting" not in told and self.layers is not None
        elif step == "error":
            anew = self.end == "ready"
        else:  # llama-server tries the placement first, and goes on when that fails
            anew = ended and (self.end == "ready" or "verdict" in told or not told & {"starting", "own"})
        return anew

    def same_end(self, hit: Hit) -> bool:
        """Whether «started in …» tells the same load once more: Ollama writes it twice."""
        if self.end != "ready" or self.final is None:
            return False
        seconds, at, before = (
            hit.number("seconds") if "seconds" in hit.match.groupdict() else None,
            hit.entry.at,
            self.final.at,
        )
        if seconds is None or self.seconds is None:
            return True
        if at is not None and before is not None:
            return at - seconds < before
        return abs(seconds - self.seconds) < _TWICE_S and hit.entry.line - self.final.line < 8

    def told_before(self, hit: Hit) -> bool:
        """Whether this is another failure than the one told: Ollama tells one in two words at once."""
        if self.final is None:
            return False
        at, before = hit.entry.at, self.final.at
        if at is not None and before is not None:
            return at - before > _TWICE_S
        return hit.entry.line - self.final.line > 4

    def take(self, hit: Hit, step: str) -> None:
        entry = hit.entry
        self.latest = entry
        self.steps.add(step)
        text = entry.plain
        if step == "starting":
            self.start, self.cmd = entry, hit["cmd"]
        elif step == "request" and "KvSize:" in text and hit["operation"].lower() != "close":
            self.request = text
        elif step in ("fits", "estimate"):
            self._note_fields(text)
        elif step == "gpu memory":
            self.gpu_available[text.partition(" id=")[2].split(" ")[0]] = size_bytes(hit["available"]) or 0
        elif step == "layout":
            self._note_layout(hit)
        elif step == "offloaded":
            self._note_layers(hit)
        elif step in ("meta", "own"):
            self.raw.append(text)
            self.model = self.model or model_name(_group(hit, "path"))
        elif step == "raw":
            self._note_raw(hit)
        elif step == "error":
            self._fail(entry, text)
        elif step == "ready":
            self._ready(hit)
        elif step in ("failed", "aborted"):
            self._verdict(hit, step)

    def _note_fields(self, text: str) -> None:
        self.fields.update({name: value.strip('"') for name, value in _FIELD.findall(text)})
        for bracket in re.finditer(r"(memory\.\w+|available)=\"?(\[[^\]]*\])", text):
            self.fields[bracket[1]] = bracket[2]

    def _note_layout(self, hit: Hit) -> None:
        device = re.search(r"\b(?:device|buffer|backend)=(\S+)", hit.entry.plain)
        name = llama_log.device_of(device[1]) if device else ""
        self.layout.setdefault(hit["term"].lower(), {})[name] = size_bytes(hit["size"]) or 0
        if name not in ("", "Host"):
            self.on_gpu.append(hit.entry)

    def _note_layers(self, hit: Hit) -> None:
        layers = int(hit["on"]), int(hit["of"])
        if self.layers is None or layers[1] >= self.layers[1]:  # a draft model has fewer
            self.layers, self.offloaded = layers, hit.entry

    def _note_raw(self, hit: Hit) -> None:
        self.raw.append(hit.entry.plain)
        buffer = _group(hit, "buffer")
        if buffer and llama_log.device_of(buffer) != "Host":
            self.on_gpu.append(hit.entry)

    def _ready(self, hit: Hit) -> None:
        seconds = _number(hit, "seconds")
        if self.end == "ready" and self.seconds is not None:
            return
        self.end, self.final = "ready", hit.entry
        self.seconds = seconds if seconds is not None else self.seconds

    def _fail(self, entry: Entry, why: str) -> None:
        if self.end not in ("failed", "aborted"):
            self.end, self.final = "failed", entry
        self.error = self.error or why

    def _verdict(self, hit: Hit, step: str) -> None:
        text = hit.entry.plain
        self.steps.add("verdict")
        self.end = "aborted" if step == "aborted" or _LEFT.search(text) or self.end == "aborted" else "failed"
        self.final = hit.entry
        if found := _MODEL.search(text):
            self.model = self.model or model_name(found["path"])
        told = _group(hit, "error") if step == "failed" else text
        if told and (step == "failed" or not self.error):
            self.error = told

    def load(self) -> Load:
        """What is known in the end."""
        entry = self.start or self.first
        command = self._command()
        report = llama_log.parse_load(self.raw)
        on, of = self._layers(report)
        model = model_name(command.path if command and command.path else "") or self.model
        return Load(
            entry=entry,
            source=entry.source,
            at=entry.at,
            model=model or model_name(self.fields.get("model", "")),
            num_ctx=self._num_ctx(command, report),
            parallel=command.parallel if command and command.parallel else self._whole("parallel"),
            batch=command.batch if command and command.batch else None,
            gpu_layers=command.gpu_layers if command else self._whole("layers.requested"),
            layers_on=on,
            layers_of=of,
            kv_bytes=self._bytes(report, "context_bytes", "kv cache"),
            weights_bytes=self._bytes(report, "model_bytes", "model weights"),
            compute_bytes=self._bytes(report, "compute_bytes", "compute graph"),
            required_bytes=self._required(),
            available_bytes=self._available(),
            end=self.end,
            seconds=self.seconds,
            error=self.error if self.end in ("failed", "aborted") else "",
            command=command,
            offloaded=self.offloaded,
            last=self.final or self.latest or self.first,
            signs_of_gpu=tuple(self.on_gpu),
        )

    def _command(self) -> RunnerCommand | None:
        if self.request:  # the options of era E come over HTTP; the log shows them as a Go struct
            start = self.start.plain if self.start and " cmd=" in self.start.plain else _BARE_START
            return last_load_command([start, self.request])
        return runner_command(self.cmd.split(" ")) if self.cmd else None

    def _num_ctx(self, command: RunnerCommand | None, report: LoadReport) -> int | None:
        """As asked; llama-server rounds it up, and older runners tell that of all slots."""
        told = command.num_ctx if command else None
        if told or report.num_ctx is None:
            return told
        return report.num_ctx

    def _layers(self, report: LoadReport) -> tuple[int | None, int | None]:
        if self.layers:
            return self.layers
        placed, whole = self._whole("layers.offload"), self._whole("layers.model")
        return (placed, whole) if placed is not None and whole else (None, None)

    def _bytes(self, report: LoadReport, term: str, layout: str) -> dict[str, int]:
        rows = {row.device: getattr(row, term) for row in report.buffers if getattr(row, term)}
        return rows or {name: size for name, size in self.layout.get(layout, {}).items() if name}

    def _required(self) -> int | None:
        for name in ("memory.required.full", "required", "predicted"):
            if (size := size_bytes(self.fields.get(name, ""))) is not None:
                return size
        return self.layout.get("total memory", {}).get("")

    def _available(self) -> int | None:
        if self.gpu_available:
            return sum(self.gpu_available.values())
        text = self.fields.get("memory.available") or self.fields.get("available", "")
        return int(text) if text.isdecimal() else size_bytes(text)

    def _whole(self, name: str) -> int | None:
        text = self.fields.get(name, "")
        return int(text) if text.isdecimal() else None
