"""What people read: counts with their nouns, and sentences with one full stop."""

from __future__ import annotations

import pytest

from narthex.units import format_count, sentence


@pytest.mark.parametrize(("count", "words"), [(0, "0 turns"), (1, "1 turn"), (2, "2 turns")])
def test_one_of_a_kind_has_no_s(count: int, words: str) -> None:
    assert format_count(count, "turn") == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("too large", "too large."),
        ("Too large. ", "Too large."),
        ("Wait…", "Wait…"),
        ("No!", "No!"),
        ("", ""),
    ],
)
def test_a_sentence_has_one_full_stop(text: str, found: str) -> None:
    assert sentence(text) == found
