"""``serve``: the gateway as a process: its parts, its sockets, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from narthex.errors import NarthexError, UsageError
from narthex.gateway.building import Parts
from narthex.gateway.door.place import LISTEN, place_of
from narthex.gateway.door.wire import wire_logger
from narthex.policy import Policy, load_policy

BACKLOG = 1024
HEADER_BYTES = 16 << 10
KEEP_OPEN_S = 120.0  # an idle connection; clients open another one when they need it
END_S = 1.0  # for connections that are left when all engines have ended


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says. None: as narthex.toml has it, or found."""

    config: Path | None = None
    listen: str | None = None
    ollama: str | None = None
    only_llama: bool = False  # no Ollama is looked for
    engine_path: str | None = None
    engine_args: tuple[str, ...] = ()
    vram: int | None = None
    container: bool = False
    log_json: bool = False

    def policy(self) -> Policy:
        """The policy with what the command line says laid over it. Raises UsageError."""
        policy = load_policy(self.config)
        changes = {
            name: value for name, value in (("listen", self.listen), ("vram", self.vram)) if value is not None
        }
        return msgspec.structs.replace(policy, gateway=msgspec.structs.replace(policy.gateway, **changes))


def serve(setup: Setup, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT. Raises NarthexError where it can't begin."""
    policy = setup.policy()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(setup, policy, say))


async def _serve(setup: Setup, policy: Policy, say: Callable[[str], None]) -> None:
    host, port = place_of(policy.gateway.listen or LISTEN)
    door = _bound(host, port)  # before anything is started: a port that is taken is the commonest mistake
    port = int(door.getsockname()[1])
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parts = Parts(setup, policy, host=host, port=port)
    server = web.Server(
        parts.gateway.handle,
        handler_cancellation=True,
        access_log=None,
        logger=wire_logger(),
        max_field_size=HEADER_BYTES,
        keepalive_timeout=KEEP_OPEN_S,
        auto_decompress=False,
    )
    runner = web.ServerRunner(server, shutdown_timeout=END_S)
    await runner.setup()
    try:
        loop.add_signal_handler(signal.SIGHUP, _reloader(parts))
        if not await _unless(stop, _opened(parts, runner, door)):
            return say("Ended before it served.")
        gc.freeze()  # what is there now stays: no later collection has to look at it
        say(f"narthex serves at http://{_spoken(host)}:{port} ({parts.describe()}). Ctrl-C ends it.")
        await stop.wait()
        say(f"Ending: answers under way have {parts.gateway.policy.drain:g} s; again Ctrl-C ends at once.")
        await _drain(runner, parts, stop)
    finally:
        loop.add_signal_handler(signal.SIGINT, os._exit, 128 + signal.SIGINT)  # engines end with narthex
        await parts.close()
        await runner.cleanup()


async def _opened(parts: Parts, runner: web.ServerRunner, door: socket.socket) -> None:
    await parts.start()
    if parts.comfyui_place is not None:
        await _listen_for_comfyui(parts)
    await web.SockSite(runner, door, backlog=BACKLOG).start()


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether it was done before it was to stop: an engine may keep one waiting that is only looked for."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
        return not stop.is_set()
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen yet. Raises UsageError."""
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, number)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
    except (OSError, ValueError) as error:  # a name that no name server takes
        words = (error.strerror if isinstance(error, OSError) else None) or "it is no host"
        raise UsageError(
            f"narthex can't listen at {_spoken(host)}:{port}: {words}.",
            hint="Another program, or another narthex, may be there; give another port with --listen.",
        ) from error
    return bound


async def _listen_for_comfyui(parts: Parts) -> None:
    assert parts.comfyui_place is not None
    door = _bound(*parts.comfyui_place)
    server = web.Server(
        parts.comfyui_handler,
        handler_cancellation=True,
        access_log=None,
        logger=wire_logger(),
        auto_decompress=False,
    )
    own = web.ServerRunner(server)
    await own.setup()
    parts.also_close(own.cleanup)
    await web.SockSite(own, door, backlog=BACKLOG).start()


def _reloader(parts: Parts) -> Callable[[], None]:
    def reload() -> None:
        try:
            parts.reload()
        except NarthexError as error:
            parts.telling.events.say("reload", f"The policy stays as it was: {error.message} {error.hint}")
        else:
            parts.telling.events.say("reload", "The policy was read again.")

    return reload


async def _drain(runner: web.ServerRunner, parts: Parts, stop: asyncio.Event) -> None:
    """No new connections; answers under way come to their end, or to the end of patience."""
    for site in list(runner.sites):
        await site.stop()
    stop.clear()
    loop = asyncio.get_running_loop()
    until = loop.time() + parts.gateway.policy.drain
    parts.conductor.no_more()
    while parts.gateway.under_way and loop.time() < until and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 0.05)


def _spoken(host: str) -> str:
    return f"[{host}]" if ":" in host else host
