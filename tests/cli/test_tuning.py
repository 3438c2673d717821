"""What a study from the command line takes for the user's own setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from narthex.cli.bench import Bench, bench_of
from narthex.cli.target import Target
from narthex.cli.tuning import Tuning, current_of
from narthex.engines._base import Engine
from narthex.engines.ollama.records import Server
from narthex.journal.journal import Journal
from narthex.knobs import KnobValues
from narthex.profiles.store import save_profile
from narthex.studies.records import Question
from narthex.testing.samples import profile
from narthex.testing.study_builders import dense_model
from narthex.trials.trial import ModelRef, Turn, model_ref
from narthex.views.progress import Progress

URL = "http://127.0.0.1:9"  # nobody answers, so the model's own PARAMETERs are not known
SERVER = Server(url=URL, version="0.33.0", era="F", source="flag", place="elsewhere")
HELD = KnobValues(num_ctx=8192, gpu_layers=2)
ASKED = Question(turn=Turn(depth=32, prompt_tokens=16, generate=8))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A model that a server knows as «small», on that server."""
    inspection = dense_model(tmp_path / "a.gguf", layers=2)
    engine = Engine(kind="ollama", path=URL, source="flag", build="0.33.0", devices=())
    model = msgspec.structs.replace(model_ref(inspection), served_as="small:latest")
    return bench_of(Target(kind="ollama", inspection=inspection, model=model, server=SERVER, engine=engine))


def found(bench: Bench, **stored: Any) -> KnobValues | None:
    """What the user has, with one profile in the journal; by default one that was applied to this model."""
    usual = {
        "engine_kind": "ollama",
        "applied_as": "small-narthex",
        "applied_to": URL,
        **stored,
    }
    kept: ModelRef = usual.pop("model", bench.target.model)
    with Journal.open() as journal:
        save_profile(journal, msgspec.structs.replace(profile(model=kept, knobs=HELD), **usual))
        return current_of(Tuning(journal, ASKED, Progress("x")), bench)


def test_in_ollama_it_is_the_profile_that_was_applied(bench: Bench) -> None:
    assert found(bench) == HELD


@pytest.mark.parametrize(
    "stored",
    [
        {"applied_as": None, "applied_to": None},
        {"applied_to": "http://127.0.0.1:11434"},
        {"engine_kind": "llama-server"},
        {"demo": True},
        {"knobs": KnobValues(num_ctx=32, gpu_layers=2)},
    ],
)
def test_a_profile_that_is_not_in_use_here_is_not_what_the_user_has(
    bench: Bench, stored: dict[str, Any]
) -> None:
    assert found(bench, **stored) is None


def test_one_of_another_name_over_the_same_file_is_not(bench: Bench) -> None:
    other = msgspec.structs.replace(bench.target.model, served_as="other:latest")
    assert found(bench, model=other) is None


def test_for_llama_server_it_is_the_newest_profile(bench: Bench) -> None:
    engine = msgspec.structs.replace(bench.target.engine, kind="llama-server")
    target = msgspec.structs.replace(bench.target, kind="llama-server", server=None, engine=engine)
    alone = bench._replace(target=target)
    assert found(alone, engine_kind="llama-server", applied_as=None, applied_to=None) == HELD
