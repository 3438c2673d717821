"""Every way to end has its outcome, and the line that proves it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from narthex.engines._base import Failure
from narthex.engines.companions import CompanionLog
from narthex.engines.llama_exit import explain_exit
from narthex.outcomes import Outcome
from narthex.units import MIB

SEGV, ABRT, KILL, ILL = (-int(getattr(signal, f"SIG{name}")) for name in ("SEGV", "ABRT", "KILL", "ILL"))


def loading(*lines: str, code: int | None = 1) -> Failure:
    return explain_exit(lines, code, loaded=False)


def running(*lines: str, code: int | None = ABRT) -> Failure:
    return explain_exit(lines, code, loaded=True)


@pytest.mark.parametrize(
    ("lines", "requested"),
    [
        pytest.param(
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4155.99 MiB on device 0: cudaMalloc "
                "failed: out of memory",
                "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4357872640",
                "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
            ),
            4357872640,
            id="weights",
        ),
        pytest.param(
            ("llama_init_from_model: failed to initialize: failed to allocate buffer for kv cache",),
            None,
            id="KV cache",
        ),
        pytest.param(("llama_kv_cache_init() failed; failed to allocate buffer",), None, id="KV cache, 2024"),
        pytest.param(
            (
                "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 107520032",
                "llama_init_from_model: failed to initialize: failed to allocate compute pp buffers",
            ),
            107520032,
            id="compute buffers",
        ),
        pytest.param(
            (
                "ggml_vulkan: Device memory allocation of size 1258291200 failed.",
                "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
            ),
            1258291200,
            id="Vulkan",
        ),
        pytest.param(
            ("ggml_aligned_malloc: insufficient memory (attempted to allocate 222.51 MB)",),
            round(222.51 * MIB),
            id="main memory",
        ),
        pytest.param(("terminate called after throwing an instance of 'std::bad_alloc'",), None, id="C++"),
        pytest.param(
            (
                "alloc_tensor_range: failed to allocate RPC0[127.0.0.1:50052] buffer of size 246587904",
                "llama_model_load: error loading model: unable to allocate RPC0[127.0.0.1:50052] buffer",
            ),
            246587904,
            id="RPC",
        ),
        pytest.param(
            ("CUDA error: out of memory", "  current device: 0, in function alloc"), None, id="CUDA pool"
        ),
        pytest.param(
            (
                "gguf_read_emplace_helper: encountered bad_alloc error while reading value for key 'x'",
                "gguf_init_from_reader: failed to read key-value pairs",
            ),
            None,
            id="no memory for the header is no corrupt file",
        ),
    ],
)
def test_an_allocation_that_fails_while_loading_is_out_of_memory(
    lines: tuple[str, ...], requested: int | None
) -> None:
    failure = loading("0.00.001.002 I load_tensors: loading", *lines)
    assert failure.outcome is Outcome.OUT_OF_MEMORY
    assert failure.line == lines[0]
    assert failure.requested_bytes == requested


def test_the_same_after_a_good_load_is_out_of_memory_while_computing() -> None:
    failure = running("srv  update_slots: all slots are idle", "CUDA error: out of memory")
    assert failure.outcome is Outcome.OUT_OF_MEMORY_COMPUTE
    assert failure.line == "CUDA error: out of memory"


def test_an_allocation_that_was_tried_again_with_less_is_not_the_cause() -> None:
    survived = (
        "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 107520032",
        "sched_reserve: compute buffer allocation failed, retrying without pipeline parallelism",
    )
    failure = loading(*survived, "GGML_ASSERT(n > 0) failed", code=ABRT)
    assert failure.outcome is Outcome.CRASHED
    assert "GGML_ASSERT(n > 0)" in failure.line
    again = loading(*survived, "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 99")
    assert (again.outcome, again.requested_bytes) == (Outcome.OUT_OF_MEMORY, 99)


def test_pinned_memory_falls_back_and_is_not_the_cause() -> None:
    lines = (
        "ggml_cuda_host_malloc: failed to allocate 8301.56 MiB of pinned memory: out of memory",
        "the end",
    )
    assert loading(*lines, code=3).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("error: invalid argument: --no-mmap", Outcome.UNSUPPORTED_FLAG),
        ("error: unknown argument: --rpc", Outcome.UNSUPPORTED_FLAG),
        (
            "llama_init_from_model: quantized V cache requires flash_attn to be enabled",
            Outcome.UNSUPPORTED_SETTING,
        ),
        (
            "llama_init_from_model: V cache quantization requires flash_attn",
            Outcome.UNSUPPORTED_SETTING,
        ),
        (
            'error while handling argument "--cache-type-k": Unsupported cache type: foo',
            Outcome.UNSUPPORTED_SETTING,
        ),
        (
            "llama_model_load: error loading model: unknown model architecture: 'xyz'",
            Outcome.UNSUPPORTED_ARCHITECTURE,
        ),
        (
            "llama_model_load: error loading model: error loading model vocabulary: unknown pre-tokenizer "
            "type: 'new'",
            Outcome.UNSUPPORTED_ARCHITECTURE,
        ),
        ("gguf_init_from_reader: invalid magic characters: 'JUNK', expected 'GGUF'", Outcome.CORRUPT_FILE),
        (
            "llama_model_load: error loading model: tensor 'x' data is not within the file bounds, model is "
            "corrupted or incomplete",
            Outcome.CORRUPT_FILE,
        ),
        ("llama_model_load: error loading model: missing tensor 'token_embd.weight'", Outcome.CORRUPT_FILE),
        (
            "llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; expected "
            "201, got 182",
            Outcome.CORRUPT_FILE,
        ),
        (
            "gguf_init_from_file: failed to open GGUF file 'm.gguf' (No such file or directory)",
            Outcome.FAILED,
        ),
        (
            "srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080",
            Outcome.PORT_IN_USE,
        ),
    ],
)
def test_what_a_line_says_is_the_outcome(line: str, outcome: Outcome) -> None:
    failure = loading(
        f"0.00.480.101 E {line}", "0.00.480.102 E srv  llama_server: exiting due to model loading error"
    )
    assert (failure.outcome, failure.line, failure.exit_code) == (outcome, line, 1)


def test_a_signal_without_a_memory_line_is_a_crash_and_never_memory() -> None:
    for code, name in ((SEGV, "SIGSEGV"), (ILL, "SIGILL"), (ABRT, "SIGABRT")):
        failure = loading("load_tensors: loading model tensors", code=code)
        assert failure.outcome is Outcome.CRASHED
        assert failure.line == f"{name}. Its last line: load_tensors: loading model tensors"
        assert not failure.outcome.is_memory


def test_an_abort_with_a_memory_line_is_a_memory_failure() -> None:
    assert loading("CUDA error: out of memory", code=ABRT).outcome is Outcome.OUT_OF_MEMORY


def test_the_cause_is_told_and_not_what_follows_from_it() -> None:
    failure = running(
        "W load: an error that was survived long ago",
        *["srv  update_slots: fine"] * 20,
        "CUDA error: an illegal memory access was encountered",
        "  current device: 0, in function ggml_backend_cuda_synchronize",
        "  cudaStreamSynchronize(cuda_ctx->stream())",
        "/build/ggml-cuda.cu:110: CUDA error",
    )
    assert failure.line == "SIGABRT: CUDA error: an illegal memory access was encountered"


def test_a_kill_by_the_kernel_is_memory_and_somebodys_kill_is_not() -> None:
    lines = ["load_tensors: loading model tensors"]
    by_kernel = explain_exit(lines, KILL, loaded=False, oom_kills=1)
    assert by_kernel.outcome is Outcome.KILLED_BY_KERNEL
    assert "oom-killer" in by_kernel.line
    assert explain_exit(lines, KILL, loaded=False, oom_kills=0).outcome is Outcome.CRASHED
    unknown = explain_exit(lines, KILL, loaded=True, oom_kills=None)
    assert unknown.outcome is Outcome.KILLED_BY_KERNEL
    assert "does not tell" in unknown.line


def test_a_lost_rpc_server_is_memory_only_where_its_own_log_says_so(tmp_path: Path) -> None:
    lines = [
        "recv failed (bytes_recv=0, size_to_recv=8)",
        "/build/ggml/src/ggml-rpc/ggml-rpc.cpp:519: Remote RPC server crashed or returned malformed response",
    ]
    assert loading(*lines, code=ABRT).outcome is Outcome.CRASHED
    log = tmp_path / "rpc.log"
    log.write_text("Failed to allocate input buffer of size 1\n")
    old = CompanionLog("127.0.0.1:50052", log, start=log.stat().st_size)
    failure = explain_exit(lines, ABRT, loaded=False, companions=[old])
    assert failure.outcome is Outcome.CRASHED, "that line is of an earlier load"
    with log.open("a") as file:
        file.write("Accepted client connection\nFailed to allocate input buffer of size 178258224\n")
    failure = explain_exit(lines, ABRT, loaded=False, companions=[old])
    assert failure.outcome is Outcome.OUT_OF_MEMORY
    assert failure.requested_bytes == 178258224
    assert failure.line.startswith("RPC server 127.0.0.1:50052: ")


def test_an_unknown_end_keeps_its_most_telling_line() -> None:
    failure = loading(
        "main: starting", "main: error: the moon is full", "srv: exiting due to model loading error"
    )
    assert (failure.outcome, failure.line) == (Outcome.FAILED, "main: error: the moon is full")
    assert loading().line == "It printed nothing."


def server_lines(recording: Path) -> list[str]:
    """The lines of the first failed llama-server in an Ollama recording."""
    lines: list[str] = json.loads(recording.read_text())["server_log"]
    starts = [index for index, line in enumerate(lines) if 'msg="starting llama-server"' in line]
    ends = [index for index, line in enumerate(lines) if 'msg="Load failed"' in line]
    last = max(start for start in starts if start < ends[0])
    return [line for line in lines[last : ends[0]] if not line.startswith(("time=", "[GIN]"))]


@pytest.mark.parametrize(
    ("recording", "code", "outcome", "requested"),
    [
        ("154-env-kv-q8-without-flash", 1, Outcome.UNSUPPORTED_SETTING, None),
        ("155-env-kv-type-unknown", 1, Outcome.UNSUPPORTED_SETTING, None),
        ("166-fail-memory-weights", 1, Outcome.OUT_OF_MEMORY, 233316864),
        ("167-fail-memory-abort", ABRT, Outcome.OUT_OF_MEMORY, None),
        ("168-fail-memory-kv-cache", 1, Outcome.OUT_OF_MEMORY, 107520032),
        ("172-fail-killed-while-loading", KILL, Outcome.KILLED_BY_KERNEL, None),
        ("176-fail-illegal-instruction", ILL, Outcome.CRASHED, None),
        ("186-fail-gguf-unknown-architecture", 1, Outcome.UNSUPPORTED_ARCHITECTURE, None),
        ("218-rpc-device-memory-auto-context", 1, Outcome.OUT_OF_MEMORY, 695226400),
    ],
)
def test_recorded_failures_are_told_apart(
    shared: Path, recording: str, code: int, outcome: Outcome, requested: int | None
) -> None:
    lines = server_lines(shared / "ollama-wire" / f"{recording}.json")
    failure = explain_exit(lines, code, loaded=False)
    assert failure.outcome is outcome
    if requested is not None:
        assert failure.requested_bytes == requested


# What the collected cases say in their own words, against what their logs must be read as.
CASES = {
    "ik437-compute-buffer-1tb": Outcome.OUT_OF_MEMORY,
    "lc11598-vulkan-premature-oom": Outcome.OUT_OF_MEMORY,
    "ik500-compute-buffer-360gb": Outcome.OUT_OF_MEMORY,
    "lc8207-oom-second-gpu": Outcome.OUT_OF_MEMORY,
    "lc7366-oom-device4": Outcome.OUT_OF_MEMORY,
    "lc14178-rocm64-alloc": Outcome.OUT_OF_MEMORY,
    "lc9902-ollama-assert-f32": Outcome.CRASHED,
    "t4-kernel-image-invalid-0.30": Outcome.CRASHED,
}


@pytest.mark.parametrize("case", CASES)
def test_collected_failures_of_other_people_are_told_apart(shared: Path, case: str) -> None:
    rows = (json.loads(line) for line in (shared / "corpus" / "cases.jsonl").read_text().splitlines())
    evidence = next(row["evidence"] for row in rows if row["id"] == case)
    lines = "\n".join(str(text) for text in evidence.values()).splitlines()
    assert explain_exit(lines, ABRT, loaded=False).outcome is CASES[case]
