"""Who wrote the 403, the 502, the 503: Ollama, a browser's rules, a queue, or a proxy."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of


def first(**texts: str) -> Finding:
    return diagnosis_of((), False, **texts).findings[0]


@pytest.mark.parametrize(
    "line",
    [
        "Connection error: 403, message='Attempt to decode JSON with unexpected mimetype: "
        "text/html;charset=utf-8', "
        "url='http://localhost:11434/api/tags' - {}",
        "Connection error: 502, message='Attempt to decode JSON with unexpected mimetype: ', "
        "url='http://host.docker.internal:11434/api/version'",
        "Raw response: <bound method ClientResponse.text of <ClientResponse(http://ollama:11434/api/tags) "
        "[403 Forbidden]>",
    ],
)
def test_an_answer_that_no_engine_writes_is_a_proxys(line: str) -> None:
    finding = first(
        openwebui_log="2025-04-09 07:35:57.680 | ERROR | open_webui.routers.ollama:send_get_request:98 - "
        f"{line}"
    )
    assert finding.cause == "proxy_intercepts_local"
    assert "NO_PROXY=localhost,127.0.0.1" in str(finding.remedy)


def test_curl_that_goes_through_a_proxy_to_this_machine() -> None:
    commands = """
        $ curl -v http://localhost:11434/api/tags
        * Uses proxy env variable http_proxy == 'http://10.0.0.1:3128'
        < HTTP/1.1 503 Service Unavailable
        < Server: squid/5.7
    """
    assert first(commands=commands).cause == "proxy_intercepts_local"


@pytest.mark.parametrize(
    "line",
    [
        "Connection error: 403, message='Attempt to decode JSON with unexpected mimetype: text/html', "
        "url='https://api.example.com/v1/models'",
        "HTTPS_PROXY:http://10.0.0.1:3128 HTTP_PROXY:http://10.0.0.1:3128 NO_PROXY:",
        "downloading model squid/7b",
    ],
)  # fmt: skip
def test_a_proxy_that_is_set_or_answers_for_the_internet_is_no_fault(line: str) -> None:
    causes = [finding.cause for finding in diagnosis_of(openwebui_log=line).findings]
    assert "proxy_intercepts_local" not in causes


def test_openwebui_that_would_send_local_calls_to_a_proxy_is_told_from_readings() -> None:
    proxy = Reading(
        name="proxy", about="open-webui", value={"http_proxy": "http://proxy:3128"}, text="http_proxy is set"
    )
    dead = Reading(
        name="openwebui.backend",
        about="http://ollama:11434",
        value={"reachable": False, "error": "502"},
        text="http://ollama:11434 gives 502",
    )
    assert diagnosis_of([proxy, dead], live=True).findings[0].cause == "proxy_intercepts_local"
    spared = Reading(
        name="proxy", about="open-webui", text="…",
        value={"http_proxy": "http://proxy:3128", "no_proxy": "localhost,127.0.0.1,ollama"},
    )  # fmt: skip
    assert diagnosis_of([spared], live=True).findings == ()


def test_options_with_403_in_ollamas_own_log_is_a_refused_origin() -> None:
    line = '[GIN] 2025/05/23 - 10:00:46 | 403 |     396.741µs |   10.0.0.7 | OPTIONS  "/api/chat"'
    finding = first(ollama_log=line)
    assert (finding.cause, finding.confidence) == ("cors_origin_403", 0.9)
    assert "OLLAMA_ORIGINS" in str(finding.remedy)
    assert finding.ruled_out[0].cause == "proxy_intercepts_local"


def test_the_browsers_origin_goes_into_the_remedy() -> None:
    words = (
        "Access to fetch at 'http://192.168.1.5:11434/api/tags' from origin 'https://my.site' has been "
        "blocked by CORS "
        "policy: No 'Access-Control-Allow-Origin' header is present on the requested resource."
    )
    assert "OLLAMA_ORIGINS=https://my.site" in str(first(client_error=words).remedy)


def test_what_an_extension_says_of_the_refusal_is_understood() -> None:
    words = "Error: HTTP error 403: - Ollama requires additional access origins. See: the FAQ"
    assert first(client_error=words).cause == "cors_origin_403"


def test_comfyui_has_a_guard_of_the_same_kind() -> None:
    words = "WARNING: request with non matching host and origin 127.0.0.1 != localhost, returning 403"
    finding = first(comfyui_log=words)
    assert (finding.cause, finding.about) == ("cors_origin_403", "comfyui")


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CORS_ALLOW_ORIGIN IS SET TO '*' - NOT RECOMMENDED FOR PRODUCTION DEPLOYMENTS.",
        "Referrer Policy: strict-origin-when-cross-origin",
        "Access to fetch at 'https://cdn.example.com/x.js' from origin 'https://a.b' has been blocked by "
        "CORS policy",
        '[GIN] 2025/05/23 - 10:00:38 | 404 |      11.263µs |   10.0.0.7 | GET      "/favicon.ico"',
        '[GIN] 2025/05/23 - 10:00:38 | 204 |      11.263µs |   10.0.0.7 | OPTIONS  "/api/chat"',
    ],
)
def test_other_noise_of_browsers_is_left_alone(line: str) -> None:
    assert diagnosis_of(openwebui_log=line).findings == ()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "openwebui_log",
            "Ollama embed error (503): server busy, please try again.  maximum pending requests exceeded",
        ),
        (
            "ollama_log",
            '[GIN] 2025/11/22 - 11:21:53 | 503 |    2.211686ms |       127.0.0.1 | POST     "/api/embed"',
        ),
    ],
)
def test_a_503_of_ollama_is_a_full_queue(kind: str, line: str) -> None:
    finding = first(**{kind: line})
    assert finding.cause == "queue_full"
    assert "RAG_EMBEDDING_BATCH_SIZE" in str(finding.remedy)


@pytest.mark.parametrize(
    "line",
    [
        'INFO:httpx:HTTP Request: POST http://127.0.0.1:11434/api/chat "HTTP/1.1 502 Bad Gateway"',
        "httpx.HTTPStatusError: Server error '502 Bad Gateway' for url 'http://localhost:11434/api/chat'",
        "requests.exceptions.HTTPError: 504 Server Error: Gateway Timeout for url: http://ollama:11434/api/tags",
        "ollama._types.ResponseError:  (status code: 502)",
    ],
)
def test_a_status_of_gateways_from_ollamas_own_port_is_a_proxys(line: str) -> None:
    assert first(client_error=line).cause == "proxy_intercepts_local"
    own = '[GIN] 2026/11/22 - 11:21:53 | 502 |    2.211686ms |       127.0.0.1 | POST     "/api/chat"'
    causes = [finding.cause for finding in diagnosis_of(client_error=line, ollama_log=own).findings]
    assert "proxy_intercepts_local" not in causes  # Ollama wrote it, for a model of the cloud


@pytest.mark.parametrize(
    "line",
    [
        "Server error '502 Bad Gateway' for url 'https://chat.example.com/api/chat'",
        "Server error '500 Internal Server Error' for url 'http://localhost:11434/api/chat'",
        "ollama._types.ResponseError: upstream error (status code: 502)",
    ],
)
def test_gateways_elsewhere_and_other_statuses_are_not(line: str) -> None:
    causes = [finding.cause for finding in diagnosis_of(client_error=line).findings]
    assert "proxy_intercepts_local" not in causes
