"""``narthex route``: what would answer a name, in which order and why; with ``--what-if`` at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from narthex.cli.options import json_option, ollama_option
from narthex.units import format_duration, format_size, sentence

if TYPE_CHECKING:
    from narthex.errors import NarthexError
    from narthex.gateway.ask import Ask
    from narthex.gateway.offer import Offer
    from narthex.gateway.routing.router import Route
    from narthex.gateway.routing.what_if import Now, Outlook
    from narthex.gateway.trouble import Trouble


class Answer(NamedTuple):
    """What was found out. ``gaps``: what is not known, in sentences."""

    route: Route
    now: Now
    outlook: Outlook | None
    gaps: tuple[str, ...]


@click.command()
@click.argument("name")
@click.option("--ctx", type=click.IntRange(1), metavar="N", help="Ask for a context of so many tokens.")
@click.option("--what-if", is_flag=True, help="Say what would be unloaded for it, and how long that takes.")
@ollama_option
@json_option
def command(name: str, ctx: int | None, what_if: bool, ollama: str | None, as_json: bool) -> None:
    """What would answer NAME: a role, a model or a profile. Nothing is loaded, and no service is needed.

    With --what-if a running `narthex serve` is asked, which knows what it does right now; without one it is
    worked out from what Ollama holds.
    """
    answer = _answer(name, ctx, what_if, ollama)
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(as_data(answer)), indent=2).decode())
        return
    click.echo(as_text(answer))


def _answer(name: str, ctx: int | None, what_if: bool, ollama: str | None) -> Answer:
    import asyncio

    from narthex import paths
    from narthex.gateway.routing.catalogue import Catalogue
    from narthex.gateway.routing.router import Router
    from narthex.gateway.routing.what_if import look_around, outlook
    from narthex.gateway.trouble import Trouble
    from narthex.policy import load_policy

    policy = load_policy()
    catalogue = Catalogue(policy, ollama=ollama)
    asyncio.run(catalogue.refresh())
    try:
        route = Router(policy, catalogue).route(_ask(name, ctx))
    except Trouble as trouble:
        raise _refusal(trouble) from trouble
    now = look_around(catalogue, policy)
    gaps = [*now.gaps, *([catalogue.problem.message] if catalogue.problem else [])]
    told = None
    if what_if:
        from narthex.cli.running_gateway import ask_gateway

        told, gap = ask_gateway(policy.gateway, name, ctx)
        if told is None:
            told = outlook(catalogue, now, route.choices, policy, paths.journal_path())
            gaps.append(f"{gap} Worked out here, as if nobody else was asking.")
    return Answer(route, now, told, tuple(gaps))


def _ask(name: str, ctx: int | None) -> Ask:
    """A chat of this name, as a client would ask it."""
    from narthex.gateway.ask import Ask

    options = {} if ctx is None else {"num_ctx": ctx}
    return Ask(
        id="route",
        api="ollama",
        kind="chat",
        path="/api/chat",
        model=name,
        stream=True,
        body=b"",
        fields={},
        options=options,
    )


def _refusal(trouble: Trouble) -> NarthexError:
    from narthex.errors import EngineError, UsageError

    kind = UsageError if trouble.status < 500 else EngineError
    return kind(trouble.message, hint=trouble.remedy)


def as_data(answer: Answer) -> dict[str, Any]:
    """What ``--json`` prints; fields may be added, never changed."""
    route, now = answer.route, answer.now
    return {
        "role": route.role or None,
        "why": route.why,
        "instead": route.instead or None,
        "keep_alive_s": route.keep_alive_s,
        "wait_s": route.wait_s,
        "choices": [_row(offer, now) for offer in route.choices],
        "card": {
            "source": now.words,
            "total_bytes": now.room.total,
            "reserve_bytes": now.room.reserve,
            "others_bytes": now.room.others,
            "free_bytes": now.free,
        },
        "what_if": answer.outlook,
        "gaps": list(answer.gaps),
    }


def _row(offer: Offer, now: Now) -> dict[str, Any]:
    return {
        "name": offer.name,
        "backend": offer.backend,
        "asked_as": offer.model,
        "profile": offer.profile,
        "proven": offer.proven,
        "num_ctx": offer.num_ctx,
        "slots": offer.slots,
        "options": offer.options,
        "knobs": offer.knobs.as_dict() if offer.knobs else None,
        "need_bytes": offer.need_bytes,
        "need_source": offer.need_source,
        "loaded": offer.key in now.held,
        "room": _room(offer, now),
    }


def as_text(answer: Answer) -> str:
    """What a person reads: who answers, the choices in their order, the card, and what would happen."""
    from narthex.views.table import table

    route, now = answer.route, answer.now
    rows = [
        (
            str(number),
            offer.name,
            _setting(offer),
            "?" if offer.num_ctx is None else f"{offer.num_ctx:,}",
            format_size(offer.need_bytes),
            _room(offer, now),
        )
        for number, offer in enumerate(route.choices, start=1)
    ]
    head = ("", "answers", "setting", "context", "needs", "room")
    stays = (
        "for ever"
        if route.keep_alive_s < 0
        else f"{format_duration(route.keep_alive_s)} after its last answer"
    )
    lines = [
        f"Idle it stays {stays}; a request waits {format_duration(route.wait_s)} for its turn at most.",
        *_card_words(now),
        *(_outlook_words(answer.outlook) if answer.outlook else ()),
        *(f"Note: {sentence(gap)}" for gap in answer.gaps),
    ]
    said = sentence(route.why[:1].upper() + route.why[1:])
    return f"{said}\n\n{table(head, rows, right='rllrr')}\n\n" + "\n".join(lines)


def _setting(offer: Offer) -> str:
    from narthex.engines.ollama.options import describe_options

    if offer.profile is not None:
        words = f"profile {offer.profile}" + ("" if offer.proven else ", not proven")
        return words if offer.backend != "ollama" or offer.options else f"{words}, as {offer.model}"
    if offer.backend == "ollama":
        return describe_options(offer.options) if offer.options else "Ollama's and the model's own"
    return offer.knobs.describe() if offer.knobs is not None else "llama-server's own"


def _room(offer: Offer, now: Now) -> str:
    if offer.key in now.held:
        return "loaded"
    need, most, free = offer.need_bytes, now.most, now.free
    if most is None or free is None:
        return "not known"
    if need is None:
        return "its need is not known"
    if need <= most:
        return "fits now" if need <= free else f"fits once {format_size(need - free)} more are free"
    if offer.elastic:
        return "a part of it stays in main memory"
    return f"does not fit: {format_size(need - most)} too much"


def _card_words(now: Now) -> list[str]:
    if now.room.total is None:
        return [f"The room is not known. {now.words}"]
    rest = [f"{format_size(now.room.reserve)} stay free"] if now.room.reserve else []
    rest += [f"other programs hold {format_size(now.room.others)}"] if now.room.others else []
    rest += [f"models hold {format_size(sum(now.held.values()))}"] if now.held else []
    return [f"Room: {format_size(now.room.total)}" + "".join(f", {word}" for word in rest) + f". {now.words}"]


def _outlook_words(seen: Outlook) -> list[str]:
    who = "The gateway" if seen.told_by == "gateway" else "A gateway"
    if seen.name is None:
        return [f"{who} would refuse it now: {sentence(seen.trouble or seen.why)}"]
    if seen.ready:
        return [f"{who} would answer at once: {seen.name} is loaded."]
    words = [f"{who} would load {seen.name}"]
    if seen.waits_for:
        words.append(f"wait for {_and(seen.waits_for)} to finish first")
    if seen.evicts:
        words.append(f"unload {_and(seen.evicts)}")
    took = (
        f"The load takes about {format_duration(seen.load_s)} ({seen.load_source})."
        if seen.load_s is not None
        else "How long the load takes is not known: it was never measured."
    )
    place = [f"{seen.position} others wait before it."] if seen.position else []
    return [sentence(", ".join(words[:1]) + "".join(f", and {word}" for word in words[1:])), *place, took]


def _and(names: tuple[str, ...]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)
