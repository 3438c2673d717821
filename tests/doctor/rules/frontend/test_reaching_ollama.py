"""Addresses of OpenWebUI that lead nowhere: all of them, one of several, or none of them really."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of

ERROR = "2025-10-05 09:59:52 | ERROR | open_webui.routers.ollama:send_get_request:106 - Connection error: "
CHAT = '2025-10-05 10:00:52.845 | INFO | uvicorn - 10.0.0.7:0 - "POST /api/chat/completions HTTP/1.1" 200'


def backend(url: str, *, reachable: bool, error: str = "") -> Reading:
    value = {"reachable": reachable, "error": error, "from_inside": True}
    return Reading(name="openwebui.backend", about=url, value=value, text=f"{url}: {error or 'reached'}")


def first(**texts: str) -> Finding:
    return diagnosis_of((), False, **texts).findings[0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            ERROR
            + "Cannot connect to host host.docker.internal:11434 ssl:default [Name or service not known]",
            "--add-host",
        ),
        (
            ERROR + "Cannot connect to host ollama:11434 ssl:default [Temporary failure in name resolution]",
            "within one Docker network",
        ),
        (
            ERROR
            + "Cannot connect to host localhost:11434 ssl:default [Connect call failed ('127.0.0.1', 11434)]",
            "inside a container that is the container",
        ),
        (
            ERROR
            + "Cannot connect to host 172.17.0.1:11434 ssl:<ssl.SSLContext object> [Connection refused]",
            "Ollama listens on 127.0.0.1",
        ),
        (
            "ERROR:apps.ollama.main:Connection error: Cannot connect to host host.docker.internal:11434 "
            "ssl:default [Connection timed out]",
            "firewall",
        ),
    ],
)
def test_the_reason_why_nobody_is_there_is_told_by_the_kind_of_address(line: str, words: str) -> None:
    finding = first(openwebui_log=line)
    assert finding.cause == "owui_cannot_reach_ollama"
    assert words in finding.why
    assert finding.evidence[0].text == line


@pytest.mark.parametrize(
    "line",
    [
        "Error: getaddrinfo ENOTFOUND ollama",
        "curl: (6) Could not resolve host: host.docker.internal",
        'Post "http://ollama:11434/api/chat": dial tcp: lookup ollama on 127.0.0.11:53: no such host',
    ],
)
def test_other_clients_in_containers_fare_the_same(line: str) -> None:
    assert first(client_error=line).cause == "owui_cannot_reach_ollama"


def test_ollama_that_listens_on_loopback_only_is_quoted() -> None:
    start = 'time=2025-01-10T22:07:10.961Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.5.4)"'
    line = ERROR + "Cannot connect to host host.docker.internal:11434 ssl:default [Connection refused]"
    finding = first(openwebui_log=line, ollama_log=start)
    assert finding.confidence == 0.9
    assert [quote.text for quote in finding.evidence] == [line, start]
    assert "OLLAMA_HOST=172.17.0.1:11434" in str(finding.remedy)


def test_a_chat_that_was_answered_later_makes_it_harmless() -> None:
    line = ERROR + "Cannot connect to host ollama:11434 ssl:default [Connection refused]"
    assert diagnosis_of(openwebui_log=f"{line}\n{CHAT}").healthy


@pytest.mark.parametrize(
    "line",
    [
        "ERROR [open_webui.routers.openai] Connection error: Cannot connect to host api.openai.com:443 "
        "ssl:default [None]",
        'Post "http://127.0.0.1:39023/completion": dial tcp 127.0.0.1:39023: connect: connection refused',
        "MaxRetryError: HTTPSConnectionPool(host='huggingface.co', port=443): Max retries exceeded with "
        "url: /api",
    ],
)
def test_other_hosts_are_not_ollama(line: str) -> None:
    causes = [finding.cause for finding in diagnosis_of(openwebui_log=line).findings]
    assert "owui_cannot_reach_ollama" not in causes


def test_on_this_machine_the_readings_tell_who_answers_from_where() -> None:
    rows = [
        backend("http://host.docker.internal:11434", reachable=False, error="Connection refused"),
        Reading(name="ollama.answers", about="http://127.0.0.1:11434", value=True, text="Ollama answers"),
        Reading(
            name="listener",
            about="11434",
            value={"addresses": ["127.0.0.1"], "process": "ollama", "pid": 7, "service": "ollama"},
            text="127.0.0.1:11434 is held by ollama",
        ),
    ]
    (finding,) = diagnosis_of(rows, live=True).findings
    assert (finding.cause, finding.confidence) == ("owui_cannot_reach_ollama", 0.9)
    assert "127.0.0.1 only" in finding.why
    assert finding.remedy.verify_commands[0].argv[:2] == ("docker", "exec")


def test_one_dead_address_of_two_makes_pages_wait() -> None:
    rows = [
        backend("http://ollama:11434", reachable=True),
        backend("http://192.168.1.20:11434", reachable=False, error="timed out"),
    ]
    (finding,) = diagnosis_of(rows, live=True).findings
    assert (finding.cause, finding.about) == ("owui_hang_unreachable_url", "http://192.168.1.20:11434")


@pytest.mark.parametrize(
    "line", [ERROR, ERROR + "Cannot connect to host 192.168.0.24:11434 ssl:default [Connection timed out]"]
)
def test_waiting_beside_chats_that_work_is_told_from_the_log(line: str) -> None:
    causes = [
        finding.cause
        for finding in diagnosis_of(openwebui_log=f"{line}\n{CHAT}").findings
        if finding.is_trouble
    ]
    assert causes == ["owui_hang_unreachable_url"]


def test_addresses_that_all_answer_are_nothing() -> None:
    assert diagnosis_of([backend("http://ollama:11434", reachable=True)], live=True).findings == ()


@pytest.mark.parametrize(
    "line",
    [
        "Ollama: 500, message='Internal Server Error', url=URL('http://localhost:11434/api/chat')",
        "500: Ollama: 500, message='Internal Server Error', url='http://host.docker.internal:11434/api/chat'",
        "Upstream ollama request failed: HTTP 500 (server_failed) url=http://ollama:11434/api/chat",
    ],
)
def test_a_500_that_is_passed_on_is_a_suspicion_and_no_more(line: str) -> None:
    finding = first(openwebui_log=line)
    assert finding.cause == "owui_500_while_ollama_ok"
    assert finding.confidence < 0.5


def test_a_500_whose_reason_is_passed_on_is_that_reason() -> None:
    line = (
        "Upstream ollama request failed: HTTP 500 (server_failed) url=http://ollama:11434/api/chat "
        "message=model "
        "requires more system memory (9.1 GiB) than is available (3.2 GiB)"
    )
    assert first(openwebui_log=line).cause == "host_ram_insufficient"
