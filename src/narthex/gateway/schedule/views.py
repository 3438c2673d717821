"""What the scheduler shows: everything at one moment, and what a request would meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from narthex.gateway.schedule.ledger import Ledger
from narthex.gateway.schedule.place import Place, State
from narthex.gateway.schedule.policy import Choice, Policy
from narthex.gateway.schedule.records import Forecast, Holding, Snapshot, Waiting
from narthex.gateway.schedule.wait import Wait
from narthex.gateway.trouble import Trouble


def snapshot(
    ledger: Ledger, waits: Iterable[Wait], failed: Mapping[str, tuple[Trouble, float]], now: float
) -> Snapshot:
    """Everything at this moment."""
    return Snapshot(
        room=ledger.room,
        holdings=tuple(_holding(place) for place in ledger.places.values()),
        waiting=tuple(_waiting(wait) for wait in waits),
        remembered=tuple((key, until) for key, (_, until) in failed.items() if now < until),
    )


def _holding(place: Place) -> Holding:
    return Holding(
        key=place.tenant.key,
        state=place.state.value,
        held=place.held,
        running=len(place.running),
        since=place.since,
        idle_since=place.idle_since if place.idle else None,
        pinned=place.tenant.pinned,
    )


def _waiting(wait: Wait) -> Waiting:
    return Waiting(
        ticket=wait.ticket.id,
        wants=wait.key,
        rank=wait.ticket.rank,
        client=wait.ticket.client,
        since=wait.since,
    )


def forecast(
    choice: Choice, now: float, ahead: int, ledger: Ledger, policy: Policy, *, free: bool
) -> Forecast:
    """What one would meet that is not in the queue yet. ``choice``: what it would wait for; ``ahead``: how
    many would go first; ``free``: it would be granted at once."""
    if not choice.key:
        words = choice.trouble.text if choice.trouble is not None else "nothing was asked for"
        return Forecast(key=None, ready=False, trouble=words)
    place = ledger.places.get(choice.key)
    if place is not None and place.state is not State.UNLOADING:
        return Forecast(
            key=choice.key,
            ready=place.ready,
            waits_for=() if free else (choice.key,),
            position=ahead,
            why=choice.instead if place.ready else "it is being loaded",
        )
    evicts, waits_for = _before_a_load(choice.key, ledger, policy, now)
    return Forecast(
        key=choice.key, ready=False, evicts=evicts, waits_for=waits_for, position=ahead, why=choice.instead
    )


def _before_a_load(
    key: str, ledger: Ledger, policy: Policy, now: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Who would go for it, and who has to end first."""
    places = ledger.places
    loading = [one for one, place in places.items() if place.state is State.LOADING]
    gone = policy.in_the_way(key, now)
    if gone is None:
        return (), tuple(one for one, place in places.items() if place.running or one in loading)
    busy = [one for one in gone if places[one].running]
    return gone, tuple(dict.fromkeys([*busy, *loading]))
