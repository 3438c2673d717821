"""``narthex plan`` and ``inspect`` for models of Ollama: the server's own values, said in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narthex.cli.failure import run
from narthex.cli.main import command
from narthex.testing.fake_ollama import FakeOllama
from narthex.testing.ollama.canned import Canned, canned


@pytest.fixture(scope="module")
def served(
    engine_binary: Path, gemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeOllama]:
    env = {"OLLAMA_KV_CACHE_TYPE": "q8_0", "OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_NUM_PARALLEL": "2"}
    store = tmp_path_factory.mktemp("ollama") / "models"
    with FakeOllama(store, engine=engine_binary, env=env) as fake:
        fake.add_model("gemma", gemma)
        fake.add_model("gemma-8k", gemma, {"num_ctx": 8192, "num_batch": 128})
        yield fake


@pytest.fixture
def afar() -> Iterator[Canned]:
    with canned() as answers:
        info = {
            "general.architecture": "llama",
            "llama.block_count": 2,
            "llama.context_length": 4096,
            "llama.embedding_length": 256,
            "llama.feed_forward_length": 512,
            "llama.attention.head_count": 4,
        }
        tensors = [{"name": "token_embd.weight", "type": "Q4_K", "shape": [256, 1000]}]
        parameters = 'num_ctx                        2048\nstop                           "<x>"\n'
        answers.shows["a:latest"] = {"model_info": info, "tensors": tensors, "parameters": parameters}
        yield answers


def narthex(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(command, list(words))
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code, out, err = narthex(capsys, "plan", *words, "--json")
    assert code == 0, err
    data: dict[str, Any] = json.loads(out)
    return data


def test_what_the_server_fixes_is_planned_and_said(
    served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    data = planned(capsys, "gemma", "--ollama", served.url, "--vram", "8GB")
    knobs = data["knobs"]
    assert (knobs["kv_type"], knobs["flash_attn"], knobs["parallel"]) == ("q8_0", "on", 2)
    assert knobs["batch"] == knobs["ubatch"]
    assert {row["kv_type"] for row in data["frontier"]} == {"q8_0"}
    assert (
        "The server's own, the same for every load: KV type q8_0, flash attention on, slots 2."
        in data["gaps"]
    )


def test_the_models_own_parameters_come_first(served: FakeOllama, capsys: pytest.CaptureFixture[str]) -> None:
    data = planned(capsys, "gemma-8k", "--ollama", served.url, "--vram", "8GB")
    assert (data["knobs"]["num_ctx"], data["knobs"]["batch"], data["knobs"]["ubatch"]) == (8192, 128, 128)
    assert "The model's own PARAMETERs: num_ctx 8192 · num_batch 128." in data["gaps"]
    data = planned(
        capsys, "gemma-8k", "--ollama", served.url, "--vram", "8GB", "--ctx", "1024", "--batch", "64"
    )
    assert (data["knobs"]["num_ctx"], data["knobs"]["batch"], data["knobs"]["ubatch"]) == (1024, 64, 64)


def test_the_batch_follows_the_context_of_all_slots(
    served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    small = planned(capsys, "gemma", "--ollama", served.url, "--vram", "8GB", "--ctx", "2048")
    large = planned(capsys, "gemma", "--ollama", served.url, "--vram", "8GB", "--ctx", "4096")
    assert (small["knobs"]["batch"], large["knobs"]["batch"]) == (512, 1024)


def test_what_needs_a_restart_is_planned_and_said(
    served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    data = planned(capsys, "gemma", "--ollama", served.url, "--vram", "8GB", "--kv-type", "f16")
    assert data["knobs"]["kv_type"] == "f16"
    (words,) = [gap for gap in data["gaps"] if "--kv-type f16" in gap]
    assert "OLLAMA_KV_CACHE_TYPE" in words
    assert "must be restarted" in words


def test_a_kv_type_that_is_not_known_is_planned_as_f16_and_said(
    fake_ollama: Callable[..., FakeOllama], gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_ollama({"gemma": gemma}, env={"OLLAMA_KV_CACHE_TYPE": "q5_1"})
    data = planned(capsys, "gemma", "--ollama", fake.url, "--vram", "8GB")
    assert data["knobs"]["kv_type"] == "f16"
    assert "The sizes of a q5_1 KV cache are not known here: f16 is planned instead." in data["gaps"]


def test_two_batch_sizes_are_refused(served: FakeOllama, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = narthex(
        capsys, "plan", "gemma", "--ollama", served.url, "--batch", "512", "--ubatch", "128"
    )
    assert code == 2
    assert "Ollama's num_batch sets both" in err


def test_the_same_bytes_are_planned_from_the_file_and_from_the_server(
    served: FakeOllama, gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--vram", "8GB", "--ctx", "4096", "--gpu-layers", "10", "--batch", "256", "--ubatch", "256")
    alike = ("--kv-type", "q8_0", "--flash-attn", "on", "--parallel", "2")
    from_file = planned(capsys, str(gemma), *words, *alike)
    from_server = planned(capsys, "gemma", "--ollama", served.url, *words)
    assert [held(row) for row in from_server["devices"]] == [held(row) for row in from_file["devices"]]


def held(device: dict[str, Any]) -> dict[str, Any]:
    """Without the compute buffers: a server's engine is known, and how many logits it keeps."""
    return {name: value for name, value in device.items() if name != "compute_bytes"}


