"""A server that was started anew: wait until it answers, and see that it has the settings it was given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from narthex.engines.ollama import discovery
from narthex.engines.ollama.address import parse_host
from narthex.engines.ollama.records import ApiError, Server
from narthex.errors import EngineError
from narthex.host.processes import environment

WAIT_S = 120.0  # for the server to answer again; a big store takes a while to be listed
POLL_S = 0.25


def ask_again(url: str, source: str) -> Server | str:
    """The server as it is now, or why there is no answer."""
    try:
        return discovery.look(parse_host(url), source)
    except ApiError as error:
        return error.text


def wait_for(look: Callable[[], Server | str], name: str) -> Server:
    """Until the server answers. Raises EngineError after a while, with the last thing that was seen."""
    until = time.monotonic() + WAIT_S
    while isinstance(seen := look(), str):
        if time.monotonic() > until:
            raise EngineError(
                f"«{name}» was started anew and does not answer: {seen}.", hint="Look at its log."
            )
        time.sleep(POLL_S)
    return seen


def prove(server: Server, changes: Mapping[str, str | None]) -> None:
    """The new process must have the environment that was asked for, where that can be read."""
    env = environment(server.pid) if server.pid is not None else {}
    for name, value in changes.items() if env else ():
        if env.get(name) != value:
            raise EngineError(
                f"{name} did not become {value or 'unset'}: the server has {env.get(name, 'none')}.",
                hint="Something else sets it, such as a wrapper script; change it there.",
            )
