"""Downloads: names, certificates, broken lines, wrong contents, and which of them is which."""

from __future__ import annotations

import pytest

from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of

GET = 'Error: pull model manifest: Get "https://registry.ollama.ai/v2/library/llama3/manifests/8b": '
STALLED = (
    'time=2024-12-23T21:40:20.330Z level=INFO source=download.go:370 msg="8934d96d3f08 part 14 stalled; '
    "retrying. "
    "If this persists, press ctrl-c to exit, then 'ollama pull' to find a faster connection.\""
)


def first(**texts: str) -> Finding:
    return diagnosis_of((), False, **texts).findings[0]


@pytest.mark.parametrize(
    ("line", "who"),
    [
        (
            GET + "dial tcp: lookup registry.ollama.ai on 127.0.0.11:53: server misbehaving",
            "Docker's own resolver",
        ),
        (
            GET + "dial tcp: lookup registry.ollama.ai on 127.0.0.53:53: server misbehaving",
            "systemd-resolved",
        ),
        (GET + "dial tcp: lookup registry.ollama.ai on 100.100.100.100:53: no such host", "Tailscale"),
        (GET + "dial tcp: lookup registry.ollama.ai: no such host", "the machine's resolver"),
        (
            GET
            + "dial tcp: lookup registry.ollama.ai on 8.8.8.8:53: read udp 10.0.0.2:4->8.8.8.8:53: timeout",
            "8.8.8.8",
        ),
        (
            'Error: max retries exceeded: Get "https://x.r2.cloudflarestorage.com/data": dial tcp: lookup '
            "x.r2.cloudflarestorage.com: no such host",
            "the machine's resolver",
        ),
    ],
)
def test_a_name_that_is_not_resolved_tells_who_was_asked(line: str, who: str) -> None:
    finding = first(commands=line)
    assert finding.cause == "pull_dns_failure"
    assert who in finding.why


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        ("x509: certificate signed by unknown authority", "update-ca-certificates"),
        ("x509: certificate has expired or is not yet valid: current time 2019-01-01", "timedatectl"),
        ("x509: certificate is valid for ollama.com, not registry.ollama.ai", "/etc/hosts"),
        ("first record does not look like a TLS handshake", "HTTPS_PROXY=http://"),
    ],
)  # fmt: skip
def test_a_certificate_that_is_refused_has_the_remedy_of_its_reason(words: str, fix: str) -> None:
    finding = first(commands=GET + "tls: " + words)
    assert finding.cause == "pull_tls_failure"
    assert fix in str(finding.remedy)


@pytest.mark.parametrize(
    "line",
    [
        GET + "dial tcp 104.21.75.227:443: i/o timeout",
        GET + "net/http: TLS handshake timeout",
        GET + "read tcp 192.168.1.2:5->104.21.75.227:443: read: connection reset by peer",
        "Error: max retries exceeded: unexpected EOF",
        "pulling manifest\nError: EOF",
    ],
)
def test_a_line_that_breaks_is_an_interrupted_download(line: str) -> None:
    finding = first(commands=line)
    assert (finding.cause, str(finding.severity)) == ("pull_interrupted", "error")


def test_retries_without_an_end_are_a_warning() -> None:
    assert str(first(ollama_log=STALLED).severity) == "warning"


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (
            "ollama_log",
            '[GIN] 2026/11/22 - 11:21:53 | 200 |    2m11s |       127.0.0.1 | POST     "/api/pull"',
        ),
        ("commands", "success"),
    ],
)
def test_retries_that_end_well_are_harmless(kind: str, end: str) -> None:
    assert diagnosis_of((), False, **{kind: f"{STALLED}\n{end}"}).healthy


def failed(minute: int, part: int, attempt: int) -> str:
    return (
        f'time=2026-11-22T10:{minute:02}:20.330Z level=INFO source=download.go:291 msg="8934d96d3f08 part '
        f"{part} attempt {attempt} failed: read tcp 10.0.0.4:49222->104.18.8.90:443: read: connection reset "
        f'by peer, retrying in {2**attempt}s"'
    )


