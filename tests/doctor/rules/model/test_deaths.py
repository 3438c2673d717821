"""Runners that die: of a fault of their own, of the CPU, and of what other rules tell of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]

EOF = 'level=ERROR msg="post predict" error="Post \\"http://127.0.0.1:42623/completion\\": EOF"'
CRASHES = (
    "Error: llama runner process has terminated: GGML_ASSERT(tensor->op == GGML_OP_UNARY) failed",
    "/build/ggml/src/ggml-metal.m:1080: GGML_ASSERT(src1t == GGML_TYPE_F32) failed",
    "panic: runtime error: invalid memory address or nil pointer dereference",
    "May 13 15:27:29 box ollama[2409]: SIGSEGV: segmentation violation",
    "ollama-1  | panic: failed to sample token: sample: logits sum to NaN, check model output",
    "[pod/ollama-7447/ollama] http: panic serving 127.0.0.1:51220:",
    "Error: llama runner process has terminated: exit status 0xc0000409",
    'level=WARN msg="llama runner process no longer running" sys=139 string="signal: segmentation fault '
    '(core dumped)"',
    "kernel: llama-server[2201]: segfault at 8 ip 00007f error 4 in libggml-base.so",
    "  what():  Unexpected empty grammar stack after accepting piece",
    EOF,
    '{"error":"an error was encountered while running the model: unexpected EOF"}',
)
OTHERS = (
    "CUDA error: out of memory",
    "ROCm error: invalid device function",
    "CUDA error: an illegal memory access was encountered",
    'level=INFO msg="Load failed" error="llama-server process has terminated: signal: killed"',
    "llama_init_from_model: V cache quantization requires flash_attn",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
)
ILLEGAL = (
    "Illegal instruction (core dumped)",
    "Error: llama runner process has terminated: signal: illegal instruction (core dumped)",
    "Error: llama runner process has terminated: exit status 0xc000001d",
    "llama.go:323: llama runner exited with error: signal: illegal instruction",
    "llama.go:323: llama runner exited with error: signal: illegal ins>",
    "fish: Job 1, './llama-cli' terminated by signal SIGILL (Illegal instruction)",
    "kernel: traps: ollama_llama_se[812] trap invalid opcode ip:55d sp:7ff error:0 in ollama_llama_server",
)


@pytest.mark.parametrize("line", CRASHES)
@pytest.mark.parametrize("kind", ["ollama_log", "client_error", "docker_log"])
def test_last_words_of_a_crash(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["runner_crash_bug"]


@pytest.mark.parametrize("reason", OTHERS)
def test_a_death_with_another_reason_is_no_bug(causes: Causes, reason: str) -> None:
    assert "runner_crash_bug" not in causes(ollama_log=f"{reason}\nSIGABRT: abort\n{EOF}\n")
    assert "runner_crash_bug" not in causes(
        ollama_log=f"{reason}\npanic: unable to create llama context\n", client_error="unexpected EOF\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        'level=ERROR msg="post predict" error="Post \\"http://127.0.0.1:60926/completion\\": context '
        'canceled"',
        'level=INFO msg="6a0746a1ec1a part 7 attempt 1 failed: unexpected EOF, retrying in 2s"',
        "panic: unable to load model: /root/.ollama/models/blobs/sha256-00",
        "GGML_ASSERT(ctx->mem_buffer != NULL) failed",
    ],
)
def test_what_only_resembles_a_crash(causes: Causes, line: str) -> None:
    assert "runner_crash_bug" not in causes(ollama_log=f"{line}\n")


def test_words_without_a_reason_are_a_suspicion(says: Says) -> None:
    (finding,) = says(
        client_error="model runner has unexpectedly stopped, this may be due to resource limitations\n"
    )
    assert finding.cause == "runner_crash_bug"
    assert finding.confidence < 0.5


@pytest.mark.parametrize("line", ILLEGAL)
@pytest.mark.parametrize("kind", ["ollama_log", "commands", "dmesg"])
def test_an_instruction_that_the_cpu_lacks(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["cpu_illegal_instruction"]


@pytest.mark.parametrize(
    "line",
    [
        'level=WARN source=gpu.go:128 msg="CPU does not have AVX or AVX2, disabling GPU support."',
        'level=WARN msg="CPU does not have minimum vector extensions, GPU inference disabled" required=avx',
        '2月 22 23:00:37 box ollama[37]: level=INFO source=cpu_common.go:18 msg="CPU does not have vector '
        'extensions"',
    ],
)
def test_a_cpu_without_avx(causes: Causes, line: str) -> None:
    assert causes(ollama_log=f"{line}\n") == ["cpu_no_avx"]


def test_flags_without_avx_explain_an_illegal_instruction(causes: Causes) -> None:
    flags = "flags\t\t: fpu vme sse sse2 ss ht cx16 sse4_1 sse4_2 popcnt aes hypervisor lahf_lm"
    died = "./llama-server\nIllegal instruction (core dumped)\n"
    assert causes(commands=f"{flags}\n{died}")[0] == "cpu_no_avx"
    assert causes(commands=f"{flags} avx avx2\n{died}") == ["cpu_illegal_instruction"]
    assert causes(commands=f"{flags}\n") == []


def test_a_container_that_ended_with_the_status_of_an_illegal_instruction() -> None:
    row = Reading(
        name="container", about="ollama", value={"exit_code": 132}, text="container ollama: exited, 132"
    )
    found = diagnosis_of([row], True).findings
    assert [finding.cause for finding in found if finding.cause.startswith("cpu")] == [
        "cpu_illegal_instruction"
    ]
    other = Reading(
        name="container", about="ollama", value={"exit_code": 0}, text="container ollama: exited, 0"
    )
    assert not [row for row in diagnosis_of([other], True).findings if row.cause.startswith("cpu")]
