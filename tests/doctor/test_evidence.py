"""Evidence: order, caps, what is around a line, and quotes that are really there."""

from __future__ import annotations

from narthex.doctor.evidence import Evidence, Reading
from narthex.doctor.reading.scanner import read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.sign import Sign

OOM = Sign(r"out of memory")
LOAD = Sign(r"loading model (?P<name>\S+)", words=["loading"], first=3, last=5)


def read(*signs: Sign, readings: tuple[Reading, ...] = (), **texts: str) -> Evidence:
    rows = [Text(kind=kind, name=kind, data=text.encode()) for kind, text in texts.items()]
    return read_evidence(rows, signs, readings=readings)


def test_hits_come_in_the_order_of_sources_and_lines_each_line_once() -> None:
    log = "loading model a\nx\nout of memory\nloading model b: out of memory"
    evidence = read(LOAD, OOM, ollama_log=log, dmesg="Out Of Memory")
    hits = evidence.hits(LOAD, OOM)
    assert [(hit.entry.source, hit.entry.line) for hit in hits] == [
        ("ollama_log", 1), ("ollama_log", 3), ("ollama_log", 4), ("dmesg", 1)
    ]  # fmt: skip
    first, last = evidence.first(OOM), evidence.last(OOM)
    assert first is not None
    assert last is not None
    assert (first.entry.line, last.entry.source) == (3, "dmesg")
    assert evidence.first(Sign(r"nothing of that")) is None


def test_of_very_many_hits_the_first_and_the_last_are_kept_and_all_are_counted() -> None:
    lines = "\n".join(f"loading model m{number}" for number in range(100))
    evidence = read(LOAD, ollama_log=lines)
    assert [hit["name"] for hit in evidence.hits(LOAD)] == [
        *("m0", "m1", "m2"), *("m95", "m96", "m97", "m98", "m99")
    ]  # fmt: skip
    assert evidence.count(LOAD) == 100


def test_the_caps_hold_for_each_source() -> None:
    lines = "\n".join(f"loading model m{number}" for number in range(100))
    evidence = read(LOAD, ollama_log=lines, llama_server_log="loading model z")
    assert len(evidence.hits(LOAD)) == 9
    assert [hit["name"] for hit in evidence.hits(LOAD, kinds=["llama_server_log"])] == ["z"]


def test_only_some_kinds_are_asked_for() -> None:
    evidence = read(OOM, ollama_log="out of memory", dmesg="out of memory")
    assert [hit.entry.kind for hit in evidence.hits(OOM, kinds=["dmesg"])] == ["dmesg"]
    assert evidence.has(OOM, kinds=["ollama_log"])
    assert not evidence.has(OOM, kinds=["comfyui_log"])
    assert evidence.has_kind("dmesg", "commands")
    assert not evidence.has_kind("commands")


def test_a_sign_of_some_kinds_is_not_looked_for_in_others() -> None:
    only = Sign(r"out of memory", kinds=["dmesg"])
    evidence = read(only, ollama_log="out of memory", dmesg="a\nout of memory")
    assert [hit.entry.source for hit in evidence.hits(only)] == ["dmesg"]


def test_what_is_around_a_line() -> None:
    evidence = read(OOM, ollama_log="\n".join([*"abcde", "out of memory", *"fghij"]))
    hit = evidence.hits(OOM)[0]
    assert [entry.text for entry in evidence.around(hit.entry, before=2, after=3)] == [
        *"de", "out of memory", *"fgh"
    ]  # fmt: skip


def test_lines_and_search_look_through_short_transcripts() -> None:
    evidence = read(commands="$ nvidia-smi -L\nGPU 0: A40", dmesg="GPU 1")
    assert [entry.text for entry in evidence.lines("commands")] == ["$ nvidia-smi -L", "GPU 0: A40"]
    assert [hit[1] for hit in evidence.search(r"gpu (\d)", "commands")] == ["0"]


def test_a_hit_of_a_wrapped_line_quotes_the_physical_line_that_holds_it() -> None:
    error = Sign(r"runner crashed")
    text = 'time=2026-02-15T16:39:19Z level=INFO source=runner.go:464\nmsg="failure"\nerror="runner crashed"'
    evidence = read(error, ollama_log=text)
    quote = evidence.hits(error)[0].quote()
    assert (quote.line, quote.text) == (3, 'error="runner crashed"')
    assert quote.time == "2026-02-15T16:39:19+00:00"


def test_groups_are_read_as_numbers() -> None:
    sign = Sign(r"projected (?P<mib>[\d,]+|none) MiB(?P<rest> more)?")
    hits = read(sign, ollama_log="projected 12,345 MiB\nprojected none MiB").hits(sign)
    assert [hit.number("mib") for hit in hits] == [12345.0, None]
    assert hits[0]["rest"] == ""


def test_a_reading_is_quoted_by_its_line_and_signs_find_it() -> None:
    readings = (
        Reading(name="module.nvidia", value=True, text="nvidia is in /proc/modules"),
        Reading(name="ram", gap="Not readable:\nout of memory"),
    )
    evidence = read(OOM, readings=readings)
    quote = evidence.quote_reading(readings[1])
    assert (quote.source, quote.line, quote.text) == ("host", 2, "Not readable:\nout of memory")
    assert evidence.hits(OOM)[0].entry.line == 2
    assert evidence.value("module.nvidia") is True
    assert evidence.value("ram") is None
    assert evidence.reading("disk") is None
