"""What the journal of narthex says of a model's last good profile, and what changed since."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engines.ollama.little import little_ollama

from narthex import paths
from narthex.doctor.collect import journal
from narthex.doctor.collect.collected import Collected
from narthex.doctor.collect.gather import gather
from narthex.doctor.collect.scope import Scope
from narthex.host.collect import collect_host
from narthex.journal.journal import Journal
from narthex.profiles.profile import Profile
from narthex.profiles.store import save_profile
from narthex.testing.samples import profile
from narthex.trials.trial import ModelRef

pytestmark = pytest.mark.usefixtures("no_docker")

NO_CARDS = (sys.executable, "-c", 'print(\'{"status": "LIBRARY_NOT_FOUND"}\')')
CARD = (
    '{"status": "ok", "driver": "550.54.14", "cards": [{"index": 0, "facts": {"index": 0, "uuid": "GPU-1", '
    '"name": "NVIDIA RTX 4000 Ada Generation", "total_bytes": 1, "free_bytes": 1, "used_bytes": 0}}]}'
)


def look(nvml: tuple[str, ...] = NO_CARDS) -> Collected:
    return gather(Scope(nvml=nvml), collectors=(journal,))


def here(**changes: Any) -> Profile:
    """A profile that was proven on this machine, by a llama-server on the CPU."""
    key = collect_host(processes=False).key
    return msgspec.structs.replace(profile(), **{"gpu": None, "driver": None, "host_key": key, **changes})


def saved(*profiles: Profile) -> None:
    with Journal.open() as own:
        for each in profiles:
            save_profile(own, each)


@pytest.fixture
def model(tmp_path: Path) -> ModelRef:
    path = tmp_path / "demo.gguf"
    path.write_bytes(b"GGUF" * 1024)
    return ModelRef(path=str(path), identity="CAFE" * 8, name="Demo 7B", file_bytes=4096)


def changed(found: Collected) -> list[str]:
    rows = [row for row in found.readings if row.name == "journal.changed"]
    assert len(rows) == 1
    return list(rows[0].value)


def test_without_a_journal_nothing_is_said_and_none_is_made() -> None:
    assert look() == Collected()
    assert not paths.journal_path().exists()


def test_in_the_same_world_nothing_has_changed(model: ModelRef) -> None:
    saved(here(model=model))
    found = look()
    told = next(row for row in found.readings if row.name == "journal.profile")
    assert told.about == "Demo 7B"
    assert told.value["proven"]
    assert changed(found) == []


def test_another_driver_and_card_are_told(model: ModelRef) -> None:
    saved(here(model=model, driver="535.1", gpu="NVIDIA A100"))
    assert changed(look((sys.executable, "-c", f"print({CARD!r})"))) == [
        "the card is NVIDIA RTX 4000 Ada Generation now; it was NVIDIA A100",
        "the GPU driver is 550.54.14 now; it was 535.1",
    ]


def test_another_machine_is_told(model: ModelRef) -> None:
    saved(here(model=model, host_key="another"))
    assert changed(look()) == ["the machine is another one, or its CPU, memory or cards changed"]


def test_a_driver_that_does_not_answer_is_a_gap(model: ModelRef) -> None:
    saved(here(model=model))
    rows = look((sys.executable, "-c", "print('no JSON')")).readings
    assert [row.gap for row in rows if row.name == "journal.changed"] == [
        "can't tell, because the GPU driver could not be asked"
    ]


def test_a_model_file_that_is_gone_or_another_is_told(model: ModelRef) -> None:
    saved(here(model=model))
    Path(model.path).write_bytes(b"GGUF" * 4096)
    assert changed(look()) == ["the model file has 16 KiB now; it had 4 KiB"]
    Path(model.path).unlink()
    assert changed(look()) == [f"the model file {model.path} is gone or can't be read"]


def served(port: int, **changes: Any) -> Profile:
    """A profile of an Ollama."""
    ref = ModelRef(path="", identity="ollama:1", name="demo:latest")
    key = "ollama 0.33.0-rc2 CPU"
    told = {"engine_kind": "ollama", "engine_build": "0.33.0-rc2", "engine_key": key, "model": ref}
    return here(**{**told, "server_url": f"http://127.0.0.1:{port}", **changes})


def test_an_ollama_with_another_version_and_settings_is_told() -> None:
    with little_ollama(env={"OLLAMA_KV_CACHE_TYPE": "q8_0"}) as (port, _):
        saved(served(port, engine_build="0.11.0"))
        version, settings = changed(look())
    assert version == "Ollama is 0.33.0-rc2 now; it was 0.11.0"
    assert settings.startswith("the server's settings are «")
    assert "kv=q8_0" in settings
    assert settings.endswith("they were «all as Ollama has it»")


def test_the_same_ollama_has_not_changed() -> None:
    with little_ollama() as (port, _):
        saved(served(port))
        assert changed(look()) == []


@pytest.mark.engine
def test_a_model_with_other_weights_is_told(
    fake_ollama: Callable[..., Any], gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_ollama(models={"demo": gemma})
    monkeypatch.setenv("OLLAMA_HOST", fake.url)
    other = ModelRef(path="", identity="ollama:0000", name="demo:latest", served_as="demo:latest")
    saved(served(fake.port, model=other))
    assert "demo:latest has other weights now than when its profile was made" in changed(look())


def test_the_newest_proven_profile_of_a_model_counts(model: ModelRef) -> None:
    proven = here(model=model, name="proven")
    newer = here(model=model, name="not-soaked", proven=False)
    refuted = here(model=model, name="refuted", verified=False)
    saved(proven, newer, refuted)
    names = [row.value["name"] for row in look().readings if row.name == "journal.profile"]
    assert names == ["proven"]


def test_a_journal_that_can_not_be_read_is_a_gap() -> None:
    path = paths.journal_path()
    path.parent.mkdir(parents=True)
    path.write_text("no database")
    assert [gap.what for gap in look().skipped] == ["the journal of narthex"]
