"""Nothing answers: what clients, systemd and Docker say of it, and what is no such thing."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.testing.evidence import diagnosis_of


@pytest.mark.parametrize(
    "line",
    [
        "Error: could not connect to ollama app, is it running?",
        "Error: could not connect to a running Ollama instance",
        'Post "http://127.0.0.1:11434/api/chat": dial tcp 127.0.0.1:11434: connect: connection refused',
        "curl: (7) Failed to connect to localhost port 11434 after 0 ms: Connection refused",
        "HTTPConnectionPool(host='localhost', port=11434): Max retries exceeded with url: /api/generate "
        "(Caused by "
        "NewConnectionError('Failed to establish a new connection: [WinError 10061] actively refused it'))",
        "Error: connect ECONNREFUSED 127.0.0.1:11434",
        'Head "http://127.0.0.1:11434/": dial tcp 127.0.0.1:11434: connect: can\'t assign requested address',
        "litellm.APIConnectionError: OllamaException - [Errno 111] Connection refused",
        "litellm.APIConnectionError: OllamaException - All connection attempts failed",
        "Failed to fetch Ollama models: [Errno 111] Connection refused",
        "Couldn't connect to Ollama at http://127.0.0.1:11434",
        "RuntimeError: Ollama Server is not running, start it using `ollama serve` in a separate terminal",
    ],
)
def test_a_refusal_is_told_in_the_words_of_each_client(line: str) -> None:
    findings = diagnosis_of(client_error=line).findings
    assert [finding.cause for finding in findings] == ["ollama_unreachable"]
    assert findings[0].evidence[0].text == line


@pytest.mark.parametrize(
    "state", ["inactive (dead)", "failed (Result: exit-code)", "activating (auto-restart)"]
)
def test_systemds_state_of_the_service_is_evidence(state: str) -> None:
    commands = (
        f"● ollama.service - Ollama Service\n     Active: {state} since Mon 2025-05-12 13:26:47 BST; 1s ago"
    )
    assert diagnosis_of(commands=commands).findings[0].cause == "ollama_unreachable"


def test_the_reason_why_it_could_not_start_is_the_root() -> None:
    findings = diagnosis_of(
        commands="Error: could not connect to ollama app, is it running?",
        ollama_log="Error: mkdir /srv/models/blobs: permission denied",
    ).findings
    assert [(one.cause, one.consequence_of) for one in findings] == [
        ("models_dir_permission", ""),
        ("ollama_unreachable", "models_dir_permission"),
    ]


def test_a_container_of_this_machine_that_ended_is_named() -> None:
    rows = [
        Reading(name="ollama.answers", about="http://127.0.0.1:11434", value=False, text="no answer"),
        Reading(
            name="container",
            about="ollama-1",
            value={"role": "ollama", "state": "exited", "exit_code": 137},
            text="ollama-1 exited with 137",
        ),
    ]
    (finding,) = diagnosis_of(rows, live=True).findings
    assert (finding.cause, str(finding.severity)) == ("ollama_unreachable", "critical")
    assert "ollama-1 is exited with code 137" in finding.why


def test_where_nobody_expects_an_ollama_its_absence_is_only_told() -> None:
    row = Reading(
        name="ollama.answers", about="http://127.0.0.1:11434", value=False, text="no Ollama at "
        "http://127.0.0.1:11434: refused"
    )  # fmt: skip
    assert diagnosis_of([row], live=True).healthy


@pytest.mark.parametrize(
    "line",
    [
        "#9 0.377 Warning: could not connect to a running Ollama instance",
        "Ollama is not running. Starting Ollama...",
        "WebUI could not connect to Ollama",
        'Get "https://registry.ollama.ai/v2/": dial tcp 172.67.182.229:443: connect: connection refused',
        'Post "http://127.0.0.1:39023/completion": dial tcp 127.0.0.1:39023: connect: connection refused',
        "● bluetooth.service - Bluetooth\n     Active: inactive (dead)",
        "     Active: active (running) since Mon 2025-05-12 13:26:47 BST",
    ],
)
def test_what_is_no_unreachable_ollama(line: str) -> None:
    assert "ollama_unreachable" not in [finding.cause for finding in diagnosis_of(commands=line).findings]


def test_a_line_that_a_terminal_has_broken_is_still_understood() -> None:
    begin = "HTTPConnectionPool(host='localhost', port={}): Max retries exceeded (Caused by <urllib3.connect"
    end = "ion.HTTPConnection at 0x1>: Failed to establish a new connection: [WinError 10061] refused"
    (finding,) = diagnosis_of(client_error=f"{begin.format(11434)}\n{end}").findings
    assert finding.cause == "ollama_unreachable"
    assert diagnosis_of(client_error=f"{begin.format(9200)}\n{end}").findings == ()


def test_the_warning_beside_the_version_is_a_suspicion_and_no_more() -> None:
    said = "$ ollama -v\nWarning: could not connect to a running Ollama instance"
    (finding,) = diagnosis_of(commands=said).findings
    assert (finding.cause, str(finding.severity)) == ("ollama_unreachable", "warning")
    assert finding.confidence < 0.5
    assert diagnosis_of(commands=f"{said}\n$ curl localhost:11434\nOllama is running").findings == ()


def test_an_answer_in_the_same_transcript_later_ends_it() -> None:
    commands = """
        Error: could not connect to ollama app, is it running?
        time=2025-01-10T22:07:10.961Z level=INFO msg="Listening on 127.0.0.1:11434 (version 0.5.4)"
    """
    assert diagnosis_of(commands=commands).healthy


@pytest.mark.parametrize("answer", ["Ollama is running", '{"version":"0.17.2"}'])
def test_a_refusal_before_an_answer_is_over(answer: str) -> None:
    refused = "curl: (7) Failed to connect to localhost port 11434 after 0 ms: Couldn't connect to server"
    assert diagnosis_of((), False, commands=f"{refused}\n$ curl localhost:11434\n{answer}").healthy
    assert not diagnosis_of((), False, commands=f"{answer}\n$ curl localhost:11434\n{refused}").healthy


def test_a_server_that_takes_connections_and_answers_none_hangs() -> None:
    text = "no Ollama at http://127.0.0.1:11434: the connection is accepted, and no answer comes within 2 s"
    row = Reading(name="ollama.answers", about="http://127.0.0.1:11434", value=False, text=text)
    finding = diagnosis_of((row,), True).findings[0]
    assert "so it hangs" in finding.why
    assert "sudo systemctl restart ollama" in [command.text for command in finding.remedy.commands]
