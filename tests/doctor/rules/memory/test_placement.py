"""Why a part of a model stays off the GPU: its weights, its context, its slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding

First = Callable[..., Finding]
Causes = Callable[..., list[str]]

ERA_D = (
    "time=2025-10-11T10:01:00.000Z level=INFO msg=offload library=cuda layers.requested=-1 layers.model={of}"
    ' layers.offload={on} layers.split="" memory.available="[{free}]" memory.gpu_overhead="0 B"'
    ' memory.required.full="{need}" memory.required.partial="9 GiB" memory.required.kv="{kv}"'
    ' memory.required.allocations="[9 GiB]" memory.weights.total="{weights}" memory.weights.repeating="3.9'
    ' GiB" memory.weights.nonrepeating="411.0 MiB" memory.graph.full="{graph}"'
    ' memory.graph.partial="{graph}"\n'
)
RUNNER = (
    'time=2025-10-11T10:01:00.100Z level=INFO msg="starting llama server" cmd="/usr/bin/ollama runner --model'
    " /root/.ollama/models/blobs/sha256-667b0c1932bc --ctx-size {ctx} --batch-size 512 --n-gpu-layers {on}"
    ' --threads 16 --parallel {parallel} --port 38267"\n'
)


def era_d(on: int, of: int, *, free: str, weights: str, kv: str, ctx: int, parallel: int = 1) -> str:
    estimate = ERA_D.format(on=on, of=of, free=free, need="60 GiB", kv=kv, weights=weights, graph="1.3 GiB")
    runner = RUNNER.format(on=on, ctx=ctx, parallel=parallel)
    return estimate + runner + f"load_tensors: offloaded {on}/{of} layers to GPU\n"


def test_a_model_that_is_larger_than_the_card(first: First) -> None:
    finding = first(ollama_log=era_d(4, 49, free="11.4 GiB", weights="60.6 GiB", kv="2.2 GiB", ctx=8192))
    assert finding.cause == "partial_offload_slow"
    assert "4 of 49" in finding.why
    assert "60.6 GiB" in finding.why


def test_a_cache_that_pushes_the_layers_off(first: First) -> None:
    finding = first(ollama_log=era_d(20, 41, free="23.3 GiB", weights="13.1 GiB", kv="20.0 GiB", ctx=131072))
    assert finding.cause == "context_too_large"
    assert "131072" in finding.why
    assert "20.0 GiB" in finding.why


def test_slots_that_multiply_the_cache(first: First) -> None:
    log = era_d(15, 33, free="19.3 GiB", weights="4.3 GiB", kv="64.0 GiB", ctx=524288, parallel=64)
    finding = first(ollama_log=log)
    assert finding.cause == "num_parallel_multiplies_kv"
    assert "64 slots" in finding.why
    assert "NUM_PARALLEL=1" in finding.remedy.commands[0].text


def test_one_slot_that_is_too_large_is_the_context_s_fault(first: First) -> None:
    log = era_d(15, 33, free="19.3 GiB", weights="4.3 GiB", kv="64.0 GiB", ctx=524288, parallel=2)
    assert first(ollama_log=log).cause == "context_too_large"


def test_with_all_layers_on_the_gpu_nothing_is_wrong(causes: Causes) -> None:
    assert (
        causes(ollama_log=era_d(41, 41, free="46 GiB", weights="13.1 GiB", kv="20.0 GiB", ctx=131072)) == []
    )


ERA_E = (
    'level=INFO msg="inference compute" id=GPU-a library=CUDA compute=8.6 name=CUDA0 description="RTX 3090" '
    'total="23.7 GiB" available="23.3 GiB"\n'
    'level=INFO msg="gpu memory" id=GPU-a library=CUDA available="22.9 GiB" free="23.3 GiB"\n'
    'level=INFO msg=load request="{{Operation:commit LoraPath:[] Parallel:1 BatchSize:512 KvSize:131072 '
    "KvCacheType: NumThreads:8 GPULayers:30[ID:GPU-a Layers:30(18..47)] MultiUserCache:false ProjectorPath: "
    'MainGPU:0 UseMmap:false}}"\n'
    'level=INFO msg="offloaded 30/49 layers to GPU"\n'
    'level=INFO msg="model weights" device=CUDA0 size="{gpu}"\n'
    'level=INFO msg="model weights" device=CPU size="{cpu}"\n'
    'level=INFO msg="kv cache" device=CUDA0 size="{kv_gpu}"\n'
    'level=INFO msg="kv cache" device=CPU size="{kv_cpu}"\n'
    'level=INFO msg="compute graph" device=CUDA0 size="700.0 MiB"\n'
    'level=INFO msg="llama runner started in 13.06 seconds"\n'
)


def test_era_e_tells_both_in_lines_of_their_own(first: First) -> None:
    context = ERA_E.format(gpu="5.3 GiB", cpu="3.3 GiB", kv_gpu="15.0 GiB", kv_cpu="9.0 GiB")
    weights = ERA_E.format(gpu="21.0 GiB", cpu="18.0 GiB", kv_gpu="1.0 GiB", kv_cpu="0.8 GiB")
    assert first(ollama_log=context).cause == "context_too_large"
    assert first(ollama_log=weights).cause == "partial_offload_slow"


def test_a_llama_server_of_its_own(first: First) -> None:
    log = (
        "load_tensors: offloaded 12/33 layers to GPU\n"
        "load_tensors:   CPU_Mapped model buffer size =  2900.00 MiB\n"
        "load_tensors:        CUDA0 model buffer size =  1500.99 MiB\n"
        "llama_kv_cache:        CPU KV buffer size = 10512.00 MiB\n"
        "llama_kv_cache:      CUDA0 KV buffer size =  6512.00 MiB\n"
        "main: server is listening on http://127.0.0.1:8080 - starting the main loop\n"
    )
    assert first(llama_server_log=log).cause == "context_too_large"


@pytest.mark.parametrize(
    "log",
    [
        (
            "llm_load_tensors: offloaded 23/57 layers to GPU\nllm_load_tensors:        CPU buffer size ="
            " 46017.18 MiB\nllm_load_tensors:      CUDA0 buffer size = 16192.69 MiB\n"
        ),
        "May 16 17:44:49 Debian ollama[6012]: load_tensors: offloaded 23/57 layers to GPU\n",
        'level=INFO msg="insufficient VRAM to load any model layers"\n',
        "not enough vram available, falling back to CPU only\n",
        "ollama  | load_tensors: offloaded 23/57 layers to GPU\n",
    ],
    ids=["0.1.32", "journal", "no layer", "no layer, 2024", "Compose"],
)
def test_the_line_of_the_layers_alone(first: First, log: str) -> None:
    assert first(ollama_log=log).cause == "partial_offload_slow"


def test_what_ollama_ps_says(first: First) -> None:
    text = "$ ollama ps\nllama3.3:70b     a6eb4748fd29    46 GB    52%/48% CPU/GPU    4 minutes from now\n"
    finding = first(commands=text)
    assert finding.cause == "partial_offload_slow"
    assert finding.about == "llama3.3:70b"
    assert "narthex plan llama3.3:70b" in finding.remedy.commands[0].text


def test_a_context_that_was_set_explains_what_ollama_ps_shows(first: First) -> None:
    text = (
        ">>> /set parameter num_ctx 131072\nSet parameter 'num_ctx' to '131072'\n"
        "deepseek-r1:70b              0c1615a8ca32    51 GB     100% GPU     4 minutes from now\n"
        "deepseek-r1:70b_131072       ffb79c778740    156 GB    41%/59% CPU/GPU    4 minutes from now\n"
    )
    assert first(commands=text).cause == "context_too_large"


def test_no_layer_on_a_card_that_the_estimate_names(first: First) -> None:
    estimate = ERA_D.format(
        on=0, of=35, free="3.2 GiB", need="2.6 GiB", kv="254.0 MiB", weights="2.3 GiB", graph="517.0 MiB"
    )
    log = estimate.rstrip() + ' projector.weights="795.9 MiB" projector.graph="1.0 GiB"\n'
    finding = first(ollama_log=log)
    assert finding.cause == "partial_offload_slow"
    assert "0 of 35" in finding.why


def test_an_estimate_for_the_cpu_is_no_partial_offload(causes: Causes) -> None:
    estimate = ERA_D.format(
        on=0, of=35, free="30 GiB", need="2.6 GiB", kv="254.0 MiB", weights="2.3 GiB", graph="517.0 MiB"
    )
    assert causes(ollama_log=estimate.replace("library=cuda", "library=cpu")) == []


def test_many_slots_explain_a_model_that_ollama_ps_shows_halved(causes: Causes) -> None:
    text = (
        "$ OLLAMA_NUM_PARALLEL=64 ollama serve\n$ ollama ps\n"
        "llama3:latest     a6eb4748fd29    32 GB    36%/64% CPU/GPU    Forever\n"
    )
    assert causes(commands=text)[0] == "num_parallel_multiplies_kv"


def test_many_slots_explain_a_refusal(causes: Causes) -> None:
    log = (
        'level=INFO msg="server config" env="map[OLLAMA_CONTEXT_LENGTH:32768 OLLAMA_NUM_PARALLEL:16]"\n'
        'level=INFO msg="Load failed" model=/m error="model requires more system memory (338.1 GiB) than is '
        'available (328.0 GiB)"\n'
    )
    assert causes(ollama_log=log)[:2] == ["num_parallel_multiplies_kv", "host_ram_insufficient"]


CPU_HOST = (
    'level=INFO msg="inference compute" id=cpu library=cpu compute="" name=cpu total="62.7 GiB"'
    ' available="55.0 GiB"\nload_tensors: offloaded 0/33 layers to GPU\nload_tensors:          CPU model'
    ' buffer size =  4685.30 MiB\nlevel=INFO msg="llama runner started in 13.06 seconds"\n'
)


def test_a_host_without_a_gpu_is_no_partial_offload(causes: Causes) -> None:
    assert causes(ollama_log=CPU_HOST) == []
