"""Why loads and requests fail: the answer and the log together, in the words of all eras."""

from __future__ import annotations

import pytest

from narthex.engines.ollama.failures import explain
from narthex.engines.ollama.records import ApiError
from narthex.outcomes import Outcome

BLOB = "/root/.ollama/models/blobs/sha256-" + "5ff0abee" * 8
START = (
    f'time=2026-08-21T18:48:22.1Z level=INFO source=a.go:1 msg="starting llama-server" cmd="x --model {BLOB}"'
)
STREAM = "an error was encountered while running the model: unexpected EOF"
DIED = "llama-server process has terminated: "
OOM = "ggml_backend_cuda_alloc_buffer: allocating 4155.99 MiB on device 0: cudaMalloc failed: out of memory"


def own(msg: str, rest: str = "", level: str = "INFO") -> str:
    return f'time=2026-08-21T18:48:23.1Z level={level} source=a.go:1 msg="{msg}" {rest}'.rstrip()


def failed(error: str, msg: str = "Load failed") -> str:
    return own(msg, f'model={BLOB} error="{error}"')


@pytest.mark.parametrize(
    ("text", "status", "outcome"),
    [
        ("server busy, please try again.  maximum pending requests exceeded", 503, Outcome.QUEUE_FULL),
        ("model 'nosuch' not found", 404, Outcome.MODEL_UNKNOWN),
        ('model "nosuch" not found, try pulling it first', 404, Outcome.MODEL_UNKNOWN),
        ("pull model manifest: file does not exist", 200, Outcome.MODEL_UNKNOWN),
        ("request (602 tokens) exceeds the available context size", 400, Outcome.PROMPT_TRUNCATED),
        ("the prompt is longer than the context length currently available", 400, Outcome.PROMPT_TRUNCATED),
        ("the input length exceeds the context length", 400, Outcome.PROMPT_TRUNCATED),
        ("input exceeds maximum context length", 400, Outcome.PROMPT_TRUNCATED),
        ('option "num_ctx" must be of type integer', 500, Outcome.UNSUPPORTED_SETTING),
        ("write /models/x-partial: no space left on device", 200, Outcome.DISK_FULL),
        (
            "model requires more system memory (9.1 GiB) than is available (7.2 GiB)",
            500,
            Outcome.HOST_OUT_OF_MEMORY,
        ),
        (f"{DIED}exit status 1: cudaMalloc failed: out of memory", 500, Outcome.OUT_OF_MEMORY),
        (f"{DIED}exit status 1: hipErrorOutOfMemory", 500, Outcome.OUT_OF_MEMORY),
        (f"{DIED}exit status 1: not enough memory for the buffer", 500, Outcome.OUT_OF_MEMORY),
        (f"{DIED}exit status 1: 1 MiB of pinned memory: out of memory", 500, Outcome.FAILED),
        (f"{DIED}signal: killed", 500, Outcome.KILLED_BY_KERNEL),
        (f"{DIED}signal: illegal instruction", 500, Outcome.CRASHED),
        (f"{DIED}CUDA error: device kernel image is invalid", 500, Outcome.CRASHED),
        (f"{DIED}exit status 127", 500, Outcome.FAILED),
        ("error starting llama-server: llama-server binary not found (checked: /a)", 500, Outcome.FAILED),
        ("timed out waiting for llama-server to start - ", 500, Outcome.LOAD_TIMEOUT),
        ("timed out waiting for llama runner to start - progress 0.00 - ", 500, Outcome.LOAD_TIMEOUT),
        ("timed out waiting for llama runner to start: context canceled", 500, Outcome.CLIENT_GONE),
        ("request canceled", 499, Outcome.CLIENT_GONE),
        (f"{DIED}exit status 1: error loading model: unknown model architecture: 'zlama'", 500,
         Outcome.UNSUPPORTED_ARCHITECTURE),
        ("unsupported model format, this model may be incompatible", 500, Outcome.UNSUPPORTED_ARCHITECTURE),
        ("invalid file magic", 500, Outcome.CORRUPT_FILE),
        ('tensor "x" offset+size (91) exceeds file size (83)', 500, Outcome.CORRUPT_FILE),
        ("invalid character 'n' looking for beginning of object key string", 500, Outcome.CORRUPT_FILE),
        ("memory layout cannot be allocated with num_gpu = 49", 500, Outcome.OUT_OF_MEMORY),
        ("llama runner process has terminated: %!w(<nil>)", 500, Outcome.RUNNER_DIED),
        ("model failed to load, this may be due to resource limitations", 500, Outcome.RUNNER_DIED),
        ("registry.ollama.ai/library/a:latest does not support tools", 400, Outcome.REQUEST_FAILED),
        ("invalid character 'b' looking for beginning of object key string", 400, Outcome.REQUEST_FAILED),
    ],
)  # fmt: skip
def test_a_load_that_fails_is_named_by_the_answer_alone(text: str, status: int, outcome: Outcome) -> None:
    failure = explain(ApiError(text, status=status), [], loaded=False)
    assert failure.outcome is outcome
    assert failure.line in f"SIGKILL; whether the kernel's oom-killer sent it is not known. {text}" or (
        text in failure.line
    )


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (STREAM, Outcome.RUNNER_DIED),
        (
            "model runner has unexpectedly stopped, this may be due to resource limitations",
            Outcome.RUNNER_DIED,
        ),
        ('POST predict: Post "http://127.0.0.1:49262/completion": EOF', Outcome.RUNNER_DIED),
        (
            "llama runner process no longer running: 2 CUDA error: out of memory",
            Outcome.OUT_OF_MEMORY_COMPUTE,
        ),
        (
            "an error was encountered while running the model: CUDA error: out of memory\n  device: 0",
            Outcome.OUT_OF_MEMORY_COMPUTE,
        ),
        ("invalid format: yaml", Outcome.REQUEST_FAILED),
    ],
)
def test_a_request_that_fails_is_named_by_the_words_alone(text: str, outcome: Outcome) -> None:
    assert explain(ApiError(text, status=200), [], loaded=True).outcome is outcome
    assert explain(None, [], loaded=True, words=text).outcome is outcome


