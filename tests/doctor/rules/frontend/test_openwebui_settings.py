"""Settings of OpenWebUI that make it slow or cut answers: tasks without options, tools, a time limit."""

from __future__ import annotations

import pytest

from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Finding
from narthex.testing.evidence import diagnosis_of


def env(**settings: str) -> Reading:
    words = " ".join(f"{name}={value}" for name, value in settings.items())
    return Reading(name="openwebui.env", value=settings, text=f"settings: {words}")


def resident(context: int) -> Reading:
    return Reading(
        name="ollama.resident", about="qwen3:8b", value={"num_ctx": context}, text=f"qwen3:8b, {context}"
    )


def version(number: str) -> Reading:
    return Reading(name="openwebui.version", value=number, text=f"OpenWebUI is {number}")


def found(*rows: Reading, **texts: str) -> tuple[Finding, ...]:
    return diagnosis_of(rows, True, **texts).findings


def test_a_context_that_the_tasks_do_not_send_is_told_with_both_lines_of_the_remedy() -> None:
    (finding,) = found(env(DEFAULT_MODEL_PARAMS='{"num_ctx":16384,"temperature":0.7}'))
    assert (finding.cause, finding.about) == ("owui_task_options_differ", "num_ctx")
    remedy = " ".join(command.text for command in finding.remedy.commands)
    assert 'DEFAULT_MODEL_PARAMS=\'{"num_ctx":16384' in remedy
    assert 'TASK_MODEL_PARAMS=\'{"num_ctx":16384' in remedy


@pytest.mark.parametrize(
    "settings",
    [
        {"DEFAULT_MODEL_PARAMS": '{"num_ctx":16384}', "TASK_MODEL_PARAMS": '{"num_ctx":16384,"think":false}'},
        {"DEFAULT_MODEL_PARAMS": '{"temperature":0.7}'},
        {"DEFAULT_MODEL_PARAMS": "no JSON"},
        {
            "DEFAULT_MODEL_PARAMS": '{"num_ctx":16384}',
            "ENABLE_TITLE_GENERATION": "False",
            "ENABLE_TAGS_GENERATION": "False",
            "ENABLE_FOLLOW_UP_GENERATION": "False",
        },
        {},
    ],
)
def test_the_same_options_or_no_tasks_are_nothing(settings: dict[str, str]) -> None:
    assert found(env(**settings)) == ()


def test_small_contexts_beside_native_tools_are_told() -> None:
    cut = 'level=WARN msg="truncating input prompt" limit=4096 prompt=7353 keep=5 new=4096'
    findings = found(env(), version("0.12.4"), resident(4096), ollama_log=cut)
    assert "owui_tools_fill_context" in [finding.cause for finding in findings]
    assert "legacy" in str(findings)


@pytest.mark.parametrize(
    "rows",
    [
        (env(DEFAULT_MODEL_PARAMS='{"function_calling":"legacy"}'), version("0.12.4"), resident(4096)),
        (env(), version("0.6.5"), resident(4096)),
        (env(), version("0.12.4"), resident(32768)),
        (env(), version("dev"), resident(4096)),
    ],
)
def test_legacy_mode_older_versions_and_large_contexts_are_nothing(rows: tuple[Reading, ...]) -> None:
    assert found(*rows) == ()


def test_a_low_time_limit_is_a_warning_and_with_its_symptom_an_error() -> None:
    (alone,) = found(env(AIOHTTP_CLIENT_TIMEOUT="60"))
    assert (alone.cause, str(alone.severity)) == ("owui_timeout", "warning")
    (seen, *_) = found(env(AIOHTTP_CLIENT_TIMEOUT="60"), openwebui_log="Open WebUI: Server Connection Error")
    assert (seen.cause, str(seen.severity)) == ("owui_timeout", "error")


@pytest.mark.parametrize("value", ["", "1800", "0"])
def test_no_limit_or_a_generous_one_is_nothing(value: str) -> None:
    assert found(env(AIOHTTP_CLIENT_TIMEOUT=value)) == ()


def test_from_a_log_an_empty_reason_is_a_suspicion() -> None:
    log = "2025-10-05 09:59:52.845 | ERROR | open_webui.main:process_chat:1 - Error processing chat payload: "
    (finding,) = diagnosis_of(openwebui_log=log).findings
    assert (finding.cause, finding.confidence < 0.5) == ("owui_timeout", True)
