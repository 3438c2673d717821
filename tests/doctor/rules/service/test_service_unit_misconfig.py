"""systemd's own failures, words that a program refuses, and loops whose reason is another."""

from __future__ import annotations

import pytest

from narthex.testing.evidence import diagnosis_of


@pytest.mark.parametrize(
    ("log", "step"),
    [
        (
            "ollama.service: Failed at step EXEC spawning /usr/local/bin/ollama: No such file or directory\n"
            "ollama.service: Main process exited, code=exited, status=203/EXEC",
            "EXEC",
        ),
        (
            "Sep 22 15:49:36 box (ollama)[254]: ollama.service: Changing to the requested working directory "
            "failed: "
            "No such file or directory\n"
            "Sep 22 15:49:36 box systemd[1]: ollama.service: Main process exited, code=exited, "
            "status=200/CHDIR",
            "CHDIR",
        ),
        (
            "Sep 22 15:49:36 box (ollama)[254]: ollama.service: Failed at step USER spawning "
            "/usr/bin/ollama: No such "
            "process",
            "USER",
        ),
        ("ollama.service: Main process exited, code=exited, status=226/NAMESPACE", "NAMESPACE"),
        (
            "ollama.service: Failed to set up special execution directory in /var/lib: File exists\n"
            "ollama.service: Main process exited, code=exited, status=238/STATE_DIRECTORY",
            "STATE_DIRECTORY",
        ),
        ("   Main PID: 8641 (code=exited, status=203/EXEC)", "EXEC"),
    ],
)
def test_the_step_that_systemd_failed_at_is_named(log: str, step: str) -> None:
    first = diagnosis_of(ollama_log=log).findings[0]
    assert first.cause == "service_unit_misconfig"
    assert step in first.title
    assert first.confidence > 0.9
    assert all(quote.text in log for quote in first.evidence)


@pytest.mark.parametrize(
    "said",
    [
        "Error: unknown flag: --host",
        'Error: unknown command "server" for "ollama"',
        "Error: $HOME is not defined",
        "panic: $HOME is not defined",
        "github.com/ollama/ollama/envconfig.Models()",
    ],
)
def test_words_that_the_program_refuses_are_the_units_fault_where_a_service_gave_them(said: str) -> None:
    log = f"""
        Nov 05 10:00:00 box ollama[433]: {said}
        Nov 05 10:00:00 box systemd[1]: ollama.service: Main process exited, code=exited, status=1/FAILURE
        Nov 05 10:00:03 box systemd[1]: ollama.service: Scheduled restart job, restart counter is at 5.
    """
    assert diagnosis_of(ollama_log=log).findings[0].cause == "service_unit_misconfig"


def test_a_word_that_a_person_mistyped_is_no_unit() -> None:
    typed = '$ ollama lst\nError: unknown command "lst" for "ollama"'
    assert diagnosis_of(commands=typed).findings == ()


def test_another_service_that_fails_is_not_ours() -> None:
    assert (
        diagnosis_of(dmesg="bluetooth.service: Main process exited, code=exited, status=203/EXEC").findings
        == ()
    )


def test_a_loop_without_its_reason_is_a_suspicion_and_no_more() -> None:
    log = """
        ollama.service: Main process exited, code=exited, status=1/FAILURE
        ollama.service: Scheduled restart job, restart counter is at 412.
    """
    first = diagnosis_of(ollama_log=log).findings[0]
    assert first.cause == "service_unit_misconfig"
    assert first.confidence < 0.5
    assert "412" in first.why


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("Error: mkdir /srv/models/blobs: permission denied", "models_dir_permission"),
        ("Error: listen tcp 127.0.0.1:11434: bind: address already in use", "port_in_use"),
    ],
)
def test_a_loop_with_a_deeper_reason_is_that(reason: str, cause: str) -> None:
    log = f"""
        ollama[433]: {reason}
        ollama.service: Main process exited, code=exited, status=1/FAILURE
        ollama.service: Start request repeated too quickly.
        ollama.service: Scheduled restart job, restart counter is at 5.
    """
    assert [finding.cause for finding in diagnosis_of(ollama_log=log).findings] == [cause]


def test_a_line_of_the_unit_that_systemd_ignores_is_a_warning() -> None:
    line = (
        "/etc/systemd/system/ollama.service.d/a.conf:2: Unknown key name 'OLLAMA_HOST' in section, ignoring."
    )
    first = diagnosis_of(commands=line).findings[0]
    assert (first.cause, str(first.severity)) == ("service_unit_misconfig", "warning")


def test_the_loop_of_an_old_systemd_is_a_suspicion() -> None:
    log = (
        "Aug 08 09:02:33 box systemd[1]: ollama.service: main process exited, code=exited, status=127/n/a\n"
        "Aug 08 09:02:36 box systemd[1]: ollama.service holdoff time over, scheduling restart."
    )
    findings = diagnosis_of((), False, ollama_log=log).findings
    assert [(finding.cause, finding.confidence) for finding in findings] == [("service_unit_misconfig", 0.4)]
