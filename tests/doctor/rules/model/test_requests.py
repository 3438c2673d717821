"""Prompts that are cut, embeddings that fail, settings that are not taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]

CUT = 'level=WARN source=runner.go:131 msg="truncating input prompt" limit=4096 prompt=9713 keep=5 new=4096'


def _gin(status: int, path: str) -> str:
    return f'[GIN] 2026/03/25 - 15:35:18 | {status} |   2.345678901s |       127.0.0.1 | POST     "{path}"'


@pytest.mark.parametrize(
    "line",
    [
        CUT,
        f"Jan 05 17:16:18 box ollama[812]: {CUT}",
        "slot update_slots: id  0 | task 0 | input truncated, n_ctx = 4096, n_keep = 0, n_prompt_tokens = "
        "2314",
        '{"error":{"code":400,"message":"request (8004 tokens) exceeds the available context size (4096 '
        "tokens), "
        'try increasing it","type":"exceed_context_size_error","n_prompt_tokens":8004,"n_ctx":4096}}',
        "the prompt is longer than the context length currently available to the model",
        "ValueError: Requested tokens (4348) exceed context window of 4096",
        '"done_reason":"stop","prompt_eval_count":1026,"eval_count":238',
    ],
)
@pytest.mark.parametrize("kind", ["ollama_log", "client_error", "openwebui_log"])
def test_a_prompt_that_does_not_fit(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["context_truncated"]


def test_the_figures_of_the_cut_are_told(says: Says) -> None:
    (finding,) = says(
        ollama_log=f"{CUT}\n{CUT.replace('9713', '5000')}\n{_gin(200, '/v1/chat/completions')}\n"
    )
    assert "5617 of 9713" in finding.why
    assert "twice" in finding.why
    assert "/v1" in finding.why
    assert any("OLLAMA_CONTEXT_LENGTH=16384" in command.text for command in finding.remedy.commands)


def test_the_models_own_length_is_the_ceiling(says: Says) -> None:
    ceiling = 'level=WARN msg="requested context size too large for model" num_ctx=131072 n_ctx_train=8192'
    (finding,) = says(ollama_log=f"{ceiling}\n{CUT.replace('4096', '8192')}\n")
    assert "trained for 8192" in finding.remedy.text
    (alone,) = says(ollama_log=f"{ceiling}\n")
    assert alone.severity is Severity.INFO


def test_a_little_that_is_lost_is_less_certain(says: Says) -> None:
    (finding,) = says(ollama_log=CUT.replace("9713", "4100") + "\n")
    assert finding.confidence < 0.7


@pytest.mark.parametrize(
    "line",
    [
        'level=DEBUG msg="context limit hit - shifting" id=0 limit=4096 input=4096 keep=5 discard=2045',
        "llama_context: n_ctx_per_seq (4096) < n_ctx_train (131072) -- the full capacity of the model",
        '"prompt_eval_count":1234',
    ],
)
def test_a_usual_context_is_no_trouble(causes: Causes, line: str) -> None:
    assert causes(ollama_log=f"{line}\n") == []


@pytest.mark.parametrize(
    "texts",
    [
        {"ollama_log": f"{_gin(500, '/api/embed')}\n{_gin(500, '/api/embed')}\n"},
        {"ollama_log": f"{_gin(500, '/api/embeddings')}\n{_gin(200, '/api/chat')}\n"},
        {"client_error": "failed to encode response: json: unsupported value: NaN (status code: 500)\n"},
        {"client_error": "this model does not support embeddings\n"},
        {
            "ollama_log": f"{_gin(400, '/api/embed')}\n",
            "client_error": "the input length exceeds the context length\n",
        },
        {"openwebui_log": "500 Server Error: Internal Server Error for url: http://ollama:11434/api/embed\n"},
        {"llama_server_log": "input (1024 tokens) is too large to process. embedding failed\n"},
    ],
)
def test_embeddings_that_fail(causes: Causes, texts: dict[str, str]) -> None:
    assert causes(**texts)[:1] == ["embedding_failure"]


def test_embeddings_that_fail_for_memory_are_not_called_a_failure_of_their_own(causes: Causes) -> None:
    assert causes(ollama_log=f"CUDA error: out of memory\n{_gin(500, '/api/embed')}\n") == []


@pytest.mark.parametrize(
    "line",
    [
        'error while handling argument "--cache-type-k": Unsupported cache type: q5_9',
        "llama_init_from_model: quantized V cache requires flash_attn to be enabled",
        "failed to initialize the context: quantized V cache was requested, but this requires Flash "
        "Attention",
        'level=WARN msg="invalid environment variable, using default" key=OLLAMA_NUM_PARALLEL value=four '
        "default=0",
        '{"error":"option \\"num_ctx\\" must be of type integer"}',
        "error: invalid argument: --no-mmap",
        "Error: unknown parameter 'num_ctxx'",
        'time: missing unit in duration "600"',
    ],
)
@pytest.mark.parametrize("kind", ["ollama_log", "client_error"])
def test_a_setting_that_is_not_taken(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["bad_server_setting"]


@pytest.mark.parametrize(
    ("words", "severity"),
    [
        ('msg="kv cache type not supported by model" type=""', None),  # none was asked for
        ('msg="kv cache type not supported by model" type=q8_0', "info"),
        ('msg="kv cache type not supported by model" type=q9', "warning"),
        ('msg="unsupported OLLAMA_KV_CACHE_TYPE" type=q9', "warning"),
    ],
)
def test_a_type_that_ollama_leaves_out_fails_nothing(says: Says, words: str, severity: str | None) -> None:
    findings = says(ollama_log=f"level=WARN source=server.go:193 {words}\n")
    assert [str(finding.severity) for finding in findings] == ([severity] if severity else [])


def test_a_wrong_type_is_seen_at_the_start_already(causes: Causes) -> None:
    line = 'level=INFO msg="server config" env="map[OLLAMA_KV_CACHE_TYPE:q9_9 OLLAMA_MODELS:/m]"'
    assert causes(ollama_log=f"{line}\n") == ["bad_server_setting"]
    assert causes(ollama_log=line.replace("q9_9", "q8_0") + "\n") == []


@pytest.mark.parametrize(
    "line",
    [
        'level=WARN msg="flash attention enabled but not supported by model"',
        'level=WARN msg="quantized kv cache requested but flash attention disabled" type=q8_0',
        'level=WARN msg="invalid option provided" option=mirostat',
    ],
)
def test_what_ollama_mends_by_itself_is_no_trouble(causes: Causes, line: str) -> None:
    assert causes(ollama_log=f"{line}\n") == []


def test_what_the_old_runner_erased_is_counted(says: Says) -> None:
    (finding,) = says(
        ollama_log="INFO [update_slots] input truncated | n_ctx=2048 n_erase=14097 n_keep=4 n_left=2044\n"
    )
    assert "14097 of 16145" in finding.why