def test_memory_is_proven_by_the_engines_own_line_and_its_size() -> None:
    lines = [START, OOM, "llama_model_load: error loading model: unable to allocate CUDA0 buffer"]
    failure = explain(ApiError(f"{DIED}exit status 1", status=500), lines, loaded=False)
    assert (failure.outcome, failure.line) == (Outcome.OUT_OF_MEMORY, OOM)
    assert failure.requested_bytes == round(4155.99 * 2**20)


def test_memory_that_is_missing_after_a_good_load_is_missing_for_computing() -> None:
    lines = [START, own("llama-server started in 2.31 seconds"), "CUDA error: out of memory"]
    failure = explain(ApiError(STREAM, status=200), lines, loaded=True)
    assert (failure.outcome, failure.line) == (Outcome.OUT_OF_MEMORY_COMPUTE, "CUDA error: out of memory")


def test_ollamas_own_verdict_on_memory_while_computing() -> None:
    line = own("runtime OOM detected; expiring loaded models to clear memory", level="WARN")
    failure = explain(ApiError(STREAM, status=200), [line], loaded=True)
    assert (failure.outcome, failure.line) == (Outcome.OUT_OF_MEMORY_COMPUTE, line)


def test_the_first_try_is_not_the_reason_of_the_second() -> None:
    retry = own(
        "llama-server load failed; reducing automatic context and retrying once", f'error="{OOM}"', "WARN"
    )
    lines = [START, OOM, failed(f"{DIED}exit status 1: {OOM}"), retry, START, "load_tensors: loading"]
    failure = explain(ApiError(f"{DIED}signal: killed", status=500), lines, loaded=False)
    assert failure.outcome is Outcome.KILLED_BY_KERNEL


def test_memory_that_was_found_elsewhere_is_no_failure() -> None:
    lines = [START, "ggml_cuda_host_malloc: failed to allocate 8301.56 MiB of pinned memory: out of memory"]
    failure = explain(
        ApiError("timed out waiting for llama-server to start - ", status=500), lines, loaded=False
    )
    assert failure.outcome is Outcome.LOAD_TIMEOUT


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        (
            own("model request too large for system", 'requested="9.1 GiB" available=7', "WARN"),
            Outcome.HOST_OUT_OF_MEMORY,
        ),
        (failed("write /tmp/x: no space left on device", "failed to create server"), Outcome.DISK_FULL),
        (failed("timed out waiting for llama runner to start - progress 0.42 - "), Outcome.LOAD_TIMEOUT),
        (failed(f"{DIED}signal: segmentation fault"), Outcome.CRASHED),
        (failed(f"{DIED}signal: killed"), Outcome.KILLED_BY_KERNEL),
        (
            failed(f"stat {BLOB}: no such file or directory", "failed to load model metadata"),
            Outcome.FILE_MISSING,
        ),
        (failed("unsupported version 0", "failed to load model metadata"), Outcome.CORRUPT_FILE),
        (failed(f"{DIED}exit status 1: cudaMalloc failed: out of memory\\nx"), Outcome.OUT_OF_MEMORY),
    ],
)
def test_the_log_tells_where_the_answer_is_empty(line: str, outcome: Outcome) -> None:
    failure = explain(ApiError("HTTP 500", status=500), [START, line], loaded=False)
    assert failure.outcome is outcome
    assert failure.line in line or line in failure.line


def test_a_client_that_left_is_no_timeout_of_ollama() -> None:
    lines = [
        START,
        own("client connection closed before server finished loading, aborting load", level="WARN"),
        failed("timed out waiting for llama runner to start: context canceled"),
    ]
    assert explain(None, lines, loaded=False, words="gone").outcome is Outcome.CLIENT_GONE


def test_a_model_whose_blob_is_gone_is_not_unknown() -> None:
    error = ApiError('model "a" not found, try pulling it first', status=404)
    line = failed(f"stat {BLOB}: no such file or directory", "failed to load model metadata")
    assert explain(error, [line], loaded=False).outcome is Outcome.FILE_MISSING
    assert explain(error, [], loaded=False).outcome is Outcome.MODEL_UNKNOWN


