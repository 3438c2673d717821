"""Models that are too new, damaged or missing, and runners that lack something."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]
BLOB = "sha256-" + "0a" * 32

NEWER = (
    "llama_model_load: error loading model: error loading model architecture: unknown model architecture: "
    "'deci'",
    "Error: exception error loading model architecture: unknown model architecture: 'phi3'",
    "Error: 500 Internal Server Error: llama-server process has terminated: exit status 1: error loading "
    "model: "
    "unknown model architecture: 'glm-dsa'",
    "  what():  error loading model vocabulary: unknown pre-tokenizer type: 'qwen2'",
    "Error: pull model manifest: 412:",
    "The model you are attempting to pull requires a newer version of Ollama.",
    'Error: unsupported architecture "DeepseekV3ForCausalLM"',
    "llama_model_load: error loading model: done_getting_tensors: wrong number of tensors; expected 292, "
    "got 291",
    "llama_model_load: error loading model: missing tensor 'blk.0.attn_q_norm.weight'",
    "Error: exception error loading model hyperparameters: invalid n_rot: 128, expected 160",
    "ollama-1  | llama_model_load: error loading model: unknown model architecture: 'gemma4'",
)
DAMAGED = (
    "llama_model_load: error loading model: tensor 'blk.2.ffn_down.weight' data is not within the file "
    "bounds, "
    "model is corrupted or incomplete",
    'msg="failed to load model metadata" error="tensor \\"x\\" offset+size (91335328) exceeds file size '
    '(83292496)"',
    "Error: invalid file magic",
    "gguf_init_from_file: invalid magic characters: 'vers', expected 'GGUF'",
    "gguf_init_from_file_impl: invalid magic number 67676a74",
    "llama_model_load: error loading model: error loading model architecture: unknown model architecture: "
    "'clip'",
    "ValueError: GGUF magic invalid",
    "error loading model: failed to load GGUF split from model-00002-of-00004.gguf",
    "error loading model: error loading model vocabulary: cannot find tokenizer merges in model file",
)
LACKING = (
    "/tmp/ollama1/runners/cpu/ollama_llama_server: error while loading shared libraries: libllama.so: "
    "cannot open "
    "shared object file: No such file or directory",
    'level=ERROR msg="error loading llama server" error="llama runner process has terminated: exit status '
    '127"',
    "Error: llama runner process has terminated: exit status 0xc0000135",
    "Error: no suitable llama servers found",
    "error starting llama-server: llama-server binary not found (checked: /usr/lib/ollama/llama-server)",
    "llama_model_load_from_file_impl: no backends are loaded. hint: use ggml_backend_load()",
    "./llama-server: /lib/libc.so.6: version `GLIBC_2.38' not found (required by ./libllama.so)",
    'Error: error starting the external llama server: exec: "ollama_llama_server": executable file not '
    "found in $PATH",
    "RuntimeError: Failed to load shared library '/venv/llama_cpp/lib/libllama.so': libgomp.so.1: cannot "
    "open shared object file: No such file or directory",
)
MISSING = (
    "Error: model 'llama3:70b' not found",
    '{"error":"model \\"llama3:70b\\" not found, try pulling it first"}',
    "ollama._types.ResponseError: model 'llama3:70b' not found (status code: 404)",
    "Error: pull model manifest: file does not exist",
    "Ollama call failed with status code 404. Maybe your model is not found and you should pull the model",
    "Client error '404 Not Found' for url 'http://localhost:11434/api/chat'",
)


@pytest.mark.parametrize("line", NEWER)
@pytest.mark.parametrize("kind", ["ollama_log", "client_error", "docker_log"])
def test_what_the_loader_does_not_know_needs_a_newer_program(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"})[:1] == ["model_needs_newer_runtime"]


@pytest.mark.parametrize("line", DAMAGED)
@pytest.mark.parametrize("kind", ["ollama_log", "llama_server_log", "commands"])
def test_a_file_that_is_not_whole_is_damaged_and_not_too_new(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["gguf_invalid_or_corrupt"]


@pytest.mark.parametrize("line", LACKING)
def test_a_runner_that_can_not_start_lacks_something(causes: Causes, line: str) -> None:
    assert causes(docker_log=f"{line}\n") == ["runner_missing_library"]


def test_the_drivers_own_library_is_only_a_suspicion(says: Says) -> None:
    (finding,) = says(
        llama_server_log="/app/llama-server: error while loading shared libraries: libcuda.so.1: cannot\n"
    )
    assert finding.confidence < 0.5


@pytest.mark.parametrize("line", MISSING)
@pytest.mark.parametrize("kind", ["client_error", "openwebui_log"])
def test_a_name_that_is_not_there_is_missing(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["model_not_found"]


def test_the_model_is_named_in_title_and_remedy(says: Says) -> None:
    (finding,) = says(client_error=f"{MISSING[0]}\n")
    assert "llama3:70b" in finding.title
    assert any(command.text == "ollama pull llama3:70b" for command in finding.remedy.commands)


def test_the_access_log_alone_tells_of_a_missing_model(causes: Causes) -> None:
    line = '[GIN] 2024/08/19 - 10:14:11 | 404 |     515.42µs |      172.17.0.1 | POST     "/api/chat"'
    assert causes(ollama_log=f"{line}\n{line}\n") == ["model_not_found"]
    embed = line.replace("/api/chat", "/api/embed")
    assert causes(ollama_log=f"{embed}\n") == ["model_not_found"]


@pytest.mark.parametrize(
    "line",
    [
        '[GIN] 2024/08/19 - 10:14:11 | 404 |     515.42µs |      172.17.0.1 | POST     "/api/show"',
        '[GIN] 2024/08/19 - 10:14:11 | 404 |     515.42µs |      172.17.0.1 | GET      "/favicon.ico"',
        "[GIN] 2024/08/19 - 10:14:11 | 404 |     515.42µs |      172.17.0.1 | HEAD     "
        '"/api/blobs/sha256:00"',
        "404 page not found",
        'level=DEBUG source=ggml.go:149 msg="key not found" key=general.alignment default=32',
        "llm_load_vocab: missing or unrecognized pre-tokenizer type, using: 'default'",
        'level=INFO msg="6a0746a1ec1a part 7 attempt 1 failed: unexpected EOF, retrying in 2s"',
        'level=INFO msg="Unable to load cudart library libcudart.so.11: cannot open shared object file"',
    ],
)
def test_ordinary_noise_is_no_missing_file(causes: Causes, line: str) -> None:
    assert causes(ollama_log=f"{line}\n") == []


def test_the_abort_after_an_unknown_name_is_its_consequence(causes: Causes) -> None:
    assert causes(
        ollama_log="""
        terminate called after throwing an instance of 'std::runtime_error'
          what():  error loading model vocabulary: unknown pre-tokenizer type: 'qwen2'
        msg="error loading llama server" error="llama runner process has terminated: signal: aborted"
        """
    ) == ["model_needs_newer_runtime"]


def test_a_load_of_the_same_model_that_went_well_later_ends_the_matter(says: Says) -> None:
    start = f'level=INFO msg="starting llama-server" cmd="/x/llama-server --model /m/{BLOB} --port 1 -c 4096"'
    failed = "llama_model_load: error loading model: unknown model architecture: 'gemma4'"
    ended = 'level=INFO msg="llama-server started in 2.31 seconds"'
    (finding,) = says(ollama_log=f"{start}\n{failed}\n{start}\n{ended}\n")
    assert finding.severity is Severity.INFO


def test_a_blob_that_is_gone_is_said_to_be_gone(says: Says) -> None:
    line = f'msg="failed to load model metadata" error="stat /m/blobs/{BLOB}: no such file or directory"'
    (finding,) = says(ollama_log=f"level=INFO {line}\n")
    assert (finding.cause, finding.title) == ("model_not_found", "The model is listed, and its file is gone")
