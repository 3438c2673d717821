"""Loads in sequence: which one came again, with what other options, and which request paid for it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import islice
from weakref import WeakKeyDictionary

import msgspec

from narthex.doctor.evidence import Evidence
from narthex.doctor.story import Load, Request, loads, requests, starts
from narthex.engines.ollama.durations import KEEP_ALIVE_S, default_keep_alive

_NAMES = {
    "num_ctx": "num_ctx",
    "batch": "num_batch",
    "gpu_layers": "num_gpu",
    "parallel": "parallel slots",
    "mmap": "use_mmap",
    "threads": "num_thread",
    "kv_type": "KV type",
}


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was loaded again."""

    before: Load
    load: Load
    differs: tuple[tuple[str, object, object], ...] = ()  # option, value before, value now
    between: int = 0  # loads of other models between the two
    gap_s: float | None = None  # from the end of the load before to the start of this one
    idle_s: float | None = None  # from the end of the last request to the start of this one


def reloads(evidence: Evidence) -> list[Again]:
    """Every load of a model that had been loaded in the same run of the server."""
    rows = [one for one in loads(evidence) if one.model and one.end not in ("failed", "aborted")]
    begun = {source.name: _starts_of(evidence, source.name) for source in evidence.sources}
    last: dict[tuple[str, str], int] = {}
    found: list[Again] = []
    for number, load in enumerate(rows):
        place = last.get((load.source, load.model))
        last[load.source, load.model] = number
        if place is None:
            continue
        before = rows[place]
        border = bisect(begun[load.source], before.entry.line)
        if border < len(begun[load.source]) and begun[load.source][border] < load.entry.line:
            continue  # another run of the server
        gap = _since(before.last.at, load.at)
        found.append(
            Again(
                before=before,
                load=load,
                differs=differences(before, load),
                between=number - place - 1,
                gap_s=gap,
                idle_s=_idle(evidence, load, gap),
            )
        )
    return found


def _starts_of(evidence: Evidence, source: str) -> list[int]:
    return [start.entry.line for start in starts(evidence) if start.source == source]


def differences(one: Load, other: Load) -> tuple[tuple[str, object, object], ...]:
    """Options of the runner that were not the same, by the names that clients use."""
    if one.command is None or other.command is None:
        return ()
    rows: list[tuple[str, object, object]] = []
    for field, name in _NAMES.items():
        first = getattr(one.command, field, None)
        second = getattr(other.command, field, None)
        if first != second and not (name == "num_batch" and any(row[0] == "num_ctx" for row in rows)):
            rows.append(
                (name, "automatic" if first is None else first, "automatic" if second is None else second)
            )
    return tuple(rows)


def payer(evidence: Evidence, load: Load) -> Request | None:
    """The request that waited for a load: the first to end after it that lasted as long."""
    least = (load.seconds or 0.0) * 0.8
    rows = _work(evidence, load.source)
    following = islice(rows, bisect(rows, load.last.line, key=_line), None)
    return next((one for one in following if one.seconds >= least), None)


_WORK: WeakKeyDictionary[Evidence, dict[str, list[Request]]] = WeakKeyDictionary()


def _work(evidence: Evidence, source: str) -> list[Request]:
    """The requests for a model's work in a source, in the order of their lines."""
    known = _WORK.setdefault(evidence, {})
    if source not in known:
        known[source] = [one for one in requests(evidence) if one.works and one.source == source]
    return known[source]


def _line(one: Request) -> int:
    return one.entry.line


def keep_alive(evidence: Evidence) -> float | None:
    """Seconds of OLLAMA_KEEP_ALIVE as the last start tells it; None for ever."""
    told = next(
        (
            start.env["OLLAMA_KEEP_ALIVE"]
            for start in reversed(starts(evidence))
            if "OLLAMA_KEEP_ALIVE" in start.env
        ),
        "",
    )
    return default_keep_alive(told) if told else KEEP_ALIVE_S


def span(rows: Sequence[Load]) -> float | None:
    """Seconds from the first to the last."""
    return _since(rows[0].at, rows[-1].at) if rows else None


def _since(one: float | None, other: float | None) -> float | None:
    return other - one if one is not None and other is not None else None


def _idle(evidence: Evidence, load: Load, gap: float | None) -> float | None:
    """Since the request before it ended. The access log tells local time without its zone: where that can't
    be between the two loads, nothing is said."""
    rows = _work(evidence, load.source)
    place = bisect(rows, load.entry.line, key=_line) - 1
    at = rows[place].entry.at if place >= 0 else None
    if load.at is None or at is None or gap is None:
        return None
    idle = load.at - at
    return idle if -1.0 <= idle <= gap + 1.0 else None
