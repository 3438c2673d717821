"""``serve``: the process: settings, discovery, the listening socket, and the end."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from narthex.testing.ollama.app import application
from narthex.testing.ollama.devices import probe
from narthex.testing.ollama.era_words import EraWords
from narthex.testing.ollama.log import Log
from narthex.testing.ollama.manner import Manner
from narthex.testing.ollama.scheduler import Scheduler
from narthex.testing.ollama.serving import Serving
from narthex.testing.ollama.settings import read_settings
from narthex.testing.ollama.store import Store

_SHUTDOWN_S = 0.01  # connections are cut; 0 would wait for them


async def serve(
    environ: Mapping[str, str],
    engine_path: Path,
    version: str,
    *,
    limit_mib: int | None,
    recovery_s: float,
    with_parent: bool,
) -> int:
    """Until it is told to end; the exit code."""
    settings = read_settings(environ)
    log = Log("DEBUG" if settings.debug else "INFO")
    for name, value, default in settings.warnings:
        log.warn("invalid environment variable, using default", key=name, value=value, default=default)
    log.info("server config", env=settings.config_line())
    store = Store(settings.models)
    log.info(f"total blobs: {len(list(store.blobs.iterdir()))}")
    log.info("total unused blobs removed: 0")
    words = EraWords(Manner(version), log)
    engine = probe(engine_path)
    devices = engine.devices(environ)
    scheduler = Scheduler(
        engine, settings, words, devices=devices, limit_mib=limit_mib, recovery_s=recovery_s
    )
    serving = Serving(store, scheduler)
    runner = web.AppRunner(
        application(serving), handler_cancellation=True, access_log=None, shutdown_timeout=_SHUTDOWN_S
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError:
        address = f"{settings.host}:{settings.port}"
        sys.stderr.write(f"Error: listen tcp {address}: bind: address already in use\n")
        return 1
    log.info(f"Listening on {settings.host}:{settings.port} (version {version})")
    words.discovering(devices, scheduler.total_vram, scheduler.default_ctx)
    scheduler.open()
    try:
        await _until_told(with_parent)
    finally:
        await runner.cleanup()  # cuts every connection; then the runners go
        await scheduler.close()
    return 0


async def _until_told(with_parent: bool) -> None:
    """SIGTERM, SIGINT, or the end of standard input."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), told.set)  # nobody writes: readable means closed
    await told.wait()
