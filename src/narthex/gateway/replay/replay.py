"""``replay``: a log as it was, as the scheduler does it now, and as another setting would do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from narthex.errors import UsageError
from narthex.gateway.replay.course import Course, happened
from narthex.gateway.replay.learning import UNLOAD_S, Learnt
from narthex.gateway.replay.reading import read_log
from narthex.gateway.replay.settings import changed, of_log
from narthex.gateway.replay.simulating import Simulation
from narthex.gateway.watch.starting import steering
from narthex.units import format_count


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it; also what `narthex replay --json` prints."""

    span_s: float
    settings: dict[str, Any]  # that the log was written under
    changes: tuple[str, ...]
    happened: Course
    replayed: Course  # with the same settings: how far the replay is to be believed
    tried: Course | None  # with the changes; None where there are none
    gaps: tuple[str, ...]


def replay(where: Path | None, changes: Sequence[str]) -> Replay:
    """Raises UsageError for a log that is none, or a setting that there is not."""
    log = read_log(where)
    before = of_log(log)
    wanted = changed(before, changes)
    learnt = Learnt(log)
    if not learnt.requests:
        raise UsageError(
            "No request in the log was for a model.",
            hint="Use the gateway for a while, then come back.",
        )
    gaps = list(learnt.gaps)
    if log.bad:
        gaps.insert(0, f"{format_count(log.bad, 'line')} could not be read and were passed by.")
    left_out = len(log.requests) - len(learnt.requests)
    if left_out:
        gaps.append(f"Left out: {format_count(left_out, 'request')} that never got to the scheduler.")
    return Replay(
        span_s=log.span_s,
        settings=steering(before),
        changes=tuple(changes),
        happened=happened(log, UNLOAD_S, learnt.keys),
        replayed=Simulation(learnt, before, before).run(),
        tried=Simulation(learnt, wanted, before).run() if changes else None,
        gaps=tuple(gaps),
    )
