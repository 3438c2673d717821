"""Loading with a llama-server of its own: the same seam as for a server that narthex did not start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from narthex.engines._base import Engine, Loader
from narthex.engines.llama_loader import LlamaLoader
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome

KNOBS = KnobValues(num_ctx=256, threads=2)


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


@pytest.mark.engine
def test_a_loaded_model_tells_how_it_is_asked(engine: Engine, gemma: Path, tmp_path: Path) -> None:
    loader: Loader = LlamaLoader(engine, gemma, log_dir=tmp_path)
    with loader.load(KNOBS, quiet) as running:
        assert (running.wire, running.served_as, running.options) == ("llama-server", "", {})
        assert running.pid is not None
        assert running.disturbed() is None
        assert running.explain(Outcome.TIMEOUT, "no end", lost=False).line == "no end"
    assert running.log_path is not None
    assert running.log_path.parent == tmp_path


@pytest.mark.engine
def test_a_lost_connection_is_explained_by_the_exit(engine: Engine, gemma: Path, tmp_path: Path) -> None:
    with LlamaLoader(engine, gemma, log_dir=tmp_path).load(KNOBS, quiet) as running:
        assert running.pid is not None
        os.kill(running.pid, signal.SIGSEGV)
        failure = running.explain(Outcome.REQUEST_FAILED, "the connection broke off", lost=True)
    assert failure.outcome is Outcome.CRASHED
    assert failure.exit_code == -signal.SIGSEGV


def test_there_is_no_server_to_wait_for(tmp_path: Path) -> None:
    engine = Engine(kind="llama-server", path="", source="flag", build="b1", devices=())
    assert not LlamaLoader(engine, tmp_path / "m.gguf", log_dir=tmp_path).came_back(quiet)
