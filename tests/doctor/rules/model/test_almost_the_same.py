"""Lines that say almost the same as a cause's, and mean something else; and causes in rarer words."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding
from narthex.doctor.story import starts
from narthex.testing.evidence import evidence_of

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]

PROBE = (
    'level=INFO source=runner.go:464 msg="failure during GPU discovery" '
    'OLLAMA_LIBRARY_PATH="[/usr/lib/ollama /usr/lib/ollama/rocm]" extra_envs=map[] error="runner crashed"'
)
CARD = (
    'msg="inference compute" id=GPU-1 library=CUDA compute=8.6 name=CUDA0 '
    'description="NVIDIA GeForce RTX 3090" total="24.0 GiB" available="23.3 GiB"'
)


@pytest.mark.parametrize("lines", [PROBE, f"{PROBE}\n{CARD}"])
def test_a_probe_for_gpus_that_crashes_is_no_crash_of_a_model(causes: Causes, lines: str) -> None:
    assert "runner_crash_bug" not in causes(ollama_log=lines)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid (PCI:0000:0b:00): 13, pid=2891, name=ollama, Graphics SM Warp Exception on (GPC 0, "
        "TPC 1, SM 0): Illegal Instruction Encoding",
        "CUDA error: an illegal instruction was encountered",
        "traps: chrome[2953] trap invalid opcode ip:55d2c8a sp:7ffc1 error:0 in chrome[400000+1000]",
    ],
)
def test_an_instruction_of_the_gpu_or_of_another_program_is_none_of_our_cpu(
    causes: Causes, line: str
) -> None:
    assert "cpu_illegal_instruction" not in causes(dmesg=line)


@pytest.mark.parametrize(
    "line",
    [
        "panic: $HOME is not defined",
        'level=DEBUG source=server.go:466 msg="server not yet available" error="health resp: Get '
        '\\"http://127.0.0.1:43111/health\\": dial tcp 127.0.0.1:43111: connect: connection refused"',
    ],
)
def test_a_missing_home_and_a_load_that_is_asked_for_are_no_crash(causes: Causes, line: str) -> None:
    assert causes(ollama_log=line) == []


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (3221225501, "cpu_illegal_instruction"),
        (3221225477, "runner_crash_bug"),
        (3221225785, "runner_missing_library"),
    ],
)
def test_windows_told_the_status_in_decimal_once(causes: Causes, status: int, cause: str) -> None:
    assert causes(client_error=f"Error: llama runner process no longer running: {status}")[0] == cause


def test_an_exception_of_windows_that_nobody_caught_is_a_suspicion(says: Says) -> None:
    (finding,) = says(client_error="Error: llama-server process has terminated: exit status 0xe06d7363")
    assert (finding.cause, finding.confidence < 0.5) == ("runner_crash_bug", True)


def test_a_file_without_an_architecture_is_no_model_that_is_too_new(causes: Causes) -> None:
    line = "llama_model_load: error loading model: unknown model architecture: ''"
    assert causes(llama_server_log=line) == ["gguf_invalid_or_corrupt"]


def test_a_library_of_the_package_that_is_missing_is_certain(says: Says) -> None:
    (finding,) = says(
        ollama_log="ollama_llama_server: error while loading shared libraries: libcublas.so.12: cannot open"
    )
    assert (finding.cause, finding.confidence) == ("runner_missing_library", 0.95)


@pytest.mark.parametrize(
    "text",
    [
        CARD,
        f"time=2025-10-21T15:33:57.731+05:30 level=INFO source=types.go:129 {CARD}",
        "level=INFO source=types.go:129 "
        + CARD.replace(" compute=", "\n  compute=").replace(" tot", "\n  tot"),
    ],
)
def test_a_device_is_known_from_its_words_alone(text: str) -> None:
    (start,) = starts(evidence_of(ollama_log=text))
    (gpu,) = start.gpus
    assert (gpu.library, gpu.name, gpu.compute) == ("cuda", "NVIDIA GeForce RTX 3090", "8.6")


REFUSED = '[GIN] 2024/11/04 - 22:02:56 | 400 |      5.3135ms |       127.0.0.1 | POST     "/api/embed"\n'


def test_embeddings_that_are_always_refused_fail(causes: Causes) -> None:
    assert causes(ollama_log=REFUSED * 3) == ["embedding_failure"]
    assert causes(ollama_log=REFUSED) == []
    assert causes(ollama_log=REFUSED * 3 + REFUSED.replace("400", "200")) == []


def test_a_text_too_long_for_an_embedding_is_no_prompt_that_is_too_long(causes: Causes) -> None:
    said = '{ "error": "input length exceeds maximum context length", "status_code": 400 }'
    assert causes(client_error=said) == ["embedding_failure"]


def test_a_frame_of_a_backtrace_is_no_assertion(says: Says) -> None:
    (finding,) = says(llama_server_log="1   libggml-base.0.9.5.dylib   0x00000001057991b8 ggml_abort + 156\n")
    assert (finding.cause, finding.confidence) == ("runner_crash_bug", 0.45)


def test_a_text_that_no_batch_holds_is_one_for_an_embedding(causes: Causes) -> None:
    line = (
        "srv  send_error: task id = 4, error: input (1203 tokens) is too large to process. increase the "
        "physical batch size (current batch size: 512)"
    )
    assert causes(llama_server_log=line) == ["embedding_failure"]


def test_a_format_of_2023_is_no_damage_of_today_and_no_model_either(causes: Causes) -> None:
    line = "gguf_init_from_file: GGUFv1 is no longer supported. please use a more up-to-date version"
    assert causes(llama_server_log=line) == ["gguf_invalid_or_corrupt"]


def test_a_prompt_that_was_cut_stands_below_a_failure_beside_it(causes: Causes) -> None:
    log = (
        'level=WARN msg="truncating input prompt" limit=2048 prompt=74706 keep=5 new=2048\n'
        "ggml.c:1584: GGML_ASSERT(view_src == NULL) failed\n"
    )
    assert causes(ollama_log=log) == ["runner_crash_bug", "context_truncated"]
