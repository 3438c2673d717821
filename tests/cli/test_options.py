"""Options that change what a command works with."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from narthex.cli.options import with_vram
from narthex.cli.target import UNKNOWN_CARD, Target
from narthex.engines._base import Engine
from narthex.engines.ollama.discovery import CARDS_UNKNOWN
from narthex.engines.ollama.records import Server
from narthex.errors import UsageError
from narthex.testing.study_builders import dense_model
from narthex.trials.trial import model_ref
from narthex.units import GIB

SERVER = Server(url="http://far:11434", version="0.33.0", era="F", source="flag", place="elsewhere")


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """A model on a server whose cards can't be seen."""
    inspection = dense_model(tmp_path / "a.gguf", layers=2)
    engine = Engine(
        kind="ollama",
        path=SERVER.url,
        source="flag",
        build="0.33.0",
        devices=(UNKNOWN_CARD,),
        gaps=("Its log can't be read.", CARDS_UNKNOWN),
    )
    model = model_ref(inspection)
    return Target(kind="ollama", inspection=inspection, model=model, server=SERVER, engine=engine)


def test_a_card_that_was_named_is_no_gap_any_more(target: Target) -> None:
    named = with_vram(target, "20GB")
    assert [card.total_bytes for card in named.engine.devices] == [20 * GIB]
    assert named.engine.gaps == ("Its log can't be read.",)
    assert with_vram(target, None).engine.gaps == target.engine.gaps


def test_a_card_that_is_known_is_not_named_anew(target: Target) -> None:
    here = msgspec.structs.replace(target, server=msgspec.structs.replace(SERVER, place="process"))
    with pytest.raises(UsageError, match="--vram is for an Ollama whose cards can't be seen from here"):
        with_vram(here, "20GB")
