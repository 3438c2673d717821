"""A diagnosis on a terminal: the answer first, at 80 columns, calm, and safe whatever a log holds."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest

from narthex.doctor.finding import (
    Command,
    Diagnosis,
    Fact,
    Finding,
    Quote,
    Remedy,
    RuledOut,
    Severity,
    Skipped,
)
from narthex.doctor.rules import RULES
from narthex.views.cause_page import ROWS, index_markdown, page_data, page_markdown, page_text
from narthex.views.diagnosis import as_json, diagnosis_json, diagnosis_text, sureness, verdict
from narthex.views.ink import Ink

PLAIN = Ink()
REMEDY = Remedy(
    text="Load the module anew.",
    commands=(
        Command(text="sudo modprobe nvidia_uvm", safe=True, root=True, note="it was only missing"),
        Command(text="docker restart ollama", safe=False),
        Command(text="nvidia-smi -L", safe=True),
    ),
    verify="The line «inference compute» names a GPU.",
    verify_commands=(Command(text="ollama ps", safe=True),),
)


def finding(cause: str = "uvm_module_broken", **changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "cause": cause,
        "title": "The GPU can't be used: nvidia_uvm is stale",
        "severity": Severity.CRITICAL,
        "confidence": 0.95,
        "evidence": (
            Quote(source="ollama_log", line=12, text="init failure: 999", time="2026-11-22T10:00:00+00:00"),
        ),
        "why": "CUDA said 999 four times while nvidia-smi works.",
        "remedy": REMEDY,
        "ruled_out": (RuledOut(cause="gpu_hidden_by_env", why="no variable hides it"),),
    }
    return Finding(**{**fields, **changes})


def diagnosis(*findings: Finding, facts: int = 0, skipped: tuple[Skipped, ...] = ()) -> Diagnosis:
    told = tuple(Fact(text=f"Thing {number} is well.") for number in range(facts))
    return Diagnosis(findings=findings, facts=told, skipped=skipped)


def shown(what: Diagnosis, ink: Ink = PLAIN) -> str:
    return diagnosis_text(what, ink)


def test_the_first_line_is_the_answer() -> None:
    text = shown(diagnosis(finding(), finding("disk_full", title="The disk is full")))
    assert text.splitlines()[:2] == [
        "The GPU can't be used: nvidia_uvm is stale. And 1 more.",
        "   2. The disk is full",
    ]


def test_a_finding_tells_all_that_one_needs_in_order() -> None:
    text = shown(diagnosis(finding()))
    parts = (
        "1. The GPU can't be used",
        "critical · certain, 95 % · uvm_module_broken",
        "CUDA said 999 four times",
        "ollama_log:12  2026-11-22T10:00:00+00:00",
        "│ init failure: 999",
        "What to do: Load the module anew.",
        "1. [safe, needs root] sudo modprobe nvidia_uvm",
        "(it was only missing)",
        "2. [interrupts] docker restart ollama",
        "3. [safe] nvidia-smi -L",
        "It helped when: The line «inference compute» names a GPU.",
        "$ ollama ps",
        "Not «A variable hides the GPU»: no variable hides it",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_what_follows_from_a_cause_stands_indented_under_it() -> None:
    below = finding("gpu_not_visible", title="No GPU is visible", consequence_of="uvm_module_broken")
    text = shown(diagnosis(finding(), below, finding("disk_full", title="The disk is full")))
    assert "   → Because of it: No GPU is visible\n     critical" in text
    assert text.index("Because of it") < text.index("\n2. The disk is full")


def test_a_suspicion_sounds_like_one() -> None:
    text = shown(diagnosis(finding(confidence=0.4)))
    assert text.startswith("Maybe: The GPU can't be used")
    assert "may be, 40 %" in text


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.95, "certain, 95 %"),
        (0.8, "very likely, 80 %"),
        (0.5, "likely, 50 %"),
        (0.3, "may be, 30 %"),
        (0.1, "a guess, 10 %"),
    ],
)
def test_confidence_is_told_in_words_and_percent(confidence: float, words: str) -> None:
    assert sureness(finding(confidence=confidence)) == words


def test_a_healthy_machine_gets_its_facts() -> None:
    text = shown(diagnosis(facts=20))
    assert text.splitlines()[0] == "Nothing is wrong, as far as can be seen."
    assert text.count("✓") == 20


def test_where_something_is_wrong_facts_are_brief() -> None:
    text = shown(diagnosis(finding(), facts=20))
    assert text.count("✓") == 12
    assert "and 8 things more" in text


def test_harmless_findings_are_no_trouble() -> None:
    assert verdict(diagnosis(finding(severity=Severity.INFO))) == (
        "Nothing is wrong, as far as can be seen. 1 thing to know, all harmless."
    )


def test_harmless_findings_are_told_in_brief_after_the_others() -> None:
    harmless = finding("low_vram_mode", title="Low VRAM mode", severity=Severity.INFO)
    text = shown(diagnosis(harmless, finding()))
    assert text.index("1. The GPU can't be used") < text.index("Harmless, and good to know:")
    assert text.count("What to do:") == 1
    assert "narthex doctor explain low_vram_mode" in text


def test_what_root_could_tell_stands_apart() -> None:
    gaps = (
        Skipped(what="kernel log", why="dmesg may not be read; as root narthex would see it"),
        Skipped(what="NVML", why="no library is found"),
    )
    parts = shown(diagnosis(skipped=gaps)).split("\n\n")
    assert parts[-2:] == [
        "What could not be told:\n   – NVML: no library is found",
        "What root could tell:\n   – kernel log: dmesg may not be read; as root narthex would see it",
    ]


def test_whoever_saw_nothing_does_not_say_that_all_is_well() -> None:
    gap = Skipped(what="NVML", why="can't tell, because it took longer than 2 s")
    assert verdict(diagnosis(skipped=(gap,))) == "Nothing wrong was found, but little could be seen."
    assert verdict(diagnosis()) == "Nothing wrong was found, but little could be seen."


def test_whoever_gave_nothing_that_tells_hears_what_would() -> None:
    assert "dmesg" in shown(diagnosis())
    assert "dmesg" not in shown(diagnosis(facts=1))


def test_a_check_in_words_is_no_command() -> None:
    checks = (Command(text="From another machine: it is refused", safe=True), Command(text="ss", safe=True))
    text = shown(diagnosis(finding(remedy=Remedy(text="Do this.", verify_commands=checks))))
    assert "\n   From another machine: it is refused\n   $ ss" in text


def test_whoever_asked_for_some_causes_hears_of_those() -> None:
    assert diagnosis_text(diagnosis(), PLAIN, ("disk_full", "port_in_use")) == (
        "Not found: disk_full, port_in_use."
    )


def test_what_could_not_be_told_is_grouped_by_its_reason() -> None:
    why = "can't tell, because there is no Docker engine"
    gaps = tuple(Skipped(what=f"docker.{number}", why=why) for number in range(6))
    broke = Skipped(what="queue_full", why="the rule broke: KeyError: 'x'", broke=True)
    lines = shown(diagnosis(skipped=(*gaps, broke))).splitlines()
    assert lines[-3].startswith("   – docker.0, docker.1, docker.2, docker.3 and 2 more: there is no Docker")
    assert lines[-1].strip().startswith("– queue_full: the rule broke") or "queue_full" in lines[-2]
    assert "(a fault of narthex)" in " ".join(lines)


def test_nothing_but_commands_is_wider_than_the_terminal() -> None:
    words = "word " * 60
    long = finding(
        title=words,
        why=words,
        evidence=(Quote(source="ollama_log", line=1, text=words * 30),),
        ruled_out=(RuledOut(cause="other", why=words),),
        remedy=Remedy(text=words, commands=(Command(text="x" * 120, safe=True, note=words),), verify=words),
    )
    lines = shown(diagnosis(long, facts=1)).splitlines()
    assert [line for line in lines if len(line) > 80] == ["      " + "x" * 120, "   First: " + "x" * 120]
    assert sum(line.startswith("   │") for line in lines) == 4


def test_of_a_very_long_line_the_beginning_and_the_end_are_shown() -> None:
    line = f'time=10:00 level=INFO {"path/" * 100} error="exceeds file size"'
    text = shown(diagnosis(finding(evidence=(Quote(source="a.log", line=1, text=line),))))
    assert "│ time=10:00 level=INFO" in text
    assert " …\n" in text
    assert 'error="exceeds file size"' in text


def test_an_old_line_tells_its_age() -> None:
    quote = Quote(source="dmesg", line=1, text="Xid 79", time="2020-01-01T00:00:00+00:00")
    assert " days ago)" in shown(diagnosis(finding(evidence=(quote,))))
    assert "ago)" not in shown(diagnosis(finding(evidence=(msgspec.structs.replace(quote, time="05:00"),))))


def test_what_was_read_from_the_machine_is_said_to_be_a_reading() -> None:
    quote = Quote(source="host", line=19, text="0.0.0.0:11434 is held by Ollama")
    assert "   a reading of the machine (host:19)\n   │ 0.0.0.0" in shown(
        diagnosis(finding(evidence=(quote,)))
    )


def test_a_long_answer_is_told_again_at_its_end() -> None:
    text = shown(diagnosis(finding(), finding("disk_full", title="The disk is full"), facts=9))
    assert text.splitlines()[-2:] == [
        "In short: The GPU can't be used: nvidia_uvm is stale. And 1 more.",
        "   First: sudo modprobe nvidia_uvm",
    ]
    assert "In short" not in shown(diagnosis(finding()))


def test_many_steps_are_counted() -> None:
    steps = tuple(Command(text=f"step-{number}", safe=True) for number in range(1, 10))
    text = shown(diagnosis(finding(remedy=Remedy(text="Do this.", commands=steps))))
    assert "step-6" in text
    assert "and 3 steps more (--json has them all)" in text


def test_a_step_in_words_is_wrapped_and_a_command_is_not() -> None:
    steps = (
        Command(text="Set " + "a word " * 20, safe=False),
        Command(text="OLLAMA_HOST=127.0.0.1 ollama serve --x " + "y" * 60, safe=True),
    )
    text = shown(diagnosis(finding(remedy=Remedy(text="Do this.", commands=steps))))
    assert "   1. [interrupts] Set a word a word" in text
    assert "   2. [safe]\n      OLLAMA_HOST=127.0.0.1 ollama serve --x yyy" in text
    assert [len(line) > 80 for line in text.splitlines()].count(True) == 1


def test_a_quoted_line_can_not_play_with_the_terminal() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31mred\ttab"
    text = shown(diagnosis(finding(evidence=(Quote(source="a\x1b[1m", line=1, text=evil),), why=evil)))
    assert all(sign.isprintable() for sign in text.replace("\n", ""))
    assert "red tab" in text


def test_more_than_three_lines_of_evidence_are_counted() -> None:
    words = ("Xid", "oom", "suspend", "resume", "reset", "usb")
    quotes = tuple(Quote(source="dmesg", line=number, text=text) for number, text in enumerate(words, 1))
    assert "and 3 lines more" in shown(diagnosis(finding(evidence=quotes)))


def test_of_lines_that_repeat_each_other_two_are_shown() -> None:
    quotes = tuple(Quote(source="dmesg", line=number, text=f"Xid {number}") for number in range(1, 7))
    assert "and 4 lines more" in shown(diagnosis(finding(evidence=quotes)))


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown(diagnosis(finding()), Ink.of(Screen()))
    assert "\x1b[" not in shown(diagnosis(finding()), Ink.of(io.StringIO()))
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(diagnosis(finding()), Ink.of(Screen()))
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in shown(diagnosis(finding()), Ink.of(Screen()))


def test_json_has_the_fields_of_the_issue() -> None:
    told = json.loads(diagnosis_json(diagnosis(finding(), facts=1)))
    assert set(told) >= {"findings", "facts", "healthy", "skipped", "version"}
    (row,) = told["findings"]
    assert set(row) >= {"cause", "confidence", "severity", "evidence", "remedy", "why", "ruled_out", "about"}
    assert set(row["evidence"][0]) >= {"source", "line", "text", "time"}
    assert set(row["remedy"]) >= {"text", "commands", "verify", "verify_commands"}
    assert (told["healthy"], row["severity"]) == (False, "critical")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)
def test_every_page_tells_the_same_six_things(rule: Any) -> None:
    text = page_text(rule, PLAIN)
    for row in ROWS[: 5 + bool(rule.look_alikes)]:
        assert f"\n{row}\n" in text
    known = {each.slug for each in RULES}
    page = page_markdown(rule, known)
    rows = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(rows) == len(ROWS)
    assert page_data(rule)["cause"] == rule.slug


def test_the_index_holds_every_cause_in_its_area() -> None:
    text = index_markdown(RULES)
    assert all(f"({rule.slug}.md)" in text for rule in RULES)
    assert text.index("The GPU and its driver") < text.index("OpenWebUI and ComfyUI")


def test_json_holds_nothing_that_a_terminal_obeys_and_is_the_same_data() -> None:
    text = "\x1b[31m \x9b31m \x7f \u202e turned \u2066 «ü»"
    document = as_json({"text": text})
    assert document.replace("\n", "").isprintable()
    assert json.loads(document) == {"text": text}
