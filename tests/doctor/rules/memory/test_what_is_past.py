"""A failure before a restart since which all goes well is told, and is no trouble; one that lasts is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from narthex.testing.evidence import diagnosis_of

MODEL, OTHER = "/models/blobs/sha256-" + "a" * 64, "/models/blobs/sha256-" + "b" * 64


def _line(minute: int, words: str) -> str:
    return f"time=2025-10-01T10:{minute:02}:00.000Z level=INFO {words}"


def _start(minute: int) -> Sequence[str]:
    return (_line(minute, 'source=routes.go:1564 msg="Listening on 127.0.0.1:11434 (version 0.12.6)"'),)


def _load(minute: int, model: str) -> Sequence[str]:
    return (
        _line(
            minute,
            f'source=server.go:400 msg="starting runner" cmd="ollama runner --model {model} --port 4000"',
        ),
    )


def _well(minute: int, model: str) -> Sequence[str]:
    return (
        *_load(minute, model),
        _line(minute, 'source=server.go:1289 msg="llama runner started in 3.20 seconds"'),
        f'[GIN] 2025/10/01 - 10:{minute:02}:09 | 200 | 3.2s | 127.0.0.1 | POST     "/api/chat"',
    )


NO_ROOM = (
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 21656.95 MiB on device 0: cudaMalloc failed: out "
    "of memory",
    "llama_model_load: error loading model: unable to allocate CUDA0 buffer",
)
REFUSED = (
    _line(
        2,
        f'source=sched.go:450 msg="Load failed" model={MODEL} '
        'error="model requires more system memory (8.5 GiB) than is available (7.4 GiB)"',
    ),
)
KILLED = (
    _line(2, f'msg="Load failed" model={MODEL} error="llama runner process has terminated: signal: killed"'),
)
ASSERTION = ("ggml.c:1584: GGML_ASSERT(view_src == NULL) failed",)
FULL = (
    "CUDA error: out of memory",
    "  current device: 0, in function alloc at ggml-cuda.cu:522",
    _line(2, 'msg="post predict" error="Post \\"http://127.0.0.1:41000/completion\\": EOF"'),
)
CUT = (_line(2, 'source=runner.go:131 msg="truncating input prompt" limit=2048 prompt=5065 keep=5 new=2048'),)
CASES = {
    "vram_oom_on_load": (*_load(2, MODEL), *NO_ROOM),
    "host_ram_insufficient": REFUSED,
    "host_oom_kill": KILLED,
    "runner_crash_bug": (*_well(1, MODEL), *ASSERTION),
    "vram_oom_in_generation": (*_well(1, MODEL), *FULL),
    "context_truncated": (*_well(1, MODEL), *CUT),
}


def _trouble(*lines: str) -> list[str]:
    told = diagnosis_of(ollama_log="\n".join(lines))
    return [finding.cause for finding in told.findings if finding.is_trouble]


@pytest.mark.parametrize("cause", CASES)
def test_it_is_trouble_while_nothing_goes_well_after_it(cause: str) -> None:
    assert cause in _trouble(*_start(0), *CASES[cause])


@pytest.mark.parametrize("cause", CASES)
def test_it_is_past_after_a_restart_and_an_answer(cause: str) -> None:
    lines = (*_start(0), *CASES[cause], *_start(30), *_well(31, MODEL))
    assert _trouble(*lines) == []
    told = [finding.cause for finding in diagnosis_of(ollama_log="\n".join(lines)).findings]
    assert cause in told


@pytest.mark.parametrize("cause", CASES)
def test_it_is_not_past_where_it_came_again(cause: str) -> None:
    assert cause in _trouble(*_start(0), *_start(1), *_well(1, MODEL), *CASES[cause])


def test_another_model_that_loads_says_nothing_about_the_one_that_did_not() -> None:
    lines = (*_start(0), *_load(2, MODEL), *NO_ROOM, *_start(30), *_well(31, OTHER))
    assert _trouble(*lines) == ["vram_oom_on_load"]


def test_memory_that_came_back_late_is_no_trouble_where_loads_go_well() -> None:
    late = _line(5, 'msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.1')
    assert _trouble(*_well(1, MODEL), late, *_well(6, OTHER)) == []
    assert _trouble(*_well(1, MODEL), late) == ["vram_not_recovered"]


def _asked(minute: int, ctx: int) -> Sequence[str]:
    command = f"ollama runner --model {MODEL} --ctx-size {ctx} --batch-size 512 --parallel 1 --port 4000"
    return (
        _line(minute, f'source=server.go:400 msg="starting llama server" cmd="{command}"'),
        *_well(minute, MODEL)[1:],
    )


def test_clients_that_made_it_reload_are_past_once_many_requests_came_without() -> None:
    thrash = [line for minute in range(1, 9) for line in _asked(minute, 8192 if minute % 2 else 2048)]
    answers = [_well(minute, MODEL)[-1] for minute in range(32, 40)]
    assert _trouble(*_start(0), *thrash) == ["model_reload_thrash"]
    assert _trouble(*_start(0), *thrash, *_start(30), *_asked(31, 8192)) == ["model_reload_thrash"]
    assert _trouble(*_start(0), *thrash, *_start(30), *_asked(31, 8192), *answers) == []
