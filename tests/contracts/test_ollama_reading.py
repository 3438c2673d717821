"""narthex' own reading of an Ollama, on the fake and on a real one: found, loaded, proven, unloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.engines.ollama.api import Api
from narthex.engines.ollama.discovery import engine_of, find_server
from narthex.engines.ollama.eras import ERAS, automatic_batch, era_of
from narthex.engines.ollama.loading import OllamaLoader
from narthex.engines.ollama.logs import open_log
from narthex.engines.ollama.names import same
from narthex.engines.ollama.options import options_for, parameters_of
from narthex.engines.ollama.records import ApiError, Resident
from narthex.host.collect import collect_host
from narthex.knobs import KnobValues

from .conftest import settles

pytestmark = pytest.mark.engine
LOAD_S = 600.0
MADE = "narthex-test-applied"


@pytest.fixture
def api(ollama: str) -> Api:
    return Api(ollama)


@pytest.fixture
def knobs(api: Api) -> KnobValues:
    batch = automatic_batch(api.version(), 512)
    return KnobValues(num_ctx=512, batch=batch, ubatch=batch)


def resident(api: Api, model: str) -> Resident | None:
    return next((found for found in api.ps() if same(found.name, model)), None)


def quiet(stage: str, share: float | None) -> None:
    """A watch that tells no one."""


def test_the_server_is_found_with_its_era(ollama: str, api: Api) -> None:
    server = find_server(ollama)
    assert server.url == ollama
    assert server.version == api.version()
    assert server.era == era_of(server.version).letter
    assert server.era in {era.letter for era in ERAS}


def test_a_model_is_loaded_and_unloaded(api: Api, unloaded: str, knobs: KnobValues) -> None:
    api.preload(unloaded, options_for(knobs, api.version()), keep_alive=60, timeout_s=LOAD_S)
    found = resident(api, unloaded)
    assert found is not None
    assert found.expires is not None
    assert found.context_length in (None, 512)
    api.unload(unloaded)
    assert settles(lambda: resident(api, unloaded) is None)


def test_the_same_options_keep_the_runner(api: Api, unloaded: str, knobs: KnobValues) -> None:
    options = options_for(knobs, api.version())
    api.preload(unloaded, options, keep_alive=60, timeout_s=LOAD_S)
    first = resident(api, unloaded)
    body = {"model": unloaded, "prompt": "The sky is", "raw": True, "options": {**options, "num_predict": 4}}
    with api.stream("/api/generate", body, timeout_s=LOAD_S) as lines:
        *_, last = lines
    assert last["done"]
    second = resident(api, unloaded)
    assert first is not None
    assert second is not None
    assert (first.size, first.context_length) == (second.size, second.context_length)


def test_a_model_with_parameters_is_made_and_taken_back(api: Api, ollama_model: str) -> None:
    assert "success" in api.create(MADE, ollama_model, {"num_ctx": 768})
    try:
        assert parameters_of(api.show(MADE).parameters)["num_ctx"] == "768"
        api.preload(MADE, keep_alive=60, timeout_s=LOAD_S)
        found = resident(api, MADE)
        assert found is not None
        assert found.context_length in (None, 768)
        api.unload(MADE)
    finally:
        api.delete(MADE)
    with pytest.raises(ApiError) as caught:
        api.show(MADE)
    assert caught.value.status == 404


def test_the_loader_brings_up_a_setting_and_leaves_nothing(
    ollama: str, api: Api, unloaded: str, knobs: KnobValues, tmp_path: Path
) -> None:
    server = find_server(ollama)
    engine = engine_of(server, collect_host(), open_log(server))
    loader = OllamaLoader(server, engine, unloaded, blob=None, log_dir=tmp_path)
    with loader.load(knobs.with_(**engine.limits.fixed), quiet) as running:
        assert running.alive()
        assert running.served_as
        assert running.report.num_ctx in (None, 512)
        assert resident(api, unloaded) is not None
    assert resident(api, unloaded) is None