def pulled(took: str) -> str:
    return f'[GIN] 2026/11/22 - 11:21:53 | 200 | {took} |       127.0.0.1 | POST     "/api/pull"'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([failed(1, part, 0) for part in range(8)] + [pulled("4m2s")], "many times"),
        ([failed(1, 3, 1), failed(2, 3, 4), pulled("4m2s")], "up to attempt 4 of the same part"),
        ([failed(1, 3, 0), failed(31, 5, 0), pulled("55m0s")], "over 30 minutes"),
        ([failed(1, 3, 0), failed(3, 5, 0), pulled("1h35m3s")], "in a pull of 95 minutes"),
    ],
)
def test_retries_that_cost_much_are_a_warning_although_the_pull_ended(lines: list[str], said: str) -> None:
    finding = first(ollama_log="\n".join(lines))
    assert (finding.cause, str(finding.severity)) == ("pull_interrupted", "warning")
    assert said in finding.why


def test_one_stall_in_a_long_pull_is_harmless() -> None:
    assert diagnosis_of((), False, ollama_log=f"{STALLED}\n{pulled('1h35m3s')}").healthy


def test_retries_are_read_where_the_lines_were_wrapped_or_lost_their_time() -> None:
    wrapped = """
time=2026-11-22T20:14:05.119Z level=INFO source=download.go:291
  msg="dde5aa3fc5ff part 12 attempt 3 failed: read tcp 10.0.0.4:49222->104.18.8.90:443:
  read: connection reset by peer, retrying in 8s"
"""
    bare = 'msg="8934d96d3f08 part 9 attempt 4 failed: unexpected EOF, retrying in 16s"'
    for log in (wrapped, bare):
        assert first(ollama_log=f"{log}\n{pulled('3m0s')}").cause == "pull_interrupted"


def test_a_status_200_in_the_log_does_not_make_a_pull_that_gave_up_a_good_one() -> None:
    log = """
        time=2024-12-23T21:40:20.330Z level=INFO msg="request failed: max retries exceeded: EOF"
        [GIN] 2026/11/22 - 11:21:53 | 200 |    2m11s |       127.0.0.1 | POST     "/api/pull"
    """
    assert first(ollama_log=log).cause == "pull_interrupted"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "29fdb92e57cf part 2 attempt 1 failed: write /x/models/blobs/y-partial: no space left on device, "
            "retrying",
            "disk_full",
        ),
        (
            '29fdb92e57cf part 2 attempt 1 failed: Get "https://x.cloudflarestorage.com": dial tcp: lookup '
            "x.r2.cloudflarestorage.com: no such host, retrying in 1s",
            "pull_dns_failure",
        ),
        ("Error: pull model manifest: file does not exist", "model_not_found"),
    ],
)
def test_parts_that_fail_for_another_reason_are_that(line: str, cause: str) -> None:
    assert [finding.cause for finding in diagnosis_of(commands=line).findings] == [cause]


def test_a_registry_that_was_reached_later_makes_a_failed_lookup_harmless() -> None:
    log = f"""
        {GET}dial tcp: lookup registry.ollama.ai: no such host
        time=2024-12-23T21:40:20.025Z level=INFO msg="downloading 60e05f210007 in 16 2 MB part(s)"
    """
    assert diagnosis_of(ollama_log=log).healthy


@pytest.mark.parametrize(
    "got", ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "sha256:53067e49"]
)
def test_a_wrong_digest_is_told_and_an_empty_file_recognised(got: str) -> None:
    line = f"Error: digest mismatch, file must be downloaded again: want sha256:c539, got {got}"
    finding = first(commands=line)
    assert finding.cause == "pull_digest_mismatch"
    assert ("empty file" in finding.why) == ("e3b0c442" in got)


@pytest.mark.parametrize(
    "line",
    [
        'msg="error checking for update" error="Get \\"https://ollama.com/api/update?os=linux\\": dial tcp: '
        'lookup ollama.com: no such host"',
        'Post "http://127.0.0.1:39023/completion": EOF',
        "HTTPConnectionPool(host='localhost', port=11434): Max retries exceeded with url: /api/tags",
        "lookup table: 8 entries",
    ],
)
def test_what_is_no_download_is_left_alone(line: str) -> None:
    causes = {finding.cause for finding in diagnosis_of(ollama_log=line).findings}
    assert not any(cause.startswith("pull_") for cause in causes)


def test_urllib3_gives_up_calls_to_any_service_and_that_is_no_pull() -> None:
    words = "HTTPConnectionPool(host='127.0.0.1', port=8188): Max retries exceeded"  # cut off here
    causes = [finding.cause for finding in diagnosis_of((), False, client_error=words).findings]
    assert "pull_interrupted" not in causes
