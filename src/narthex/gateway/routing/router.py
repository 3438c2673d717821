"""``Router``: from a name to the offers that may answer, in order, and why. Policy alone: nothing is waited
for, and whether there is room is the scheduler's to know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from narthex.errors import NarthexError
from narthex.gateway.ask import Ask, Rank
from narthex.gateway.offer import Offer
from narthex.gateway.routing.refusals import context_too_large, damaged_file, pin_refused, unknown_name
from narthex.gateway.routing.wishes import asked_ctx, estimated, pins
from narthex.gateway.trouble import Trouble
from narthex.models.header import printable
from narthex.policy.records import Policy, RolePolicy

HOLD_S = 0.3
"""A background call waits so long for a person's own: OpenWebUI asks for a title 100 ms before the chat."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """What may answer, the first choice first. ``instead`` says why the first choice is not what the name
    stands for; "" where it is. Times in seconds; a negative ``keep_alive_s`` is for ever."""

    role: str  # "" where a model or a profile was named
    choices: tuple[Offer, ...]
    why: str
    keep_alive_s: float
    wait_s: float
    hold_s: float = 0.0
    instead: str = ""


class Shelf(Protocol):
    """What the router asks of the catalogue."""

    @property
    def problem(self) -> Trouble | None: ...

    @property
    def generation(self) -> int: ...

    def named(self, name: str) -> Offer | None: ...

    def siblings(self, offer: Offer) -> tuple[Offer, ...]: ...

    def names(self) -> tuple[str, ...]: ...

    def fault(self, name: str) -> NarthexError | None: ...


class _Way(NamedTuple):
    """What a name stands for, as long as neither catalogue nor policy changes."""

    role: RolePolicy
    heads: tuple[Offer, ...]  # the model and its fallbacks, as far as they are there
    instead: str  # why the first of them is not the one that is meant
    why: str


class Router:
    """``resident`` tells the keys of what is loaded now, for background calls that go there."""

    def __init__(
        self, policy: Policy, shelf: Shelf, *, resident: Callable[[], Collection[str]] = frozenset
    ) -> None:
        self._policy, self._shelf, self._resident = policy, shelf, resident
        self._ways: dict[str, _Way] = {}
        self._generation = -1

    def change(self, policy: Policy) -> None:
        """Another policy, from the next request on."""
        self._policy = policy
        self._ways.clear()

    def roles(self) -> Mapping[str, Offer | None]:
        """Role → what it would take now; None where nothing of it is here."""
        found: dict[str, Offer | None] = {}
        for role in self._policy.roles.values():
            found[role.name] = next((offer for _, offer in self._heads(role) if offer is not None), None)
        return found

    def choices(self) -> Mapping[str, tuple[Offer, ...]]:
        """Role → all that it may take and that is here, in order."""
        return {
            role.name: tuple(offer for _, offer in self._heads(role) if offer is not None)
            for role in self._policy.roles.values()
        }

    def route(self, ask: Ask) -> Route:
        """Where a request may go. With background calls «as-asked» it also raises ``ask.rank`` to a person's.

        Raises Trouble: 404 for a name that is not known, 400 for a context that no setting of the model has
        and for a pin that the policy does not allow; what keeps Ollama from being listed where that may be
        why the name is not known.
        """
        way = self._way(ask.model)
        gateway = self._policy.gateway
        keep_alive_s = gateway.keep_alive if way.role.keep_alive is None else way.role.keep_alive
        if ask.keep_alive is not None and pins(ask.keep_alive):
            if not gateway.pins:
                raise pin_refused(ask.keep_alive, keep_alive_s)
            keep_alive_s = -1.0
        heads, why = self._with_room(ask, way)
        choices = list(self._in_order(heads, ask)) if gateway.smaller else heads
        hold_s = 0.0
        if ask.rank is Rank.BACKGROUND:
            if gateway.background == "as-asked":
                ask.rank = Rank.INTERACTIVE
            elif gateway.background == "after":
                hold_s = HOLD_S
            elif (loaded := self._loaded(choices)) is not None:
                choices, why = [loaded, *choices], f"{loaded.name} is loaded, and background calls go there"
        return Route(
            role=way.role.name,
            choices=tuple({choice.key: choice for choice in choices}.values()),
            why=way.why if not why else f"{way.why}; {why}",
            keep_alive_s=keep_alive_s,
            wait_s=gateway.wait if way.role.wait is None else way.role.wait,
            hold_s=hold_s,
            instead=why or way.instead,
        )

    def larger(self, ask: Ask, route: Route, needed_tokens: int) -> Route | None:
        """Another route once the engine said how long the prompt is; None where no setting has that room."""
        first = route.choices[0]
        held = first.num_ctx or 0
        found = self._roomy(first, self._way(ask.model).role, max(needed_tokens, held + 1))
        if found is None:
            return None
        words = f"the prompt takes {needed_tokens:,} tokens, and {first.name} has {held:,}"
        rest = [each for each in route.choices[1:] if (each.num_ctx or 0) >= needed_tokens]
        return msgspec.structs.replace(
            route, choices=(found, *rest), instead=words, why=f"{route.why}; {words}"
        )

    # names

    def _way(self, name: str) -> _Way:
        if self._generation != self._shelf.generation:
            self._ways.clear()
            self._generation = self._shelf.generation
        way = self._ways.get(name)
        if way is None:
            way = self._found(name)
            if len(self._ways) < 1000:  # clients may write one name in many ways
                self._ways[name] = way
        return way

    def _found(self, name: str) -> _Way:
        """A role by its very name, else a model, a profile or a file, else a role with «:latest» behind it,
        as some clients write it. A role goes before a model of its name; with its tag the model is meant."""
        role = self._policy.role(name.strip())
        offer = None if role is not None else self._shelf.named(name)
        if offer is not None:
            words = f"«{printable(name)}» is {_described(offer)}"
            return _Way(RolePolicy(), (offer,), "", words)
        role = role or self._policy.role(name.strip().removesuffix(":latest"))
        if role is None:
            raise self._not_found(name)
        rows = list(self._heads(role))
        heads = tuple(offer for _, offer in rows if offer is not None)
        if not heads:
            raise self._not_found(role.model or "", role)
        missing = [entry for entry, offer in rows if offer is None]
        instead = f"{rows[0][0]} is not here" if rows[0][1] is None else ""
        words = f"the role «{role.name}» is {_described(heads[0])}"
        if missing:
            words += f"; not here: {', '.join(missing)}"
        return _Way(role, heads, instead, words)

    def _heads(self, role: RolePolicy) -> Iterator[tuple[str, Offer | None]]:
        """The role's model and its fallbacks, with what each stands for; a role among them is its model."""
        for entry in (role.model or "", *role.fallbacks):
            offer = self._shelf.named(entry)
            if offer is None and (other := self._policy.role(entry)) is not None and other is not role:
                offer = self._shelf.named(other.model or "")
            yield entry, offer

    def _not_found(self, name: str, role: RolePolicy | None = None) -> Trouble:
        """What keeps Ollama from being listed, where that may be why; else the near names."""
        if (fault := self._shelf.fault(name)) is not None:
            return damaged_file(name, fault)
        if self._shelf.problem is not None:
            return self._shelf.problem
        known = [*(each.name for each in self._policy.roles.values()), *self._shelf.names()]
        return unknown_name(name, known, role.name if role is not None else "")

    # contexts

    def _with_room(self, ask: Ask, way: _Way) -> tuple[list[Offer], str]:
        """The heads, each with the context that is asked for; and why the first is another setting."""
        asked = asked_ctx(ask)
        needed = max(asked or 0, estimated(ask))
        if all(offer.num_ctx is None or offer.num_ctx >= needed for offer in way.heads):
            return list(way.heads), ""
        found: list[Offer] = []
        why = ""
        for offer in way.heads:
            chosen: Offer | None = offer
            if offer.num_ctx is not None and offer.num_ctx < needed:
                chosen = self._roomy(offer, way.role, needed)
                if chosen is None and (asked is None or offer.num_ctx >= asked):
                    chosen = offer  # an estimate refuses nothing
                elif chosen is None and asked is not None:
                    chosen = self._roomy(offer, way.role, asked)
            if chosen is not None:
                found.append(chosen)
            if chosen is not offer and offer is way.heads[0]:
                why = _room_words(offer, asked, needed)
        if not found:
            first = way.heads[0]
            most = max(
                each.num_ctx or 0 for head in way.heads for each in (head, *self._shelf.siblings(head))
            )
            raise context_too_large(way.role.name, first.name, asked or 0, most)
        return found, why

    def _roomy(self, offer: Offer, role: RolePolicy, tokens: int) -> Offer | None:
        """The smallest sufficient setting: of those that the role names, else a proven one of this model."""
        named = (self._shelf.named(name) for name in role.larger)
        own = (each for each in self._shelf.siblings(offer) if each.proven)
        for rows in ((each for each in named if each is not None), own):
            if fitting := [each for each in rows if (each.num_ctx or 0) >= tokens]:
                return min(fitting, key=lambda each: each.num_ctx or 0)
        return None

    def _in_order(self, heads: Sequence[Offer], ask: Ask) -> Iterator[Offer]:
        """Behind the first choice the same model with less context, which may load where that can't."""
        first = heads[0]
        yield first
        least = max(asked_ctx(ask) or 0, estimated(ask))
        smaller = [
            each
            for each in self._shelf.siblings(first)
            if each.proven and least <= (each.num_ctx or 0) < (first.num_ctx or 0)
        ]
        yield from smaller[-1:]
        yield from heads[1:]

    def _loaded(self, choices: Iterable[Offer]) -> Offer | None:
        """What is loaded and can answer a background call; None where nothing is, or a choice is itself."""
        ready = self._resident()
        if any(choice.key in ready for choice in choices):
            return next(choice for choice in choices if choice.key in ready)
        return next((offer for offer in self._answering() if offer.key in ready), None)

    def _answering(self) -> Iterator[Offer]:
        for name in self._shelf.names():
            offer = self._shelf.named(name)
            if offer is not None and (not offer.capabilities or "completion" in offer.capabilities):
                yield offer


def _room_words(offer: Offer, asked: int | None, needed: int) -> str:
    if asked is not None and asked > (offer.num_ctx or 0):
        return f"a context of {asked:,} is asked for, and {offer.name} has {offer.num_ctx:,}"
    return f"the prompt may take {needed:,} tokens, and {offer.name} has {offer.num_ctx:,}"


def _described(offer: Offer) -> str:
    words = offer.name
    if offer.profile is not None and offer.profile != offer.name:
        words += f" with the {'proven ' if offer.proven else ''}profile {offer.profile}"
    elif offer.profile is not None:
        words = f"the {'proven ' if offer.proven else ''}profile {offer.profile}"
    return words
