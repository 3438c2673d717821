"""What an Ollama does where nobody asks for anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narthex.engines._base import Engine, EngineDevice, Limits
from narthex.engines.ollama.defaults import own_load, server_ctx
from narthex.engines.ollama.logs import FileLog
from narthex.engines.ollama.records import Server
from narthex.errors import UsageError
from narthex.units import GIB


def server(version: str = "0.33.0", **env: str) -> Server:
    return Server(url="http://x", version=version, era="F", source="flag", place="elsewhere", env=env)


def engine(vram_gib: int = 0, **fixed: Any) -> Engine:
    cards = [EngineDevice(name="CUDA0", description="x", total_bytes=vram_gib * GIB, free_bytes=0)]
    return Engine(
        kind="ollama",
        path="http://x",
        source="flag",
        build="0.33.0",
        devices=tuple(cards if vram_gib else ()),
        limits=Limits(fixed={"kv_type": "f16", "parallel": 1, **fixed}, one_batch=True),
    )


@pytest.mark.parametrize(
    ("version", "vram_gib", "ctx"),
    [
        ("0.33.0", 0, 4096),
        ("0.33.0", 20, 4096),
        ("0.33.0", 24, 32_768),
        ("0.33.0", 80, 262_144),
        ("0.12.0", 80, 4096),
        ("0.5.0", 80, 2048),
    ],
)
def test_the_context_follows_version_and_video_memory(version: str, vram_gib: int, ctx: int) -> None:
    found, words = server_ctx(server(version), engine(vram_gib))
    assert found == ctx
    assert version in words


def test_the_servers_own_setting_comes_first() -> None:
    found, words = server_ctx(server(OLLAMA_CONTEXT_LENGTH="9000"), engine(80))
    assert (found, words) == (9000, "OLLAMA_CONTEXT_LENGTH of the server")


def test_the_log_knows_what_was_chosen(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(
        'time=2026-11-22T11:19:00.000Z level=INFO source=routes.go:1951 msg="server config" env="map[]"\n'
        "time=2026-11-22T11:19:01.000Z level=INFO source=routes.go:2058 "
        'msg="vram-based default context" total_vram="23.5 GiB" default_num_ctx=32768\n'
    )
    assert server_ctx(server(), engine(), FileLog(log))[0] == 32_768


def test_a_models_parameters_come_before_the_servers() -> None:
    own = own_load(server(), engine(24), {"num_ctx": 2048, "num_gpu": 19, "num_batch": 256, "num_thread": 4})
    knobs = own.knobs
    assert (knobs.num_ctx, knobs.gpu_layers, knobs.batch, knobs.ubatch, knobs.threads) == (
        2048,
        19,
        256,
        256,
        4,
    )
    assert own.ctx_source == "the model's own PARAMETER"


def test_the_batch_follows_the_context_of_all_slots() -> None:
    assert own_load(server(), engine(), {}).knobs.batch == 512
    assert own_load(server(), engine(parallel=2), {}).knobs.batch == 1024
    assert own_load(server("0.12.0"), engine(parallel=4), {}).knobs.batch == 512


def test_the_context_ends_where_the_training_did() -> None:
    own = own_load(server(), engine(24), None, context_train=8192)
    assert (own.knobs.num_ctx, own.ctx_source) == (8192, "what the model was trained for")


def test_what_the_server_fixes_is_part_of_it() -> None:
    knobs = own_load(server(), engine(kv_type="q8_0", parallel=3, flash_attn="on"), {}).knobs
    assert (knobs.kv_type, knobs.parallel, knobs.flash_attn) == ("q8_0", 3, "on")


def test_a_parameter_that_ollama_would_refuse_is_refused() -> None:
    with pytest.raises(UsageError, match="num_ctx is «4096 # note»"):
        own_load(server(), engine(), {"num_ctx": "4096 # note"})
