"""Lines and figures of a stream, wherever its bytes are cut."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.gateway.relay.figures import Figures, ended_well, figures_of
from narthex.gateway.relay.lines import HELD_BYTES, Lines
from narthex.gateway.relay.tapped import TAIL_BYTES, Tail

_line = st.sampled_from(
    (
        b"",
        b'{"message":{"content":"a"}}',
        b'{"message":{"content":"{\\"error\\":1}"}}',
        b'  {"error":"not at the beginning"}',
        b'{"err',
        b'x{"error"',
        b"\xff\x00",
    )
)


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[one:two] for one, two in itertools.pairwise(places)]


def _through(lines: Lines, pieces: list[bytes]) -> bytes:
    found = b""
    for piece in pieces:
        found += lines.feed(piece)
        if lines.error is not None:
            return found
    return found + lines.end()


@given(rows=st.lists(_line), last=_line, at=st.lists(st.integers(0, 10_000)))
def test_a_stream_without_an_error_line_goes_through_byte_for_byte(
    rows: list[bytes], last: bytes, at: list[int]
) -> None:
    whole = b"".join(row + b"\n" for row in rows) + last
    lines = Lines("ndjson")
    assert _through(lines, _cut(whole, at)) == whole
    assert lines.error is None


@given(rows=st.lists(_line), newline=st.booleans(), at=st.lists(st.integers(0, 10_000)))
def test_an_error_line_is_found_and_kept_from_the_client(
    rows: list[bytes], newline: bool, at: list[int]
) -> None:
    before = b"".join(row + b"\n" for row in rows)
    error = b'{"error":"no memory"}'
    lines = Lines("ndjson")
    assert _through(lines, _cut(before + error + (b"\n" if newline else b""), at)) == before
    assert lines.error == error


def test_whole_lines_are_passed_on_as_the_very_bytes_that_came() -> None:
    piece = b'{"message":{"content":"a"}}\n'
    assert Lines("ndjson").feed(piece) is piece


def test_a_line_of_any_length_goes_through_without_being_kept() -> None:
    lines = Lines("ndjson")
    piece = b"1," * (HELD_BYTES // 2)
    sent = sum(len(lines.feed(piece)) for _ in range(8))
    assert sent >= 7 * len(piece)
    assert lines.inside
    assert lines.feed(b'\n{"error":"x"}\n') == b"\n"
    assert lines.error == b'{"error":"x"}'


@given(pieces=st.lists(st.binary(max_size=40_000), max_size=8))
def test_the_tail_is_the_end_of_what_passed(pieces: list[bytes]) -> None:
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    assert tail.end() == b"".join(pieces)[-TAIL_BYTES:]


@pytest.mark.parametrize(
    ("end", "shape", "well"),
    [
        (b'{"done":false}\n{"done":true}\n', "ndjson", True),
        (b'{"done":true}\n{"done":false}\n', "ndjson", False),
        (b'{"message":{"content":"\\"done\\":true"},"done":false}\n', "ndjson", False),
        (b"", "ndjson", False),
        (b"data: {}\n\ndata: [DONE]\n\n", "sse", True),
        (b'data: {"choices":[{"delta":{"content":"data: [DONE]"},"finish_reason":null}]}\n\n', "sse", False),
        (b'data: {"choices":[{"finish_reason":"length"}]}\n\n', "sse", True),
        (b'event: response.completed\ndata: {"type":"response.completed"}\n\n', "sse", True),
        (b'event: response.output_text.delta\ndata: {"delta":"a"}\n\n', "sse", False),
        (b"", "sse", False),
    ],
)
def test_an_end_is_told_from_a_stream_that_broke_off(
    end: bytes, shape: Literal["ndjson", "sse"], well: bool
) -> None:
    assert ended_well(end, shape) is well


def test_what_an_engine_does_not_tell_is_unknown() -> None:
    assert figures_of(b'{"done":true}\n', "ndjson") == Figures()


def test_a_models_words_are_no_figures() -> None:
    text = b'{"choices":[{"message":{"content":"\\"completion_tokens\\": 99"}}],"usage":{"prompt_tokens":3}}'
    assert figures_of(text, "whole") == Figures(prompt_tokens=3)


def test_a_response_has_its_figures_under_its_own_names() -> None:
    last = (
        b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":'
        b'{"input_tokens":5,"input_tokens_details":{"cached_tokens":0},"output_tokens":7}}}\n\n'
    )
    assert figures_of(last, "sse") == Figures(prompt_tokens=5, output_tokens=7)


def test_cached_tokens_of_llama_server_count_as_prompt() -> None:
    last = b'data: {"choices":[],"timings":{"cache_n":90,"prompt_n":10,"predicted_n":4}}\n\ndata: [DONE]\n\n'
    assert figures_of(last, "sse") == Figures(prompt_tokens=100, output_tokens=4)
