"""From an engine's words and log to a trouble."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from narthex.gateway.diagnosing import LOG_BYTES, diagnosed
from narthex.gateway.known_errors import known_error
from narthex.gateway.offer import Offer
from narthex.gateway.trouble import Trouble
from narthex.outcomes import Outcome
from narthex.units import GIB, MIB

OFFER = Offer(
    key="k",
    backend="ollama",
    name="qwen",
    model="qwen3:8b",
    twin="t",
    options={"num_ctx": 8192},
    num_ctx=8192,
)
CUDA = b"""ggml_backend_cuda: allocating 4155.99 MiB on device 0: cudaMalloc failed: out of memory
alloc_tensor_range: failed to allocate CUDA0 buffer of size 4357870592
llama_model_load: error loading model: unable to allocate CUDA0 buffer
llama_model_load_from_file_impl: failed to load model
"""
NESTED = (
    r'{"error":"{\"error\":{\"code\":400,\"message\":\"request (8004 tokens) exceeds the available context '
    r"size (512 tokens), try increasing it\",\"type\":\"exceed_context_size_error\","
    r'\"n_prompt_tokens\":8004,\"n_ctx\":512}}"}'
)
PLAIN = (
    '{"error":{"code":400,"message":"request (8004 tokens) exceeds the available context size (512 tokens)",'
    '"type":"exceed_context_size_error","n_prompt_tokens":8004,"n_ctx":512}}'
)


def trouble_of(
    words: str = "", status: int | None = None, log: Sequence[tuple[str, bytes]] = (), **options: Any
) -> Trouble:
    return asyncio.run(diagnosed(words, status, log, model="qwen", offer=OFFER, **options))


@pytest.mark.parametrize("words", [NESTED, PLAIN])
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(words: str) -> None:
    trouble = trouble_of(words, 400)
    assert (trouble.status, trouble.cause) == (400, "context_too_large")
    assert trouble.figures == {"n_prompt_tokens": 8004, "n_ctx": 512}
    assert "8004" in trouble.message
    assert "512" in trouble.message
    assert not trouble.lasting


@pytest.mark.parametrize(
    "words",
    [
        "the prompt is longer than the context length currently available to the model; shorten it",
        "the input length exceeds the context length",
    ],
)
def test_words_without_numbers_are_told_with_the_offers_own(words: str) -> None:
    trouble = trouble_of(words, 400)
    assert trouble.cause == "context_too_large"
    assert trouble.figures == {"n_ctx": 8192}
    assert "8192" in trouble.message


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        ("model 'nope:1b' not found", 404, (404, "model_not_found")),
        ('model "nope" not found, try pulling it first', 404, (404, "model_not_found")),
        (
            "server busy, please try again.  maximum pending requests exceeded",
            503,
            (503, "queue_full"),
        ),
        ('"nomic-embed-text" does not support chat', 400, (400, "capability_missing")),
        (
            "input (3000 tokens) is too large to process. increase the physical batch size "
            "(current batch size: 512)",
            500,
            (400, "embedding_failure"),
        ),
    ],
)
def test_exact_words_need_no_log(words: str, status: int, expected: tuple[int, str]) -> None:
    trouble = known_error(words, status, model="qwen", offer=None)
    assert trouble is not None
    assert (trouble.status, trouble.cause) == expected
    assert trouble.remedy


def test_a_card_that_is_too_small_is_told_by_the_doctors_rule_with_the_figures() -> None:
    trouble = trouble_of(
        "llama-server process has terminated: exit status 1",
        500,
        [("ollama log", CUDA)],
        outcome=Outcome.OUT_OF_MEMORY,
        requested_bytes=4357870592,
        free_bytes=3 * GIB,
    )
    assert (trouble.status, trouble.cause, trouble.lasting) == (503, "vram_oom_on_load", True)
    assert "4.06 GiB" in trouble.message
    assert "3.00 GiB were free" in trouble.message
    assert "num_ctx 8192" in trouble.message
    assert "narthex plan qwen" in trouble.remedy
    assert any("cudaMalloc failed" in line for line in trouble.evidence)
    assert trouble.figures["requested_bytes"] > 4000 * MIB


def test_what_a_log_tells_of_other_things_is_no_answer() -> None:
    downloads = (
        b'time=2026-11-22T11:21:53.141Z level=INFO source=images.go:1314 msg="request failed: Get '
        b'\\"https://registry.ollama.ai/v2/x\\": dial tcp: lookup registry.ollama.ai on 192.0.2.53:53: '
        b'no such host"\n'
    )
    trouble = trouble_of("it is gone", None, [("ollama log", downloads)], outcome=Outcome.RUNNER_DIED)
    assert (trouble.status, trouble.cause) == (502, "runner_died")


def test_without_a_finding_the_engines_own_line_is_told() -> None:
    log = [("llama-server.log", b"srv start\nerror: the frobnicator is out of plugs\n")]
    trouble = trouble_of("", None, log)
    assert trouble.status == 502
    assert "frobnicator" in trouble.message
    refused = trouble_of('option "num_ctx" must be of type integer', 422)
    assert (refused.status, refused.cause) == (422, "engine_refused")
    assert "num_ctx" in refused.message


def test_every_outcome_has_a_cause_a_status_and_a_way_out() -> None:
    for outcome in Outcome:
        if outcome in (Outcome.DONE, Outcome.INTERRUPTED, Outcome.UNSTABLE):
            continue
        trouble = trouble_of("something happened", None, outcome=outcome)
        assert 400 <= trouble.status < 600
        assert trouble.cause
        assert trouble.message.endswith("."), trouble.message
        assert trouble.remedy, outcome


def test_of_a_huge_log_only_the_end_is_read() -> None:
    noise = b"llama_context: everything is fine and nothing has to be said about it\n" * 100_000
    assert len(noise) > 10 * LOG_BYTES
    trouble = trouble_of("it ended", 500, [("llama-server.log", noise + CUDA)])
    assert trouble.cause == "vram_oom_on_load"


def test_a_gateway_without_failures_never_imports_the_doctor() -> None:
    words = "import sys, narthex.gateway.diagnosing; print('narthex.doctor.rules' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_failure_of_another_model_in_the_same_log_is_not_taken_for_this_ones() -> None:
    theirs, ours = "8" * 64, "a" * 64
    log = (
        "llama_model_load: error loading model: tensor 'a' data is not within the file bounds\n"
        f'time=2026-11-22T10:00:00Z level=INFO source=sched.go:1 msg="failed to load model metadata" '
        f"model=/root/.ollama/models/blobs/sha256-{theirs} "
        "error=\"tensor 'token_embd.weight' offset+size (184785600) exceeds file size (126556518)\"\n"
    )
    trouble = asyncio.run(
        diagnosed(
            "llama runner process no longer running",
            500,
            [("ollama.log", log.encode())],
            model="chat",
            offer=Offer(key="k", backend="ollama", name="chat", model="chat", twin=f"ollama:{ours}"),
            outcome=Outcome.RUNNER_DIED,
        )
    )
    assert trouble.cause == "runner_died"
