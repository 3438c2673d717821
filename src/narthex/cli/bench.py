"""The bench: a model, its engine and this machine made ready for trials, and left as they were."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from narthex.cli.target import Target
    from narthex.engines.ollama.api import Api
    from narthex.host.facts import HostFacts
    from narthex.trials.runner import EngineRunner
    from narthex.trials.workload import Prompts


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
    prompts: Prompts | None = None,
    restart: bool = False,
    bare_as: str | None = None,
) -> Iterator[Bench]:
    """A clean slate, a runner, and at the end what was there before.

    For llama-server there is nothing to clear: what others hold of the card is told. For Ollama its
    resident models are unloaded, and put back afterwards; ``restart`` allows its container or unit to be
    restarted where that does not free the card. ``bare_as`` loads a tuned model by name, without options.
    """
    from narthex.host.collect import collect_host
    from narthex.studies.live import tenants_words
    from narthex.trials.runner import EngineRunner

    with contextlib.ExitStack() as stack:
        if target.server is not None:
            from narthex.engines.ollama.hand import hand_for
            from narthex.engines.ollama.slate import clean_slate

            hand = hand_for(target.server) if restart else None
            stack.enter_context(clean_slate(target.server, say=say, ask=ask_person(), hand=hand))
        host = collect_host()
        for words in tenants_words(host):
            say(f"{words}: that is not counted as free.")
        loader = target.loader(bare_as=bare_as)
        yield Bench(target, host, EngineRunner(loader, target.inspection, prompts=prompts))


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
