"""The search for signs: long and short sources alike, whatever the bytes are."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narthex.doctor.evidence import Evidence
from narthex.doctor.reading.lines import LONGEST
from narthex.doctor.reading.scanner import SHORT, Scanner, read_evidence
from narthex.doctor.reading.text import Text
from narthex.doctor.sign import Sign

OOM = Sign(r"out of memory")
ACCESS = Sign(r"\[GIN\] [^|]*\| (?P<status>\d{3}) \|", words=["[gin]"], first=5, last=7)
REFUSED = Sign(r"\[GIN\] [^|]*\| 503 \|", words=["| 503 |"], first=5, last=7)
OFFLOAD = Sign(r"offloaded [1-9]\d*/(?P<of>\d+) layers", first=5, last=7)
SIGNS = (OOM, ACCESS, REFUSED, OFFLOAD)


def whole(data: bytes) -> Evidence:
    return read_evidence([Text(kind="ollama_log", name="log", data=data)], SIGNS)


def in_pieces(data: bytes, sizes: list[int]) -> Evidence:
    scanner = Scanner(SIGNS)
    start = 0
    while start < len(data):
        size = sizes[start % len(sizes)]
        scanner.feed("ollama_log", "log", data[start : start + size])
        start += size
    scanner.finish("log")
    return scanner.evidence()


def seen(evidence: Evidence) -> list[tuple[object, ...]]:
    return [
        (number, hit.entry.line, hit.entry.text, hit.entry.plain, hit.match.span(), evidence.count(sign))
        for number, sign in enumerate(SIGNS)
        for hit in evidence.hits(sign)
    ]


def log_line(dice: random.Random) -> str:
    return dice.choice(
        (
            f"[GIN] 2026/11/22 - 11:19:{dice.randrange(60):02} | {dice.choice((200, 500, 503))} | 1.2µs |",
            f"load_tensors: offloaded {dice.choice((0, 7, 33))}/33 layers to GPU",
            f"CUDA error: out of memory at {dice.randrange(10**6)}",
            "cudaMalloc failed: Out Of Memory; out of memory again",
            f"llama_model_loader: - kv {dice.randrange(99)}: x",
            "",
            "main: größe ä",
        )
    )


def test_a_log_in_pieces_of_any_size_has_the_same_hits_and_counts() -> None:
    for seed in range(20):
        dice = random.Random(seed)
        end = dice.choice(("\n", "\r\n"))
        text = end.join(log_line(dice) for _ in range(dice.randrange(1, 400))) + dice.choice(("", end))
        data = text.encode()
        pieces = in_pieces(data, [dice.randint(1, 300) for _ in range(7)])
        assert seen(pieces) == seen(whole(data))
        assert pieces.sources == whole(data).sources


def test_a_long_source_has_the_same_hits_as_a_short_one() -> None:
    dice = random.Random(3)
    data = "\n".join(log_line(dice) for _ in range(3000)).encode()
    long = read_evidence([Text(kind="ollama_log", name="log", data=data + b"\n" + b"x\n" * SHORT)], SIGNS)
    assert long.sources[0].bytes > SHORT
    assert seen(long) == seen(whole(data))


def test_what_is_around_the_hits_of_a_long_source_is_kept() -> None:
    rows = [f"line {number}" for number in range(1, 400_001)]
    for number in (1, 2, 200_000, 399_999):
        rows[number - 1] = "out of memory"
    data = "\n".join(rows).encode()
    assert len(data) > SHORT
    evidence = whole(data)
    for hit in evidence.hits(OOM):
        near = range(max(1, hit.entry.line - 3), min(400_000, hit.entry.line + 8) + 1)
        assert [entry.line for entry in evidence.around(hit.entry, before=3, after=8)] == list(near)
        assert all(entry.text == rows[entry.line - 1] for entry in evidence.around(hit.entry))
    assert [hit.entry.line for hit in evidence.hits(OOM)] == [1, 2, 200_000, 399_999]


def test_lines_behind_a_hit_that_come_later_are_kept_too() -> None:
    scanner = Scanner(SIGNS)
    for number in range(1, 30):
        row = b"out of memory\n" if number in (5, 7) else b"line %d\n" % number
        scanner.feed("ollama_log", "log", row)
    evidence = scanner.evidence()
    hit = evidence.hits(OOM)[0]
    assert [entry.line for entry in evidence.around(hit.entry, before=3, after=8)] == list(range(2, 14))


def test_a_watcher_is_told_that_something_relevant_came() -> None:
    scanner = Scanner(SIGNS)
    scanner.feed("ollama_log", "log", b"nothing\nCUDA error: out of")
    assert scanner.new_hits == 0
    scanner.feed("ollama_log", "log", b" memory\n")
    assert scanner.new_hits == 1
    assert scanner.evidence().hits(OOM)[0].entry.line == 2


def test_one_scanner_reads_several_sources_side_by_side() -> None:
    scanner = Scanner(SIGNS)
    scanner.feed("ollama_log", "a", b"out of")
    scanner.feed("dmesg", "b", b"x\nout of memory\n")
    scanner.feed("ollama_log", "a", b" memory\n")
    hits = scanner.evidence().hits(OOM)
    assert [(hit.entry.source, hit.entry.line) for hit in hits] == [("a", 1), ("b", 2)]


def test_two_texts_of_one_name_stay_apart() -> None:
    texts = [Text(kind="ollama_log", name="log", data=b"out of memory") for _ in range(2)]
    assert [hit.entry.source for hit in read_evidence(texts, SIGNS).hits(OOM)] == ["log", "log (2)"]


def test_of_a_mixed_log_each_service_s_lines_are_of_its_kind() -> None:
    data = b"ollama-1      | out of memory\nopen-webui-1  | out of memory\nredis-1       | out of memory\n"
    hits = read_evidence([Text(kind="docker_log", name="log", data=data)], SIGNS).hits(OOM)
    assert [hit.entry.kind for hit in hits] == ["ollama_log", "openwebui_log", "docker_log"]


@pytest.mark.parametrize(
    "data",
    [
        "x\r\nout of memory\r\n".encode("utf-16"),
        "x\nout of memory\n".encode("utf-16-le"),
        "x\nout of memory\n".encode("utf-16-be"),
        "x\nout of memory".encode("utf-8-sig"),
        b"\xff\xfe\xfd"[:1] + b"\nout of memory\n",
        b"x\nout of\x00 memory\n",
        b"x\r\nout of memory\r\n",
    ],
)
def test_any_encoding_is_read(data: bytes) -> None:
    for evidence in (whole(data), in_pieces(data, [999])):
        assert [hit.entry.line for hit in evidence.hits(OOM)] == [2]


def test_a_packed_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ollama.log.1.gz"
    path.write_bytes(gzip.compress(b"x\nout of memory\n"))
    evidence = read_evidence([Text(kind="ollama_log", name="log", path=path)], SIGNS)
    assert evidence.hits(OOM)[0].entry.line == 2


def test_a_packed_log_that_ends_too_early_is_read_so_far_and_told(tmp_path: Path) -> None:
    path = tmp_path / "ollama.log.1.gz"
    path.write_bytes(gzip.compress(b"out of memory\n" + random.Random(1).randbytes(300_000))[:-200_000])
    evidence = read_evidence([Text(kind="ollama_log", name="log", path=path)], SIGNS)
    assert [row.what for row in evidence.skipped] == ["log"]


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    scanner = Scanner(SIGNS)
    filler = b"abcdefgh " * 29_128
    tracemalloc.start()
    scanner.feed("ollama_log", "log", b"first\n")
    for number in range(80):
        scanner.feed("ollama_log", "log", filler)
        if number == 40:
            scanner.feed("ollama_log", "log", b"out of memory")
    scanner.feed("ollama_log", "log", b"\nout of memory\n")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    evidence = scanner.evidence()
    assert peak < 16 << 20
    assert [hit.entry.line for hit in evidence.hits(OOM)] == [2, 3]
    assert evidence.count(OOM) == 2
    text = evidence.hits(OOM)[0].entry.text
    assert len(text) <= LONGEST
    assert text in (filler * 2 + b"out of memory" + filler * 2).decode()


def test_a_quote_of_a_very_long_line_is_a_part_of_it() -> None:
    row = "ä" * 50_000 + " out of memory " + "ö" * 50_000
    for evidence in (whole(f"x\n{row}\n".encode()), in_pieces(f"x\n{row}\n".encode(), [10**6])):
        (hit,) = evidence.hits(OOM)
        assert hit.entry.line == 2
        assert hit.quote().text in row
        assert len(hit.quote().text) <= LONGEST


def test_empty_texts_have_nothing() -> None:
    for data in (b"", b"\n", b"\n\n\r\n", b"\xff\xfe", b"\0"):
        for evidence in (whole(data), in_pieces(data, [1])):
            assert not evidence.has(*SIGNS)
            assert evidence.sources[0].name == "log" if data else True


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    *(
                        b"\n",
                        b"\r",
                        b"\r\n",
                        b"out of memory",
                        b"[GIN] 1 | 503 |",
                        b'{"log":"',
                        b'"}',
                        b"\x1b[31m",
                    ),
                    *(b"time=2026-01-01T00:00:00Z level=INFO msg=", b"Feb 31 10:00:00 a b[1]: "),
                    *(b'"', b"\0", b"\x1b[31m"),
                    *(b"offloaded 33/33 layers to GPU", b"ollama-1  | ", b"\xe2\x82", b'{"MESSAGE":[1,2]}'),
                ]
            ),
        ),
        max_size=40,
    ),
    st.lists(st.integers(1, 50), min_size=1, max_size=5),
)
def test_random_bytes_break_nothing_and_every_quote_is_really_there(
    parts: list[bytes], sizes: list[int]
) -> None:
    data = b"".join(parts)
    for evidence in (whole(data), in_pieces(data, sizes)):
        text = data.decode("utf-8", "replace")
        wide = data.decode("utf-16", "replace") + data.decode("utf-16-le", "replace")
        for hit in evidence.hits(*SIGNS):
            assert hit.quote().text in text or hit.quote().text in wide
            assert hit.quote().line <= evidence.sources[0].lines
        evidence.lines()
