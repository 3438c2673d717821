"""Who holds the card: another process, ComfyUI and Ollama, or ComfyUI alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.units import GIB

First = Callable[..., Finding]
Causes = Callable[..., list[str]]

START = (
    'time=2026-01-11T10:00:00.000Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.13.5)"\n'
    'time=2026-01-11T10:00:00.500Z level=INFO msg="inference compute" id=GPU-a library=CUDA compute=8.6 '
    'name=CUDA0 description="NVIDIA GeForce RTX 3090" type=discrete total="23.7 GiB" available="{}"\n'
)
GPU_MEMORY = (
    'time=2026-01-11T10:01:00.000Z level=INFO msg="gpu memory" id=GPU-a library=CUDA available="{}" '
    'free="{}" minimum="457.0 MiB" overhead="0 B"\n'
)
NO_ROOM = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4155.99 MiB on device 0: cudaMalloc failed: out"
    " of memory\nllama_model_load: error loading model: unable to allocate CUDA0 buffer\n"
)
TABLE = (
    "| NVIDIA-SMI 550.54.14              Driver Version: 550.54.14      CUDA Version: 12.4     |\n"
    "|  0%   37C    P8             16W /  350W |   {used}MiB /  24576MiB |      0%      Default |\n"
    "|    0   N/A  N/A      1200      G   /usr/lib/xorg/Xorg                             45MiB |\n"
    "|    0   N/A  N/A      3120      C   {name}                                       {mib}MiB |\n"
)
OLD_TABLE = "|    0      3120      C   python3                                     20600MiB |\n"
ALLOCATION = (
    "got prompt\n!!! Exception during processing !!! Allocation on device\ntorch.OutOfMemoryError: Allocation"
    " on device\n"
)


def torch_figures(own: str, total: str, free: str) -> str:
    return (
        "torch.cuda.OutOfMemoryError: Allocation on device 0 would exceed allowed memory. (out of memory)\n"
        f"Currently allocated     : {own}\nRequested               : 320.00 MiB\n"
        f"Device limit            : {total}\nFree (according to CUDA): {free}\n"
    )


def test_a_card_that_was_nearly_full_before_the_load(first: First) -> None:
    log = START.format("1.1 GiB") + GPU_MEMORY.format("600.0 MiB", "1.1 GiB") + NO_ROOM
    finding = first(ollama_log=log)
    assert finding.cause == "vram_contention_other_process"
    assert "23.7 GiB" in finding.why
    assert "600 MiB" in finding.why


def test_the_failed_load_is_told_as_its_consequence(says: Callable[..., list[Finding]]) -> None:
    log = START.format("1.1 GiB") + GPU_MEMORY.format("600.0 MiB", "1.1 GiB") + NO_ROOM
    found = {finding.cause: finding.consequence_of for finding in says(ollama_log=log)}
    assert found["vram_oom_on_load"] == "vram_contention_other_process"


def test_a_card_that_was_empty_is_no_quarrel(first: First) -> None:
    log = START.format("23.3 GiB") + GPU_MEMORY.format("22.9 GiB", "23.3 GiB") + NO_ROOM
    assert first(ollama_log=log).cause == "vram_oom_on_load"


def test_what_ollama_holds_itself_is_not_blamed_on_others(causes: Causes) -> None:
    runner = (
        'level=INFO msg="starting runner" cmd="/usr/bin/ollama runner --model /m/blobs/sha256-{} --port 1"\n'
    )
    log = (
        START.format("23.3 GiB")
        + runner.format("aaaaaa")
        + "load_tensors: offloaded 33/33 layers to GPU\n"
        + "load_tensors:        CUDA0 model buffer size = 18000.00 MiB\n"
        + 'level=INFO msg="llama runner started in 3.06 seconds"\n'
        + GPU_MEMORY.format("4.0 GiB", "4.4 GiB")
        + runner.format("bbbbbb")
        + NO_ROOM
    )
    assert causes(ollama_log=log) == ["vram_oom_on_load"]


@pytest.mark.parametrize("table", [TABLE.format(used=20700, name="python3", mib=20600), OLD_TABLE])
def test_the_process_that_holds_the_card_is_named(first: First, table: str) -> None:
    finding = first(ollama_log=NO_ROOM, nvidia_smi=table)
    assert finding.cause == "vram_contention_other_process"
    assert "3120" in finding.title
    assert any(command.text.endswith("-p 3120") for command in finding.remedy.commands)


def test_a_full_card_alone_is_no_fault(causes: Causes) -> None:
    assert causes(nvidia_smi=TABLE.format(used=20700, name="python3", mib=20600)) == []


def test_a_screen_is_no_rival(first: First) -> None:
    table = TABLE.format(used=900, name="/usr/lib/xorg/Xorg", mib=800)
    assert first(ollama_log=NO_ROOM, nvidia_smi=table).cause == "vram_oom_on_load"


@pytest.mark.parametrize(
    "log",
    [
        torch_figures("7.71 GiB", "15.72 GiB", "25.06 MiB"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total"
            " capacity of 23.64 GiB of which 5.00 MiB is free. Process 12345 has 16.00 GiB memory in use."
            " Including non-PyTorch memory, this process has 7.62 GiB memory in use. Of the allocated memory"
            " 7.00 GiB is allocated by PyTorch."
        ),
        (
            "RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 24.00 GiB total capacity;"
            " 6.70 GiB already allocated; 0 bytes free; 7.30 GiB reserved in total by PyTorch)"
        ),
    ],
    ids=["cudaMallocAsync", "2.x", "1.x"],
)
def test_pytorch_that_holds_little_of_a_full_card(first: First, log: str) -> None:
    assert first(comfyui_log=log).cause == "vram_contention_other_process"


@pytest.mark.parametrize(
    "log",
    [
        torch_figures("14.81 GiB", "15.92 GiB", "0 bytes"),
        torch_figures("21.55 GiB", "24.00 GiB", "0 bytes"),
        ALLOCATION,
        (
            "torch.OutOfMemoryError: HIP out of memory. Tried to allocate 4.50 GiB. GPU 0 has a total"
            " capacity of 15.98 GiB of which 1.40 GiB is free. Of the allocated memory 13.26 GiB is allocated"
            " by PyTorch, and 152.50 MiB is reserved by PyTorch but unallocated."
        ),
        (
            "RuntimeError: MPS backend out of memory (MPS allocated: 17.99 GB, other allocations: 400.00 MB,"
            " max allowed: 18.13 GB). Tried to allocate 256.00 MB on private pool."
        ),
        "RuntimeError: CUDA error: out of memory\n",
    ],
    ids=["near the limit", "with a screen beside it", "bare", "ROCm", "Metal", "from CUDA"],
)
def test_a_job_that_is_too_big_by_itself(causes: Causes, log: str) -> None:
    assert causes(comfyui_log=log)[0] == "comfyui_vram_oom"


def test_a_tiled_second_try_is_harmless(causes: Causes) -> None:
    log = (
        "got prompt\nWarning: Ran out of memory when regular VAE decoding, retrying with tiled VAE"
        " decoding.\nPrompt executed in 33.14 seconds\n"
    )
    assert causes(comfyui_log=log) == []


def test_another_program_s_report_is_not_comfyui_s(causes: Causes) -> None:
    log = "vllm worker started\ntorch.OutOfMemoryError: CUDA out of memory.\n"
    assert "comfyui_vram_oom" not in causes(docker_log=log)


@pytest.mark.parametrize(
    "texts",
    [
        {"nvidia_smi": TABLE.format(used=20700, name="/usr/bin/ollama", mib=14600)},
        {"nvidia_smi": TABLE.format(used=20700, name="/usr/lib/ollama/llama-server", mib=14600)},
        {
            "commands": (
                "$ ollama ps\nNAME   ID   SIZE   PROCESSOR   CONTEXT   UNTIL\n"
                "qwen3:14b     bdbd181c33f2    12 GB     100% GPU     8192       Forever\n"
            )
        },
    ],
    ids=["era E", "era F", "ollama ps"],
)
def test_comfyui_fails_while_ollama_holds_the_card(first: First, texts: dict[str, str]) -> None:
    finding = first(comfyui_log=ALLOCATION, **texts)
    assert finding.cause == "vram_contention_comfyui_ollama"
    assert "/free" in str(finding.remedy)


def test_ollama_is_pushed_off_by_comfyui(first: First) -> None:
    log = (
        START.format("23.3 GiB")
        + GPU_MEMORY.format("1.6 GiB", "2.1 GiB")
        + "load_tensors: offloaded 3/33 layers to GPU\n"
    )
    comfyui = (
        "got prompt\nRequested to load Flux\nloaded completely 19000.2 11350.06 True\nPrompt executed in"
        " 33.14 seconds\n"
    )
    assert first(ollama_log=log, comfyui_log=comfyui).cause == "vram_contention_comfyui_ollama"


def resident(seconds_left: float, vram_gib: float = 12, size_gib: float = 12) -> Reading:
    return Reading(
        name="ollama.resident",
        about="qwen3:14b",
        text="qwen3:14b is in memory",
        value={
            "size_bytes": int(size_gib * GIB),
            "size_vram_bytes": int(vram_gib * GIB),
            "num_ctx": 8192,
            "seconds_left": seconds_left,
        },
    )


ANSWERS = (
    Reading(name="ollama.answers", about="http://127.0.0.1:11434", value=True, text="Ollama answers"),
    Reading(name="comfyui.answers", about="http://127.0.0.1:8188", value=True, text="ComfyUI answers"),
    Reading(name="comfyui.queue", value={"running": 0, "pending": 0}, text="its queue is empty"),
)


def test_both_can_be_told_to_give_it_back(first: First) -> None:
    finding = first((resident(120), *ANSWERS), comfyui_log=ALLOCATION)
    asked = {
        command.request.url: command.request.body for command in finding.remedy.commands if command.request
    }
    assert asked == {
        "http://127.0.0.1:11434/api/generate": {"model": "qwen3:14b", "keep_alive": 0},
        "http://127.0.0.1:8188/free": {"unload_models": True, "free_memory": True},
    }


def test_a_busy_model_is_not_told_to_go(first: First) -> None:
    finding = first((resident(-3), *ANSWERS), comfyui_log=ALLOCATION)
    assert not any(
        "generate" in command.request.url for command in finding.remedy.commands if command.request
    )


def test_a_server_elsewhere_is_not_spoken_to(first: First) -> None:
    far = Reading(name="ollama.answers", about="http://192.168.1.9:11434", value=True, text="Ollama answers")
    finding = first((resident(120), far), comfyui_log=ALLOCATION)
    assert not any(
        "generate" in command.request.url for command in finding.remedy.commands if command.request
    )


def test_now_a_model_is_half_on_the_cpu_because_of_a_process(first: First) -> None:
    readings = (
        resident(120, vram_gib=5),
        Reading(name="gpu.memory", about="0", value={"total_bytes": 24 * GIB}, text="card 0 has 24 GiB"),
        Reading(
            name="gpu.process",
            about="4711",
            value={"card": 0, "name": "blender", "vram_bytes": 15 * GIB},
            text="blender (4711) holds 15 GiB",
        ),
    )
    finding = first(readings)
    assert finding.cause == "vram_contention_other_process"
    assert "blender" in finding.title


def test_a_model_kept_for_ever_while_another_lacks_room(causes: Causes) -> None:
    starved = Reading(
        name="ollama.resident",
        about="llama3:8b",
        text="llama3:8b is on the CPU",
        value={"size_bytes": 6 * GIB, "size_vram_bytes": 0, "num_ctx": 4096, "seconds_left": 100},
    )
    assert "keep_alive_holds_vram" in causes((resident(9e9), starved))
    assert causes((resident(9e9),)) == []
