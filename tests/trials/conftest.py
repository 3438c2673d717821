"""A real engine with the real 270M model, and short questions for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narthex.engines._base import Engine
from narthex.engines.llama_loader import LlamaLoader
from narthex.engines.llama_server import find_engine
from narthex.knobs import KnobValues
from narthex.models.gguf import inspect_file
from narthex.models.inspection import Inspection
from narthex.trials.runner import EngineRunner
from narthex.trials.trial import Trial, Turn, model_ref

SHORT = Turn(depth=128, prompt_tokens=64, generate=16)

Ask = Callable[..., Trial]


def quiet(stage: str, share: float | None) -> None:
    """A watch that says nothing."""


@pytest.fixture(scope="session")
def engine(engine_binary: Path) -> Engine:
    return find_engine(str(engine_binary))


@pytest.fixture
def narrow_engine(engine: Engine, tmp_path: Path) -> Path:
    """The same engine with room for little more than the weights."""
    path = tmp_path / "llama-server"
    path.write_text(f'#!/bin/sh\nulimit -v 1200000\nexec "{engine.path}" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def inspection(gemma: Path) -> Inspection:
    return inspect_file(gemma)


@pytest.fixture
def runner(engine: Engine, gemma: Path, inspection: Inspection, tmp_path: Path) -> EngineRunner:
    return EngineRunner(LlamaLoader(engine, gemma, log_dir=tmp_path), inspection)


@pytest.fixture
def ask(engine: Engine, inspection: Inspection) -> Ask:
    """Makes trials: ``ask(num_ctx=512, repeats=2)``; knobs and a trial's fields alike."""

    def build(**given: Any) -> Trial:
        knobs = {name: given.pop(name) for name in list(given) if name in KnobValues.__struct_fields__}
        return Trial(
            model=model_ref(inspection),
            engine_key=engine.key,
            host_key="test",
            knobs=KnobValues(**{"num_ctx": 512, "threads": 2, **knobs}),
            **{"turn": SHORT, "repeats": 1, **given},
        )

    return build
