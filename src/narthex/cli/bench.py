"""The bench: a model, its engine and this machine made ready for trials, and left as they were."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from narthex.cli.card_lease import Left, card_lease
from narthex.studies.live import tenants_words

if TYPE_CHECKING:
    from narthex.cli.target import Target
    from narthex.engines.ollama.api import Api
    from narthex.host.facts import HostFacts
    from narthex.trials.runner import EngineRunner
    from narthex.trials.workload import Prompts

ONE_TRIAL_S = 120.0  # about what a load and its turns take
RESTART_FLAG = "--restart-container"


class Bench(NamedTuple):
    """What a trial is run with. ``host`` was read after everything else was unloaded."""

    target: Target
    host: HostFacts
    runner: EngineRunner


@contextlib.contextmanager
def bench(
    target: Target,
    *,
    say: Callable[[str], None],
    who: str,
    left: Left,
    prompts: Prompts | None = None,
    restart: bool | None = None,
    bare_as: str | None = None,
) -> Iterator[Bench]:
    """The card, a clean slate, a runner, and at the end what was there before.

    A gateway of narthex' own gives the card to this command alone, ``who``; ``left`` tells it for how long.
    For llama-server there is nothing to clear: what others hold of the card is told. For Ollama its
    resident models are unloaded, and put back afterwards; ``restart`` allows its container or unit to be
    restarted where that does not free the card, or where a killed run left its own settings there; None where
    the command has no flag for that. ``bare_as`` loads a tuned model by name, without options.
    """
    with contextlib.ExitStack() as stack:
        if target.server is not None:
            _must_be_loadable(target)
        stack.enter_context(card_lease(who, say=say, left=left))
        if target.server is not None:
            from narthex.cli.target import retarget
            from narthex.engines.ollama.hand import hand_for
            from narthex.engines.ollama.slate import clean_slate

            hand = hand_for(target.server) if restart else None
            flag = RESTART_FLAG if restart is not None else ""
            slate = clean_slate(target.server, say=say, ask=ask_person(), hand=hand, flag=flag)
            server = stack.enter_context(slate).server
            if server is not target.server:  # it had to be restarted
                target = retarget(target, server)
        ready = bench_of(target, prompts, bare_as=bare_as)
        for words in tenants_words(ready.host):
            say(f"{words}: that is not counted as free.")
        yield ready


def _must_be_loadable(target: Target) -> None:
    """Before anything is unloaded. Raises EngineError for an Ollama that is too old, UsageError for a model
    with a PARAMETER that no load survives, as «4096 # note»."""
    from narthex.cli.served_plan import own_parameters
    from narthex.engines.ollama.options import knobs_from
    from narthex.knobs import KnobValues

    target.loader()
    knobs_from(own_parameters(target)[0], KnobValues())


def bench_of(target: Target, prompts: Prompts | None = None, *, bare_as: str | None = None) -> Bench:
    """The runner, and the machine as it is now."""
    from narthex.trials.runner import EngineRunner

    loader = target.loader(bare_as=bare_as)
    return Bench(target, host_of(target), EngineRunner(loader, target.inspection, prompts=prompts))


def host_of(target: Target) -> HostFacts:
    """The machine that computes. Of an Ollama elsewhere nothing is known but its address.

    For any Ollama the cores are left out: its runner counts them itself, within what its container may use,
    and more threads than that are ruinous.
    """
    from narthex.host.collect import collect_host

    host = collect_host()
    if target.server is None:
        return host
    host = msgspec.structs.replace(host, physical_cores=None).within(target.server.memory_bytes)
    if target.server.place != "elsewhere":
        return host
    return msgspec.structs.replace(
        host,
        hostname=target.server.url,
        ram_total_bytes=0,
        ram_available_bytes=0,
        driver=None,
        gpus=(),
        key=f"elsewhere {target.server.url}",
    )


def cores_of(target: Target) -> int | None:
    """Physical cores: more threads than these are never meant. None for an Ollama elsewhere."""
    from narthex.host.limits import physical_cores

    away = target.server is not None and target.server.place == "elsewhere"
    return None if away else physical_cores()


def ask_person() -> Callable[[str], bool] | None:
    """A yes-or-no question on the terminal; None where nobody sits there."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(question: str) -> bool:
        import click

        return click.confirm(question, err=True)

    return ask


@contextlib.contextmanager
def translated(api: Api, what: str) -> Iterator[None]:
    """What Ollama refuses becomes an error with a way out."""
    from narthex.engines.ollama.api import to_error
    from narthex.engines.ollama.records import ApiError

    try:
        yield
    except ApiError as error:
        raise to_error(error, api.url, what) from error
