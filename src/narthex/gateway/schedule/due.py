"""When time alone changes something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from narthex.gateway.schedule.place import Place
from narthex.gateway.schedule.records import Rules
from narthex.gateway.schedule.wait import MOMENT_S, Wait
from narthex.gateway.trouble import Trouble


def at(
    places: Iterable[Place],
    waits: Iterable[Wait],
    failed: Mapping[str, tuple[Trouble, float]],
    rules: Rules,
    now: float,
) -> float | None:
    """The first moment after ``now``, when everything was looked at last; None where nothing is due."""
    waiting = list(waits)
    times = [until for _, until in failed.values()]
    for place in places:
        if (over := place.due_at()) is not None:
            times.append(over)
        if waiting and place.ready:
            times += [place.ready_at + rules.residency_s, place.stays_until(rules.residency_s)]
    for wait in waiting:
        times += [wait.ticket.not_before, wait.since + rules.starvation_s]
        if wait.ticket.until is not None:
            times.append(wait.ticket.until)
        if wait.no_room_since is not None:
            times.append(wait.no_room_since + MOMENT_S)
    return min((time for time in times if time > now), default=None)
