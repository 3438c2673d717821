"""A taken port, in the words of Go, Docker, llama.cpp and Python, and who holds it."""

from __future__ import annotations

import pytest

from narthex.doctor.finding import Severity
from narthex.testing.evidence import diagnosis_of

OLLAMA = "Error: listen tcp 127.0.0.1:11434: bind: address already in use"


@pytest.mark.parametrize(
    ("kind", "line", "port"),
    [
        ("commands", OLLAMA, 11434),
        (
            "commands",
            "Error: listen tcp 0.0.0.0:11434: bind: Only one usage of each socket address (protocol/network "
            "address/port) is normally permitted.",
            11434,
        ),
        (
            "ollama_log",
            "Error: listen tcp 127.0.0.1:11434: bind: Normal olarak her yuva adresi yalnızca bir",
            11434,
        ),
        ("client_error", "docker: Bind for 0.0.0.0:11434 failed: port is already allocated.", 11434),
        (
            "docker_log",
            "failed to bind port 127.0.0.1:11434/tcp: Error starting userland proxy: listen tcp4 "
            "127.0.0.1:11434: bind: address already in use",
            11434,
        ),
        ("llama_server_log", "main: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 8080", 8080),
        (
            "openwebui_log",
            "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8080): address "
            "already in use",
            8080,
        ),
        ("comfyui_log", "Port 8188 is already in use on address 127.0.0.1.", 8188),
    ],
)
def test_it_is_told_in_the_words_of_each_program(kind: str, line: str, port: int) -> None:
    first = diagnosis_of((), False, **{kind: line}).findings[0]
    assert (first.cause, first.about) == ("port_in_use", str(port))
    assert first.severity is Severity.ERROR
    assert [quote.text for quote in first.evidence] == [line]


@pytest.mark.parametrize(
    "row",
    [
        "ollama  226 ollama    3u  IPv4  22777      0t0  TCP localhost:11434 (LISTEN)",
        'LISTEN 0      4096       127.0.0.1:11434      0.0.0.0:*    users:(("ollama",pid=226,fd=3))',
        "tcp        0      0 127.0.0.1:11434         0.0.0.0:*               LISTEN      226/ollama",
    ],
)
def test_whoever_holds_the_port_is_named_from_the_tables_of_three_programs(row: str) -> None:
    first = diagnosis_of(commands=f"{OLLAMA}\n$ who holds it\n{row}").findings[0]
    assert "ollama (process 226)" in first.why
    assert first.evidence[-1].text == row


def test_a_port_that_windows_keeps_back_is_held_by_nobody() -> None:
    line = (
        "Error: listen tcp 127.0.0.1:11434: bind: An attempt was made to access a socket in a way forbidden "
        "by "
        "its access permissions."
    )
    first = diagnosis_of(commands=line).findings[0]
    assert first.cause == "port_in_use"
    assert "exclusion range" in first.why
    assert "netsh" in first.remedy.commands[0].text


def test_a_start_that_worked_later_makes_it_harmless() -> None:
    log = f"""
        {OLLAMA}
        time=2025-01-10T22:07:10.961+08:00 level=INFO msg="Listening on 127.0.0.1:11434 (version 0.5.4)"
    """
    diagnosis = diagnosis_of(ollama_log=log)
    assert diagnosis.healthy
    assert "port_in_use" in [finding.cause for finding in diagnosis.findings]


def test_a_climbing_restart_counter_is_its_consequence_and_no_fault_of_the_unit() -> None:
    log = f"""
        Nov 05 10:00:00 box ollama[2233]: {OLLAMA}
        Nov 05 10:00:00 box systemd[1]: ollama.service: Main process exited, code=exited, status=1/FAILURE
        Nov 05 10:00:03 box systemd[1]: ollama.service: Scheduled restart job, restart counter is at 57.
    """
    assert [finding.cause for finding in diagnosis_of(ollama_log=log).findings] == ["port_in_use"]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "Error: listen tcp 192.168.1.50:11434: bind: cannot assign requested address",
            "bind_address_refused",
        ),
        ("Error: listen tcp 127.0.0.1:80: bind: permission denied", "bind_address_refused"),
    ],
)
def test_a_wrong_address_is_no_taken_port(line: str, cause: str) -> None:
    first = diagnosis_of(ollama_log=line).findings[0]
    assert first.cause == cause
    assert "OLLAMA_HOST" in str(first.remedy)
