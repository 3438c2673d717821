"""What stands in front of a line: journals of many languages, Docker, Compose, Kubernetes, the kernel."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from narthex.doctor.reading.carrier import clean, plain, strip
from narthex.doctor.reading.clock import Clock
from narthex.doctor.reading.lines import kind_of, read_line

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words", "stream", "time"),
    [
        ("2月 22 23:00:37 pc ollama[372779]: hello", "hello", "ollama[372779]", "2026-02-22T23:00:37"),
        ("févr. 06 20:35:15 pc ollama[12]: hello", "hello", "ollama[12]", "2026-02-06T20:35:15"),
        ("лют 03 20:35:15 pc ollama[12]: hello", "hello", "ollama[12]", "2026-02-03T20:35:15"),
        ("Okt 06 17:59:27 pc kernel: NVRM: Xid", "NVRM: Xid", "kernel", "2026-10-06T17:59:27"),
        ("Dez 24 20:00:00 pc ollama[12]: hello", "hello", "ollama[12]", "2025-12-24T20:00:00"),
        ("Feb 06 20:35:15.250000 pc ollama[2704]: hi", "hi", "ollama[2704]", "2026-02-06T20:35:15.250000"),
        ("Aug 30 09:03:23 ollama[3013710]: hello", "hello", "ollama[3013710]", "2026-08-30T09:03:23"),
        ("2025-02-06T20:35:15+0530 pc ollama[2704]: hi", "hi", "ollama[2704]", "2025-02-06T15:05:15"),
        ("Thu 2025-02-06 20:35:15 UTC pc ollama[2704]: hi", "hi", "ollama[2704]", "2025-02-06T20:35:15"),
        ("1738853115.250000 pc ollama[1]: hi", "hi", "ollama[1]", "2025-02-06T14:45:15.250000"),
        ("2025-09-01T16:44:15.151234567Z hi", "hi", "", "2025-09-01T16:44:15.151234"),
        ("ollama-1  | 2025-09-01T16:44:15.250Z hi", "hi", "ollama-1", "2025-09-01T16:44:15.250000"),
        ("\x1b[36mollama-1  |\x1b[0m hi", "hi", "ollama-1", None),
        ("[36mollama-1  |[0m hi", "hi", "ollama-1", None),
        ("[pod/ollama-7447d8475b-6lqcp/ollama] hi", "hi", "pod/ollama-7447d8475b-6lqcp/ollama", None),
        ("2024-02-06T20:35:15.25Z stderr F hi", "hi", "", "2024-02-06T20:35:15.250000"),
        ("<134>1 2025-02-06T20:35:15.25Z host app 123 - - hi", "hi", "app", "2025-02-06T20:35:15.250000"),
        ("… ollama[1034]: Error: mkdir", "Error: mkdir", "ollama[1034]", None),
        ("… systemd[1]: ollama.service: Failed", "ollama.service: Failed", "systemd[1]", None),
        ("08:48:24 systemd[1]: Reloading...", "Reloading...", "systemd[1]", None),
        ("ollama.service: Failed with result", "ollama.service: Failed with result", "", None),
        ("kernel: Memory cgroup out of memory", "Memory cgroup out of memory", "kernel", None),
        ("[ 5022.696822] NVRM: Xid", "NVRM: Xid", "", None),
        ("kern  :info  : [   12.345678] NVRM: Xid", "NVRM: Xid", "", None),
        ("Nov 15 12:43:10 pc kernel: [ 7613.977829] NVRM: Xid", "NVRM: Xid", "kernel", "2026-11-15T12:43:10"),
        ("[Mon Nov  4 10:00:00 2024] NVRM: Xid", "NVRM: Xid", "", "2024-11-04T10:00:00"),
        ("2024-11-04T10:00:00,250000+01:00 NVRM: Xid", "NVRM: Xid", "", "2024-11-04T09:00:00.250000"),
        ("[2024-05-22 17:24] Device: cuda:0", "Device: cuda:0", "", "2024-05-22T17:24:00"),
        ("0.06.025.351 I load_tensors: x", "load_tensors: x", "", None),
        ("[40123] srv  load_model: x", "srv load_model: x", "40123", None),
        ("2025-10-05 09:59:52 | ERROR | x", "2025-10-05 09:59:52 | ERROR | x", "", "2025-10-05T09:59:52"),
        ("2024/01/01 12:00:00 a.go:3: x", "2024/01/01 12:00:00 a.go:3: x", "", "2024-01-01T12:00:00"),
        ('INFO:     127.0.0.1:1 - "GET /" 200', 'INFO: 127.0.0.1:1 - "GET /" 200', "", None),
        ("|   0  NVIDIA A40   On  |", "| 0 NVIDIA A40 On |", "", None),
        ("Error: listen tcp 0.0.0.0:11434", "Error: listen tcp 0.0.0.0:11434", "", None),
    ],
)  # fmt: skip
def test_carriers_are_taken_away_and_their_time_is_read(
    text: str, words: str, stream: str, time: str | None
) -> None:
    line = strip(text)
    assert clean(line.body) == words
    assert line.stream == stream
    at = Clock(lambda: NOW).at(line.body, line.stamp)
    told = None if at is None else datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()
    assert told == time


def test_the_time_that_ollama_itself_tells_is_better_than_the_journal_s() -> None:
    line = strip("Feb 22 23:00:37 pc ollama[3]: time=2024-02-23T23:00:37.250+08:00 level=INFO msg=x")
    assert (
        Clock(lambda: NOW).at(line.body, line.stamp)
        == datetime(2024, 2, 23, 15, 0, 37, 250000, UTC).timestamp()
    )


def test_a_line_without_year_and_zone_takes_them_from_the_rest_of_its_log() -> None:
    clock = Clock(lambda: NOW)
    clock.learn("x\nDec 31 23:59:59 pc ollama[3]: time=2023-12-31T23:59:59+05:00 level=INFO msg=x\n")
    journal = strip("Jan 01 00:00:02 pc ollama[3]: llama_context: x")
    assert clock.at(journal.body, journal.stamp) == datetime(2023, 12, 31, 19, 0, 2, tzinfo=UTC).timestamp()
    access = clock.at("[GIN] 2024/01/01 - 00:00:03 | 200 |", "")
    assert access == datetime(2023, 12, 31, 19, 0, 3, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "text",
    ["[GIN] 2024/13/45 - 99:99:99 |", "time=9999-99-99T00:00:00Z level=INFO", "Foo 31 25:61:00 a b[1]: x"],
)
def test_figures_that_are_no_time_are_none(text: str) -> None:
    line = strip(text)
    assert Clock(lambda: NOW).at(line.body, line.stamp) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            r'error="Post \"http://127.0.0.1:1/completion\": EOF"',
            'error="Post "http://127.0.0.1:1/completion": EOF"',
        ),
        (r'error="first\nsecond"', 'error="first second"'),
        (r"at C:\a\new\llama.cpp:3", r"at C:\a\new\llama.cpp:3"),
        (
            r'{"error":"{\"error\":{\"message\":\"say \\\"hi\\\"\"}}"}',
            '{"error":"{"error":{"message":"say "hi""}}"}',
        ),
        ("a\x00b\tc  d\x1b[31m red\x1b[0m", "ab c d red"),
        ("  indented   words  ", "indented words"),
    ],
)
def test_escapes_and_blanks_are_made_plain(text: str, words: str) -> None:
    assert plain(text)[0] == words


@pytest.mark.parametrize(
    ("text", "words", "stream"),
    [
        ('{"log":"time=2025-01-01T00:00:00Z level=INFO msg=\\"x y\\"\\n","stream":"stderr","time":"x"}',
         'time=2025-01-01T00:00:00Z level=INFO msg="x y"', ""),
        ('{"MESSAGE":"out of memory","_SYSTEMD_UNIT":"ollama.service","_PID":"77"}',
         "out of memory", "ollama[77]"),
        ('{"MESSAGE":[111,117,116,255],"SYSLOG_IDENTIFIER":"ollama","_PID":"77"}', "out�", "ollama[77]"),
        ('{"MESSAGE":"NVRM: Xid","_TRANSPORT":"kernel","SYSLOG_IDENTIFIER":"kernel"}', "NVRM: Xid", "kernel"),
        ('{"level":"INFO","msg":"Load failed","model":"a b","n":3}',
         'level=INFO msg="Load failed" model="a b" n=3', ""),
        ('{"level":40,"message":"GPU expected"}', 'level=40 msg="GPU expected"', ""),
        ('ollama-1  | {"level":"WARN","msg":"x"}', 'level=WARN msg="x"', "ollama-1"),
        ('{"log":"hi","kubernetes":{"pod_name":"p","container_name":"ollama"}}', "hi", "p/ollama"),
        ('{"error":"model not found"}', '{"error":"model not found"}', ""),
        ('{"broken":', '{"broken":', ""),
        ('{"a": 1} and more }', '{"a": 1} and more }', ""),
    ],
)  # fmt: skip
def test_json_lines_are_unpacked(text: str, words: str, stream: str) -> None:
    line = read_line(text)
    assert (clean(line.body), line.stream) == (words, stream)


def test_the_time_of_a_json_line_is_read() -> None:
    for text in (
        '{"MESSAGE":"x","__REALTIME_TIMESTAMP":"1735689601000000"}',
        '{"log":"x\\n","stream":"stderr","time":"2025-01-01T00:00:01.000000000Z"}',
        '{"level":"INFO","message":"x","timestamp":1735689601}',
        '{"level":30,"message":"x","time":1735689601000}',
    ):
        line = read_line(text)
        assert Clock().at(line.body, line.stamp) == 1735689601.0


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        ("ollama-1", "ollama_log"),
        ("stack-open-webui-1", "openwebui_log"),
        ("comfyui", "comfyui_log"),
        ("kernel", "dmesg"),
        ("ollama[1034]", "ollama_log"),
        ("redis-1", "docker_log"),
        ("", "docker_log"),
    ],
)
def test_a_service_of_a_mixed_log_has_a_kind_of_its_own(stream: str, kind: str) -> None:
    assert kind_of(stream, "docker_log") == kind
    assert kind_of(stream, "commands") == "commands"
