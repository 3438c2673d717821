"""Who gave up: the server while loading, the client while loading, the client during the answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narthex.doctor.finding import Finding, Severity

Says = Callable[..., list[Finding]]
Causes = Callable[..., list[str]]

GAVE_UP = 'level=ERROR msg="error loading llama server" error="timed out waiting for llama runner to start'
LEFT = 'level=WARN msg="client connection closed before server finished loading, aborting load"'
ABORTING = (
    'level=INFO source=server.go:1568 msg="aborting completion request due to client closing the connection"'
)


def _gin(
    status: int, took: str, path: str = "/api/chat", at: str = "15:35:18", client: str = "127.0.0.1"
) -> str:
    return f'[GIN] 2026/03/25 - {at} | {status} | {took:>12} | {client:>15} | POST     "{path}"'


@pytest.mark.parametrize(
    "line",
    [
        f'{GAVE_UP} - progress 0.42 - "',
        f'{GAVE_UP}: "',
        'level=INFO msg="Load failed" error="timed out waiting for llama-server to start - "',
        "Error: timed out waiting for llama runner to start - progress 0.00 - ",
        "ollama._types.ResponseError: timed out waiting for llama runner to start - progress 1.00 - ",
    ],
)
@pytest.mark.parametrize("kind", ["ollama_log", "client_error"])
def test_the_server_gave_up(causes: Causes, line: str, kind: str) -> None:
    assert causes(**{kind: f"{line}\n"}) == ["model_load_timeout"]


@pytest.mark.parametrize(
    "text",
    [
        f"{LEFT}\n",
        f'{GAVE_UP}: context canceled"\n',
        f'{LEFT}\n{GAVE_UP}: context canceled"\n{_gin(499, "30.0s")}\n',
        f"{LEFT.replace('server', 'llama-server')}\n",
        f"{_gin(499, '36.85s', '/api/generate')}\n",
    ],
)
def test_the_client_gave_up_while_loading(causes: Causes, text: str) -> None:
    assert causes(ollama_log=text) == ["client_timeout_aborts_load"]


def test_ctrl_c_once_and_a_good_load_after_it_is_only_said(says: Says) -> None:
    text = f"""
    {LEFT}
    {_gin(499, "1.2s")}
    level=INFO msg="llama runner started in 2.01 seconds"
    {_gin(200, "4.2s")}
    """
    assert [finding.severity for finding in says(ollama_log=text)] == [Severity.INFO]


def test_a_client_that_leaves_every_time_is_an_endless_loop(says: Says) -> None:
    text = "\n".join(f"{LEFT}\n{_gin(499, '30.0s', at=f'15:3{minute}:00')}" for minute in range(4))
    (finding,) = says(ollama_log=text)
    assert finding.severity is Severity.ERROR
    assert "4 times" in finding.why


@pytest.mark.parametrize(
    "text",
    [
        f"{ABORTING}\n{_gin(500, '5m1s')}\n",
        f"{_gin(500, '1m0s')}\n",
        f"{_gin(500, '2m0s')}\n{_gin(200, '33m58s')}\n{_gin(500, '2m0s')}\n",
        'level=ERROR msg="post predict" error="Post \\"http://127.0.0.1:1/completion\\": context canceled"\n'
        + _gin(500, "1m0s"),
        f"[pod/ollama-7447/ollama] {_gin(500, '5m0s')}\n[pod/ollama-7447/ollama] {_gin(500, '5m0s')}\n",
    ],
)
def test_a_round_duration_is_the_clients(causes: Causes, text: str) -> None:
    assert causes(ollama_log=text) == ["client_timeout_generation"]


@pytest.mark.parametrize(
    "words",
    [
        "httpx.ReadTimeout: timed out",
        "Caused by: java.io.InterruptedIOException: timeout",
        "java.net.SocketTimeoutException: Read timed out",
        "litellm.Timeout: Connection timed out. Timeout passed=600.0, time taken=579.589 seconds",
    ],
)
def test_the_clients_own_words_with_an_ollama_that_goes_on(causes: Causes, words: str) -> None:
    assert causes(client_error=words, ollama_log=_gin(200, "33m58s")) == ["client_timeout_generation"]


@pytest.mark.parametrize(
    "text",
    [
        f'{_gin(500, "5m0s")}\n{GAVE_UP} - progress 0.42 - "\n',
        f'CUDA error: out of memory\nlevel=ERROR msg="post predict" error="EOF"\n{_gin(500, "1m0s")}\n',
        f"{_gin(200, '1m0s')}\n{_gin(200, '2m0s')}\n",
        f"{_gin(500, '3.2s')}\n",
        'level=INFO msg="llama-server discovery: timed out waiting for server startup"\n',
    ],
)
def test_what_is_no_clients_timeout(causes: Causes, text: str) -> None:
    assert "client_timeout_generation" not in causes(ollama_log=text)


def test_somebody_who_pressed_stop_is_no_trouble(causes: Causes) -> None:
    assert causes(ollama_log=f"{ABORTING}\n{_gin(200, '12.1s')}\n{_gin(200, '3.1s')}\n") == []


def test_a_long_request_that_failed_beside_the_clients_words(causes: Causes) -> None:
    words = "aiohttp.client_exceptions.ServerTimeoutError: Timeout on reading data from socket\n"
    assert causes(openwebui_log=words, docker_log=_gin(500, "2m3s")) == ["client_timeout_generation"]
