"""A fake Ollama for the commands: one real model under three names, started once for a file of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.cli.target import find_target
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.profiles.profile import Profile
from narthex.profiles.store import save_profile
from narthex.testing.fake_ollama import FakeOllama
from narthex.trials.trial import Turn

SMALL = KnobValues(num_ctx=256, gpu_layers=0, batch=128, ubatch=128)
PARAMETERS = {"num_ctx": 512, "num_thread": 1}

Keep = Callable[..., Profile]


@pytest.fixture(scope="module")
def served(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    """The model as it is, and one with PARAMETERs. Nothing is loaded when a test begins."""
    with FakeOllama(tmp_path_factory.mktemp("ollama") / "models", engine=engine_binary) as fake:
        fake.add_model("small", gemma)
        fake.add_model("small-set", gemma, PARAMETERS)
        yield fake


@pytest.fixture
def keep() -> Keep:
    """``keep(fake, "small", knobs=…)``: a stored profile, as a study on that server would have made it, of a
    turn so slow that any machine is fast enough."""

    def make(fake: FakeOllama, model: str = "small", **changes: Any) -> Profile:
        target = find_target(model, ollama=fake.url)
        profile = Profile(
            name=f"{model}-quick",
            model=target.model,
            engine_kind=target.engine.kind,
            engine_key=target.engine.key,
            engine_build=target.engine.build,
            host_key="that machine",
            gpu=None,
            driver=None,
            goal="balanced",
            knobs=SMALL,
            turn=Turn(depth=32, prompt_tokens=16, generate=8),
            repeats=1,
            turn_s=600.0,
            decode_tps=None,
            prompt_tps=None,
            soak_s=150.0,
            proven=True,
            server_url=fake.url,
        )
        with Journal.open() as journal:
            return save_profile(journal, msgspec.structs.replace(profile, **changes))

    return make
