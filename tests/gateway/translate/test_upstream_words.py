"""An engine's own words, in every coat that they come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narthex.gateway.relay.figures import ended_well
from narthex.gateway.translate import error_words

from .recorded import exchange


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":"model not found"}', "model not found"),
        (b'{"error":{"code":500,"message":"image input is not supported","type":"x"}}', "image input is not"),
        (b'{"error":"{\\"error\\":{\\"message\\":\\"too long\\"}}"}', "too long"),
        (b'{"error":"said first"}\n{"error":"said later"}\n', "said first"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"plain words", "plain words"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_the_sentence_is_found(body: bytes, words: str) -> None:
    assert error_words(body).startswith(words)


def test_a_recorded_error_inside_another_is_found(shared: Path) -> None:
    body = exchange(shared, "107-overflow-v1-chat")["body"]
    assert error_words(json.dumps(body).encode()).startswith("request (8024 tokens) exceeds")


def test_the_end_of_an_infill_is_an_end() -> None:
    assert ended_well(b'data: {"index":0,"content":"","stop":true,"stop_type":"limit"}\n\n', "sse")