def test_what_happens_to_other_models_is_not_our_failure() -> None:
    lines = [
        own("bad manifest", "name=other error=\"invalid character 'n' looking for\"", "WARN"),
        own("couldn't open model file", f'error="open {BLOB}: no such file or directory"', "ERROR"),
        own("request failed: write /x-partial: no space left on device"),
        own("llama-server terminated", 'error="signal: killed" exit=unknown', "ERROR"),
    ]
    failure = explain(ApiError("something else", status=500), lines, loaded=False)
    assert (failure.outcome, failure.line) == (Outcome.REQUEST_FAILED, "something else")


def test_sigkill_is_the_kernels_only_where_the_kernel_may_have_struck() -> None:
    error = ApiError(f"{DIED}signal: killed", status=500)
    unknown = explain(error, [], loaded=False)
    assert unknown.outcome is Outcome.KILLED_BY_KERNEL
    assert "not known" in unknown.line
    assert "rose by 1" in explain(error, [], loaded=False, oom_kills=1).line
    other = explain(error, [], loaded=False, oom_kills=0)
    assert other.outcome is Outcome.RUNNER_DIED
    assert "from outside" in other.line


def test_a_runner_that_was_killed_shows_at_the_next_request() -> None:
    line = own("llama-server process no longer running", 'sys=9 string="signal: killed"', "WARN")
    failure = explain(ApiError(STREAM, status=200), [line], loaded=True)
    assert failure.outcome is Outcome.KILLED_BY_KERNEL
    assert line in failure.line


def test_the_journal_of_a_unit_names_the_oom_killer() -> None:
    line = "ollama.service: A process of this unit has been killed by the OOM killer."
    error = ApiError("the connection ended early", lost=True)
    failure = explain(error, [START, line], loaded=True)
    assert (failure.outcome, failure.line) == (Outcome.KILLED_BY_KERNEL, line)


def test_a_crash_while_computing_keeps_its_cause() -> None:
    lines = [
        START,
        "[New LWP 22378]",
        "ggml-cuda.cu:88: CUDA error: an illegal memory access was encountered",
    ]
    failure = explain(ApiError(STREAM, status=200), lines, loaded=True)
    assert failure.outcome is Outcome.RUNNER_DIED
    assert "illegal memory access" in failure.line


def test_an_assertion_during_a_load_is_a_crash_with_its_line() -> None:
    line = "ggml-metal.m:1080: GGML_ASSERT(src1t == GGML_TYPE_F32) failed"
    failure = explain(ApiError(f"{DIED}signal: aborted", status=500), [START, line], loaded=False)
    assert (failure.outcome, failure.line) == (Outcome.CRASHED, line)


def test_the_traces_of_a_debugger_are_not_missing_files() -> None:
    lines = [START, "30\t../sysdeps/unix/sysv/linux/wait4.c: No such file or directory."]
    failure = explain(ApiError(f"{DIED}signal: aborted", status=500), lines, loaded=False)
    assert failure.outcome is Outcome.CRASHED
    assert "signal: aborted" in failure.line


def test_a_server_that_is_gone_is_down_unless_memory_was_the_cause() -> None:
    gone = ApiError("the connection was refused", lost=True)
    lines = [
        START,
        failed(f"{DIED}signal: killed"),
        own("client connection closed before x server finished loading"),
    ]
    assert explain(gone, lines, loaded=False).outcome is Outcome.SERVER_DOWN
    assert explain(gone, [], loaded=True, outcome=Outcome.INTERRUPTED).outcome is Outcome.INTERRUPTED
    assert explain(gone, [START, OOM], loaded=False).outcome is Outcome.OUT_OF_MEMORY


def test_no_answer_in_time_is_a_timeout() -> None:
    assert explain(ApiError("no answer within 5 s"), [START], loaded=False).outcome is Outcome.TIMEOUT
    assert explain(None, [], loaded=True, outcome=Outcome.STALLED, words="silence").outcome is Outcome.STALLED


def test_a_request_that_a_client_gave_up_is_no_death_of_the_runner() -> None:
    line = own(
        "post predict", 'error="Post \\"http://127.0.0.1:60926/completion\\": context canceled"', "ERROR"
    )
    assert explain(None, [line], loaded=True, words="late").outcome is Outcome.REQUEST_FAILED


def test_a_prompt_that_was_cut_shows_only_in_the_log() -> None:
    line = own("truncating input prompt", "limit=131 prompt=602 keep=5 new=131", "WARN")
    failure = explain(None, [line], loaded=True, outcome=Outcome.PROMPT_TRUNCATED, words="fewer tokens")
    assert (failure.outcome, failure.line) == (Outcome.PROMPT_TRUNCATED, line)
    stalled = explain(None, [line], loaded=True, outcome=Outcome.STALLED, words="silence")
    assert (stalled.outcome, stalled.line) == (Outcome.STALLED, "silence")


def test_nothing_was_said() -> None:
    failure = explain(None, [], loaded=True)
    assert (failure.outcome, failure.line) == (Outcome.REQUEST_FAILED, "Ollama said nothing.")
