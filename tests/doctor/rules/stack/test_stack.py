"""What narthex itself knows of the stack: loads that hang, and profiles of a former world."""

from __future__ import annotations

import pytest

from narthex.doctor.diagnose import diagnose
from narthex.doctor.evidence import Reading
from narthex.doctor.finding import Diagnosis, Severity
from narthex.doctor.rules.stack import MODULES
from narthex.testing.evidence import evidence_of

RULES = [module.RULE for module in MODULES]


def told(*readings: Reading) -> Diagnosis:
    return diagnose(evidence_of(readings, live=True), RULES)


def loading(seconds: float, *, moves: bool) -> Reading:
    value = {"pid": 77, "seconds": seconds, "moves": moves, "url": "http://127.0.0.1:11434"}
    return Reading(name="ollama.loading", about="77", value=value, text="runner 77 is still loading")


def test_a_runner_that_does_nothing_for_minutes_hangs() -> None:
    finding = told(loading(400, moves=False)).findings[0]
    assert finding.cause == "model_load_hangs"
    assert finding.severity is Severity.ERROR
    assert finding.evidence[0].text == "runner 77 is still loading"
    assert "6 min 40 s" in finding.why


@pytest.mark.parametrize(("seconds", "moves"), [(20, False), (400, True)])
def test_a_load_that_may_still_come_to_its_end_is_let_be(seconds: float, moves: bool) -> None:
    assert told(loading(seconds, moves=moves)).findings == ()


def test_a_load_that_works_for_very_long_is_a_suspicion() -> None:
    finding = told(loading(900, moves=True)).findings[0]
    assert finding.confidence < 0.5


def changed(*changes: str) -> tuple[Reading, Reading]:
    profile = Reading(name="journal.profile", about="demo", value={"name": "demo-16k"}, text="demo: profile")
    return profile, Reading(
        name="journal.changed", about="demo", value=list(changes), text=f"changed: {'; '.join(changes)}"
    )


def test_a_newer_engine_is_told_as_harmless() -> None:
    diagnosis = told(*changed("Ollama is 0.12.3 now; it was 0.11.4"))
    finding = diagnosis.findings[0]
    assert diagnosis.healthy
    assert finding.remedy.commands[0].text == "narthex profile verify demo-16k"
    assert [quote.text for quote in finding.evidence] == [
        "changed: Ollama is 0.12.3 now; it was 0.11.4",
        "demo: profile",
    ]


@pytest.mark.parametrize(
    "change",
    [
        "the server's settings are «kv=q8_0» now; they were «all as Ollama has it»",
        "the card is NVIDIA T4 now; it was NVIDIA A100",
        "demo has other weights now than when its profile was made",
    ],
)
def test_other_settings_cards_and_weights_are_a_warning(change: str) -> None:
    finding = told(*changed(change)).findings[0]
    assert finding.severity is Severity.WARNING
    assert change in finding.why


def test_where_nothing_changed_nothing_is_said() -> None:
    assert told(*changed()).findings == ()


def test_what_could_not_be_compared_is_skipped() -> None:
    diagnosis = told(Reading(name="journal.changed", about="demo", gap="can't tell, because …"))
    assert diagnosis.findings == ()
    assert "settings_changed_since_profile" in [gap.what for gap in diagnosis.skipped]