def test_without_a_gpu_all_is_planned_on_the_host(
    served: FakeOllama, capsys: pytest.CaptureFixture[str]
) -> None:
    data = planned(capsys, "gemma", "--ollama", served.url)
    assert {device["kind"] for device in data["devices"]} == {"host"}
    assert data["fits"] is True


def test_a_server_from_afar_needs_the_size_of_its_card(
    afar: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    data = planned(capsys, "a", "--ollama", afar.url)
    assert data["fits"] is None
    assert data["devices"][0]["kind"] == "gpu"
    assert any("--vram" in gap for gap in data["gaps"])
    assert data["knobs"]["num_ctx"] == 2048
    data = planned(capsys, "a", "--ollama", afar.url, "--vram", "8GB")
    assert data["fits"] is True


def test_a_dry_run_needs_the_file(afar: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    data = planned(capsys, "a", "--ollama", afar.url, "--vram", "8GB", "--witness")
    assert data["witness"] == []
    assert "No witness: the file can't be read from here." in data["gaps"]


def test_a_context_is_cut_to_what_the_model_was_trained_for(
    afar: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    afar.shows["a:latest"]["parameters"] = "num_ctx 1.048576e+06"
    data = planned(capsys, "a", "--ollama", afar.url, "--vram", "8GB")
    assert data["knobs"]["num_ctx"] == 4096
    assert "The context is what the model was trained for." in data["gaps"]


def test_a_server_of_2024_is_planned_with_a_guess_that_is_called_one(
    afar: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    afar.version = "0.3.6"
    del afar.shows["a:latest"]["tensors"]
    del afar.shows["a:latest"]["parameters"]
    afar.tags = [{"name": "a:latest", "size": 3_000_000}]
    data = planned(capsys, "a", "--ollama", afar.url, "--vram", "8GB")
    assert any("is a guess" in gap for gap in data["gaps"])
    assert (data["knobs"]["num_ctx"], data["knobs"]["parallel"], data["knobs"]["flash_attn"]) == (
        2048,
        4,
        "off",
    )


def test_a_loaded_model_is_named(
    served: FakeOllama, afar: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    afar.ps = [{"name": "big:latest", "size": 5}]
    data = planned(capsys, "a", "--ollama", afar.url)
    assert any("Ollama holds big:latest now" in gap for gap in data["gaps"])


def test_inspect_says_that_the_file_was_not_read(afar: Canned, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = narthex(capsys, "inspect", "a", "--ollama", afar.url)
    assert code == 0
    assert "not readable from here; as Ollama tells it" in out
    code, out, _ = narthex(capsys, "inspect", "a", "--ollama", afar.url, "--json")
    assert json.loads(out)["files"] == []


def test_inspect_reads_the_file_where_it_can(
    served: FakeOllama, gemma: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, told, _ = narthex(capsys, "inspect", "gemma", "--ollama", served.url, "--json")
    _, read, _ = narthex(capsys, "inspect", str(gemma), "--json")
    for field in ("identity", "layers", "parameters", "attention", "group_bytes", "vocabulary"):
        assert json.loads(told)[field] == json.loads(read)[field]
