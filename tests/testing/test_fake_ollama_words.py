"""The small parts of the fake Ollama: Go's way of writing, names, sizes, the batch, the reload rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from narthex.testing.ollama import gowords, names
from narthex.testing.ollama.buffers import read_buffers
from narthex.testing.ollama.manner import GIB, Manner
from narthex.testing.ollama.runner import captured, exit_words
from narthex.testing.ollama.settings import read_settings

SECOND = gowords.NS


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (73_428, "73.428µs"),
        (24_400_000, "24.4ms"),
        (1_098_318_680, "1.09831868s"),
        (300 * SECOND, "5m0s"),
        (5400 * SECOND, "1h30m0s"),
        (gowords.FOREVER_NS, "2562047h47m16.854775807s"),
    ],
)
def test_durations_are_written_as_go_writes_them(ns: int, text: str) -> None:
    assert gowords.duration(ns) == text
    assert gowords.parse_duration(text) == pytest.approx(ns, rel=1e-12)


def test_the_access_log_counts_whole_seconds_above_a_minute() -> None:
    assert gowords.access_duration(142_700_000_000) == "2m22s"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("600", 'time: missing unit in duration "600"'),
        ("-1", 'time: missing unit in duration "-1"'),
        ("abc", 'time: invalid duration "abc"'),
        ("", 'time: invalid duration ""'),
        ("3 weeks", 'time: unknown unit " weeks" in duration "3 weeks"'),
    ],
)
def test_what_is_no_duration_is_refused_in_gos_words(text: str, words: str) -> None:
    with pytest.raises(gowords.GoError) as caught:
        gowords.parse_duration(text)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (512 * 2**20, "512.0 MiB"), (25_233_000_000, "23.5 GiB")]
)
def test_sizes_are_binary(size: int, text: str) -> None:
    assert gowords.binary_size(size) == text


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2:latest"),
        ("user/model:7b", "registry.ollama.ai/user/model:7b"),
        ("hf.co/u/r:Q4_K_M", "hf.co/u/r:Q4_K_M"),
        ("localhost:5000/u/m", "localhost:5000/u/m:latest"),
    ],
)
def test_names_are_completed(text: str, full: str) -> None:
    name = names.parse(text)
    assert name is not None
    assert name.full == full


@pytest.mark.parametrize("text", ["", "a b c", "bad name!", "a/b/c/d", "-x", "a:b c"])
def test_impossible_names_are_none(text: str) -> None:
    assert names.parse(text) is None


def test_nonsense_in_the_environment_gives_the_default() -> None:
    env = {"OLLAMA_NUM_PARALLEL": "four", "OLLAMA_KEEP_ALIVE": "soon", "OLLAMA_CONTEXT_LENGTH": "-1"}
    settings = read_settings({**env, "OLLAMA_FLASH_ATTENTION": "maybe", "OLLAMA_MODELS": "/m"})
    assert (settings.num_parallel, settings.context_length, settings.flash_attn) == (1, 0, True)
    assert settings.keep_alive_ns == 300 * SECOND
    assert [name for name, _, _ in settings.warnings] == ["OLLAMA_NUM_PARALLEL", "OLLAMA_CONTEXT_LENGTH"]


def test_the_config_line_has_the_keys_of_the_recorded_one(shared: Path) -> None:
    recorded = json.loads((shared / "ollama-wire" / "001-startup-normal.json").read_text())
    (line,) = [line for line in recorded["server_log"] if "server config" in line]
    ours = read_settings({"OLLAMA_MODELS": "/models", "OLLAMA_HOST": "127.0.0.1:21434"}).config_line()
    assert f'env="{ours}"'.replace("NO_CLOUD:true", "NO_CLOUD:false") in line


def test_sizes_equal_the_recorded_ones_to_the_byte(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "ollama-wire").glob("*.json")):
        for resident, lines, file_bytes in loads(json.loads(path.read_text())):
            buffers = read_buffers(lines)
            assert buffers.size(file_bytes) == resident["size"], path.name
            assert buffers.on_gpu == resident["size_vram"], path.name
            compared += 1
    assert compared > 30


def loads(recorded: dict[str, Any]) -> list[tuple[dict[str, Any], list[str], int]]:
    """Each time that one model is listed: the entry, the log of its load, the size of its file."""
    found, log = [], list[str]()
    for exchange in recorded.get("exchanges", [recorded]):
        log += exchange.get("server_log") or []
        models = (exchange.get("body") or {}).get("models") or []
        if exchange.get("path") != "/api/ps" or len(models) != 1:
            continue
        starts = [at for at, line in enumerate(log) if "starting llama-server" in line]
        lines = log[starts[-1] :] if starts else []
        if any("compute buffer size" in line for line in lines):
            file_bytes = {"gemma3": 253_113_024, "llama": 166_585_000}[models[0]["details"]["family"]]
            found.append((models[0], lines, file_bytes))
    return found


def test_the_default_context_follows_the_vram_and_the_release() -> None:
    assert [Manner("0.33.0").default_ctx(size * GIB) for size in (0, 22, 23, 47)] == [
        4096,
        4096,
        32768,
        262144,
    ]
    assert Manner("0.12.0").default_ctx(80 * GIB) == 4096
    assert Manner("0.5.0").default_ctx(80 * GIB) == 2048


def test_the_automatic_batch_grows_with_the_context_and_shrinks_for_memory() -> None:
    batch = Manner("0.33.0").automatic_batch
    assert [batch(ctx, 0, 0) for ctx in (4096, 4097, 32768, 32769)] == [512, 1024, 1024, 2048]
    assert batch(65536, 9 * GIB, 12 * GIB) == 512
    assert Manner("0.20.0").automatic_batch(65536, 0, 0) == 512


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "llama_model_load: error loading model: unable to allocate CPU buffer",
            "error loading model: unable to allocate CPU buffer",
        ),
        (
            "/build/ggml.c:1643: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
            "GGML_ASSERT(ctx->mem_buffer != NULL) failed",
        ),
        (
            "graph_reserve: failed to allocate compute buffers",
            "graph_reserve: failed to allocate compute buffers",
        ),
        ("llama_model_load_from_file_impl: failed to load model", None),
        ('error while handling argument "--cache-type-k": Unsupported cache type: q5_9', None),
    ],
)
def test_error_texts_are_made_of_some_lines(line: str, words: str | None) -> None:
    assert captured(line) == words


def test_the_end_of_a_process_is_named_as_go_names_it() -> None:
    assert [exit_words(code) for code in (1, -9, -6, -4)] == [
        "exit status 1",
        "signal: killed",
        "signal: aborted",
        "signal: illegal instruction",
    ]
