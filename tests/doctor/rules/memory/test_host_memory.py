"""Main memory: refused, or taken by the kernel; and the lines that only look like it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding, Severity
from narthex.testing.evidence import diagnosis_of

First = Callable[..., Finding]
Causes = Callable[..., list[str]]
Says = Callable[..., list[Finding]]

REFUSED = {
    "the client's word": "Error: model requires more system memory (164.8 GiB) than is available (13.4 GiB)",
    "relayed": '500: {"error":"model requires more system memory (5.0 GiB) than is available (3.9 GiB)"}',
    "the log": (
        'level=WARN msg="model request too large for system" requested="391.0 GiB" available=393216983040 '
        'total="1690.2 GiB"'
    ),
    "a buffer": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 437944320\n"
        "alloc_tensor_range: failed to allocate CPU buffer of size 437944320\n"
        "llama_model_load: error loading model: unable to allocate CPU buffer"
    ),
    "its cache": (
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 137438953504\n"
        "llama_kv_cache_init: failed to allocate buffer for kv cache\n"
        "llama_new_context_with_model: llama_kv_cache_init() failed for self-attention cache"
    ),
    "mmap": (
        "llama_model_load: error loading model: mmap failed: Cannot allocate memory\nfailed to load model"
    ),
    "C++": "terminate called after throwing an instance of 'std::bad_alloc'",
    "PyTorch": (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 4294967296 bytes."
    ),
}


@pytest.mark.parametrize("log", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("kind", ["ollama_log", "docker_log", "client_error"])
def test_memory_that_is_refused(first: First, log: str, kind: str) -> None:
    assert first(**{kind: log}).cause == "host_ram_insufficient"


def test_both_figures_are_told(first: First) -> None:
    why = first(client_error=REFUSED["the client's word"]).why
    assert "164.8 GiB" in why
    assert "13.4 GiB" in why


def test_a_lock_that_is_refused_is_only_a_warning(causes: Causes) -> None:
    log = (
        "warning: failed to mlock 1234567-byte buffer (after previously locking 0 bytes): Cannot allocate"
        " memory\nTry increasing RLIMIT_MEMLOCK ('ulimit -l' as root).\n"
    )
    assert causes(llama_server_log=log) == []


KILLED = {
    "kernel": {
        "dmesg": (
            "[12345.7] Out of memory: Killed process 4711 (ollama_llama_se) total-vm:12345678kB,"
            " anon-rss:8123456kB\n"
        )
    },
    "cgroup": {
        "dmesg": (
            "Memory cgroup out of memory: Killed process 940 (llama-server) total-vm:1kB, anon-rss:380628kB\n"
        )
    },
    "old kernel": {"dmesg": "Out of memory: Kill process 1234 (python3) score 900 or sacrifice child\n"},
    "unit": {"ollama_log": "ollama.service: A process of this unit has been killed by the OOM killer.\n"},
    "unit's end": {
        "ollama_log": "Jun 28 08:06:42 nixos systemd[1]: ollama.service: Failed with result 'oom-kill'.\n"
    },
    "pod": {
        "commands": "    Last State:     Terminated\n      Reason:       OOMKilled\n      Exit Code:    137\n"
    },
    "inspect": {"commands": '            "OOMKilled": true,\n            "ExitCode": 137,\n'},
    "Compose": {"docker_log": "comfyui exited with code 137\n"},
    "docker ps": {
        "commands": 'ab12 ollama/ollama "/bin/ollama serve" 2 hours ago Exited (137) 3 minutes ago\n'
    },
    "0.5": {
        "ollama_log": (
            'level=ERROR msg="error loading llama server" error="llama runner process has terminated: signal:'
            ' killed"\n'
        )
    },
    "0.12": {
        "ollama_log": (
            'level=WARN msg="llama runner process no longer running" sys=9 string="signal: killed"\n'
        )
    },
    "0.30": {"ollama_log": 'level=ERROR msg="llama-server terminated" error="signal: killed"\n'},
    "client": {"client_error": "Error: llama runner process has terminated: signal: killed"},
    "old cgroup": {
        "dmesg": (
            "Task in /docker/ab killed as a result of limit of /docker/ab\nMemory cgroup out of memory: Kill"
            " process 940 (ollama) score 1\n"
        )
    },
    "ComfyUI's shell": {"comfyui_log": "got prompt\nRequested to load Flux\nKilled\n"},
    "shell": {"commands": "$ ./llama-server -m big.gguf\nKilled\n"},
}


@pytest.mark.parametrize("texts", KILLED.values(), ids=KILLED)
def test_a_process_that_was_killed_for_memory(first: First, texts: dict[str, str]) -> None:
    assert first(**texts).cause == "host_oom_kill"


def test_the_kernel_s_word_is_surer_than_a_signal(first: First) -> None:
    assert (
        first(**KILLED["kernel"]).confidence
        > first(**KILLED["0.5"]).confidence
        > first(**KILLED["shell"]).confidence
    )


def test_a_limit_that_is_told_is_told_again(first: First) -> None:
    finding = first(**KILLED["0.12"], commands="cat /sys/fs/cgroup/memory.max → 4294967296 (4GB)\n")
    assert "4.00 GiB" in finding.why
    assert len(finding.evidence) == 2


def test_a_browser_that_was_killed_is_no_trouble_of_this_stack(causes: Causes) -> None:
    assert causes(dmesg="Out of memory: Killed process 99 (firefox) total-vm:1kB, anon-rss:1kB\n") == []


def test_another_unit_that_was_killed_is_none_either(causes: Causes) -> None:
    assert causes(dmesg="firefox.service: Main process exited, code=killed, status=9/KILL\n") == []


def test_an_end_without_a_word_stays_a_suspicion(first: First) -> None:
    log = (
        'level=INFO msg="system memory" total="7.8 GiB" free="1.2 GiB" free_swap="0 B"\n'
        'level=INFO msg="Load failed" model=/m error="llama runner process has terminated: %!w(<nil>)"\n'
    )
    finding = first(ollama_log=log)
    assert finding.cause == "host_oom_kill"
    assert finding.confidence < 0.5


def test_docker_s_own_mark(first: First) -> None:
    row = Reading(
        name="container", about="ollama", value={"role": "ollama", "oom_killed": True}, text="ollama: OOM"
    )
    finding = first((row,))
    assert finding.cause == "host_oom_kill"
    assert finding.evidence[0].source == "host"


def test_an_ordinary_unload_is_no_kill(causes: Causes) -> None:
    log = (
        'level=DEBUG msg="stopping llama server" pid=123\nlevel=DEBUG msg="waiting for llama server to exit"'
        ' pid=123\nlevel=DEBUG msg="llama server stopped" pid=123\n'
    )
    assert causes(ollama_log=log) == []


def test_memory_that_came_back_late(first: First) -> None:
    log = (
        'level=WARN msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.26 model=/m\n'
        'level=WARN msg="gpu VRAM usage didn\'t recover within timeout" seconds=5.51 model=/m\n'
    )
    finding = first(ollama_log=log)
    assert finding.cause == "vram_not_recovered"
    assert finding.severity is Severity.WARNING
    assert "2 times" in finding.why
    assert "5.5 s" in finding.why


def test_low_vram_mode_is_said_to_be_harmless(says: Says) -> None:
    log = (
        'level=INFO msg="inference compute" id=GPU-a library=CUDA compute=8.6 name=CUDA0 total="8.0 GiB"'
        ' available="7.6 GiB"\nlevel=INFO msg="entering low vram mode" "total vram"="8.0 GiB" threshold="20.0'
        ' GiB"\n'
    )
    found = says(ollama_log=log)
    assert [(one.cause, one.severity) for one in found] == [("low_vram_mode", Severity.INFO)]
    assert "8.0 GiB" in found[0].why


@pytest.mark.parametrize(
    ("version", "asked", "suspected"),
    [
        ("0.5.4", "996.0 GiB", True),  # up to four slots, where none are set
        ("0.9.0", "164.8 GiB", True),  # up to two
        ("0.12.6", "996.0 GiB", False),  # one
        ("0.5.4", "27.0 GiB", False),  # a model that is a little too large
    ],
)
def test_an_absurd_need_is_perhaps_one_of_many_slots(version: str, asked: str, suspected: bool) -> None:
    log = (
        f'level=INFO source=routes.go:1238 msg="Listening on 127.0.0.1:11434 (version {version})"\n'
        f'level=INFO msg="NewLlamaServer failed" error="model requires more system memory ({asked}) than is '
        'available (26.0 GiB)"\n'
    )
    causes = [finding.cause for finding in diagnosis_of(ollama_log=log).findings if finding.is_trouble]
    assert causes == ["host_ram_insufficient", "num_parallel_multiplies_kv"][: 1 + suspected]


def test_a_model_that_is_larger_than_the_machine_needs_no_slots_for_that() -> None:
    text = (
        "deepseek-v2.5:latest    409b2dd8a3c4    132 GB    2 minutes ago\n"
        "Error: model requires more system memory (164.8 GiB) than is available (13.4 GiB)\n"
    )
    (finding,) = diagnosis_of(commands=text).findings
    assert finding.cause == "host_ram_insufficient"


@pytest.mark.parametrize(("days", "severity"), [(0, Severity.ERROR), (3, Severity.INFO)])
def test_an_old_kill_in_the_log_of_this_boot_is_only_told(days: int, severity: Severity) -> None:
    at = datetime.now(UTC) - timedelta(days=days, minutes=5)
    line = (
        f"{at:%Y-%m-%dT%H:%M:%S},000000+00:00 Out of memory: Killed process 4711 (llama-server) anon-rss:9kB"
    )
    diagnosis = diagnosis_of(dmesg=line, live=True)
    found = next(one for one in diagnosis.findings if one.cause == "host_oom_kill")
    assert found.severity is severity
