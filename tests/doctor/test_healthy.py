"""Facts: what is as it should be, and lines that only look like a fault."""

from __future__ import annotations

import pytest

from narthex.doctor.healthy import facts_of
from narthex.testing.evidence import diagnosis_of, evidence_of

GPU = (
    'level=INFO msg="inference compute" id=GPU-1 library=cuda variant=v12 compute=8.9 driver=12.4 '
    'name="NVIDIA GeForce RTX 4070" total="11.7 GiB" available="11.2 GiB"'
)
CPU = (
    'level=INFO msg="inference compute" id=0 library=cpu variant="" compute="" driver=0.0 name="" '
    'total="31.2 GiB" available="28.0 GiB"'
)


def _facts(text: str) -> str:
    return "\n".join(fact.text for fact in facts_of(evidence_of(ollama_log=text)))


def test_a_good_day_is_told_as_facts_with_their_lines() -> None:
    text = f"""
    time=2026-08-14T14:59:50.746+08:00 level=INFO msg="Listening on [::]:11434 (version 0.6.8)"
    {GPU}
    load_tensors: offloaded 29/29 layers to GPU
    time=2026-08-17T09:28:24.861+08:00 level=INFO msg="llama runner started in 2.01 seconds"
    [GIN] 2026/08/17 - 09:28:25 | 200 |   3.84476267s |       127.0.0.1 | POST     "/api/generate"
    """
    facts = list(facts_of(evidence_of(ollama_log=text)))
    words = "\n".join(fact.text for fact in facts)
    assert "Ollama 0.6.8 found the GPU: NVIDIA GeForce RTX 4070 (11.7 GiB)" in words
    assert "29 of 29 layers" in words
    assert "1 of 1 requests" in words
    assert all(quote.text in text for fact in facts for quote in fact.evidence)
    assert all(fact.evidence for fact in facts)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('msg="entering low vram mode" "total vram"="7.7 GiB" threshold="20.0 GiB"', "low vram"),
        ('level=WARN msg="failed to parse CPU allowed micro secs" error="strconv.ParseInt"', "CPU quota"),
        ('msg="key not found" key=general.alignment default=32', "key not found"),
        ('msg="key with type not found" key=tokenizer.ggml.add_eos_token default=false', "key not found"),
        ('msg="flash attention enabled but not supported by model"', "flash attention"),
        ('level=DEBUG msg="context limit hit - shifting" id=0 limit=4096', "long answer"),
    ],
)
def test_known_decoys_are_said_to_be_harmless(line: str, words: str) -> None:
    assert words in _facts(f"{GPU}\n{line}\n")


@pytest.mark.parametrize(
    "line",
    [
        'level=INFO msg="dropping integrated GPU; to enable, set OLLAMA_IGPU_ENABLE=1" id=0 library=ROCm',
        'level=WARN msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=0',
        'level=INFO msg="failure during GPU discovery" error="failed to finish discovery before timeout"',
    ],
)
def test_a_decoy_needs_a_gpu_that_is_used(line: str) -> None:
    assert len(_facts(f"{line}\n{GPU}").splitlines()) > len(_facts(f"{line}\n{CPU}").splitlines())


def test_a_download_that_stumbled_and_ended_is_a_fact() -> None:
    stalled = 'level=INFO msg="6a0746a1ec1a part 7 attempt 1 failed: unexpected EOF, retrying in 2s"'
    ended = '[GIN] 2026/08/17 - 09:28:25 | 200 |         5m3s |       127.0.0.1 | POST     "/api/pull"'
    assert "download ended well" in _facts(f"{stalled}\n{ended}")
    assert "download" not in _facts(f"{ended}\n{stalled}")


def test_layers_without_a_buffer_on_a_gpu_are_no_proof() -> None:
    text = """
    load_tensors: offloaded 19/19 layers to GPU
    load_tensors:          CPU model buffer size =   222.51 MiB
    level=INFO msg="llama-server started in 1.01 seconds"
    """
    assert "lies on the GPU" not in _facts(text)


def test_a_healthy_log_with_its_noise_is_healthy() -> None:
    text = f"""
    time=2026-01-21T07:58:24.397Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.12.11)"
    {GPU}
    level=INFO msg="entering low vram mode" "total vram"="11.7 GiB" threshold="20.0 GiB"
    [GIN] 2026/08/17 - 09:28:20 | 200 |      30.1µs |       127.0.0.1 | HEAD     "/"
    [GIN] 2026/08/17 - 09:28:20 | 404 |      30.1µs |       127.0.0.1 | GET      "/favicon.ico"
    [GIN] 2026/08/17 - 09:28:20 | 404 |     130.1µs |       127.0.0.1 | POST     "/api/show"
    level=WARN source=ggml.go:149 msg="key not found" key=qwen2.attention.key_length default=128
    load_tensors: offloaded 29/29 layers to GPU
    llama_context: n_ctx_seq (4096) < n_ctx_train (8192) -- the full capacity of the model
    level=INFO source=server.go:628 msg="llama runner started in 2.01 seconds"
    [GIN] 2026/08/17 - 09:28:25 | 200 |   3.84476267s |       127.0.0.1 | POST     "/api/generate"
    level=DEBUG msg="context limit hit - shifting" id=0 limit=4096 input=4096 keep=5 discard=2045
    [GIN] 2026/08/17 - 09:28:35 | 200 |   3.84476267s |       127.0.0.1 | POST     "/api/generate"
    """
    diagnosis = diagnosis_of(ollama_log=text)
    assert diagnosis.healthy, diagnosis.findings


def test_comfyui_on_its_card_is_a_fact() -> None:
    text = """
    [2024-05-29 10:54] Device: cuda:0 NVIDIA GeForce RTX 3080 : cudaMallocAsync
    Prompt executed in 12.34 seconds
    """
    (fact,) = facts_of(evidence_of(comfyui_log=text))
    assert fact.text == "ComfyUI works on cuda:0, NVIDIA GeForce RTX 3080 and has carried out 1 job."


def test_a_pull_that_gave_up_is_not_told_as_one_that_ended_well() -> None:
    log = """
    level=INFO source=download.go:291 msg="60e05f210007 part 5 attempt 0 failed: EOF, retrying in 1s"
    [GIN] 2024/12/23 - 21:41:24 | 200 |          1m4s |      172.17.0.1 | POST     "/api/pull"
    """
    assert "ended well" in _facts(log)
    gave_up = evidence_of(ollama_log=log, client_error="Error: max retries exceeded: EOF")
    assert not any("ended well" in fact.text for fact in facts_of(gave_up))


def test_jobs_of_comfyui_that_failed_or_were_stopped_are_not_counted_as_carried_out() -> None:
    done, failed = "Prompt executed in 0.61 seconds", "!!! Exception during processing !!! no blocks"
    for text, told in ((f"{failed}\n{done}", 0), (f"Processing interrupted\n{done}\n{done}", 1)):
        words = "\n".join(fact.text for fact in facts_of(evidence_of(comfyui_log=text)))
        assert ("carried out 1 job" in words) == bool(told)


def test_that_it_computes_on_the_cpu_is_no_comfort_where_the_gpu_is_lost() -> None:
    start = 'level=INFO source=types.go:130 msg="inference compute" id=0 library=cpu'
    lost = 'level=WARN msg="unknown error initializing cuda driver library libcuda.so: init failure: 999"'
    assert any("CPU" in fact.text for fact in diagnosis_of(ollama_log=start).facts)
    diagnosis = diagnosis_of(ollama_log=f"{lost}\n{start}")
    assert not diagnosis.healthy
    assert not any("CPU" in fact.text for fact in diagnosis.facts)
