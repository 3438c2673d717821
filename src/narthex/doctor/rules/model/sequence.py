"""Loads in sequence: which one came again, with what other options, and which request paid for it."""

from __future__ import annotations

from collections.abc import Sequence

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
    borders = [start.entry for start in starts(evidence)]
    found: list[Again] = []
    for number, load in enumerate(rows):
        earlier = [
            place
            for place in range(number)
            if rows[place].model == load.model and rows[place].source == load.source
        ]
        if not earlier:
            continue
        before = rows[earlier[-1]]
        if any(
            border.source == load.source and before.entry.line < border.line < load.entry.line
            for border in borders
        ):
            continue
        found.append(
            Again(
                before=before,
                load=load,
                differs=differences(before, load),
                between=number - earlier[-1] - 1,
                gap_s=_since(before.last.at, load.at),
                idle_s=_idle(evidence, load),
            )
        )
    return found


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
    following = (
        one
        for one in requests(evidence)
        if one.source == load.source and one.works and one.entry.line > load.last.line
    )
    return next((one for one in following if one.seconds >= least), None)


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


def _idle(evidence: Evidence, load: Load) -> float | None:
    """Since the request before it ended; of the same source, whose clock is the same."""
    if load.at is None:
        return None
    ended = [
        one.entry.at
        for one in requests(evidence)
        if one.works
        and one.source == load.source
        and one.entry.line < load.entry.line
        and one.entry.at is not None
    ]
    return load.at - ended[-1] if ended else None
