"""Signs: the words by which their lines are found, worked out from their patterns."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.doctor.sign import Sign

PIECES = (
    "failed", "to", "load", "CUDA", "out of memory", r"\d+", r"\S+", r"[\d.]+ MiB", "(?:model|runner)",
    "(?:KV )?", "(?P<name>[a-z]+)", "offload(?:ed|ing)?", r"(?:error|warning): ?", ".*", r"\b", "x{2,3}",
    "[Tt]imed out", r"status=(?:9|137)/", "(?:no such|missing) (?:file|library)", r"\(version [^)]+\)",
    "[1-9]", r"(?!0 B)\d", "5\\d\\d", r"[^0-9]", "cuda>=", r"\"", "(?:(?:one)+|two words)", "(?=host)host",
)  # fmt: skip


@st.composite
def patterns(draw: st.DrawFn) -> str:
    """Patterns as rules write them."""
    pieces = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6, unique=True))
    return draw(st.sampled_from(("", " "))).join(pieces)


def sign_of(pattern: str) -> Sign | None:
    try:
        return Sign(pattern)
    except ValueError:
        return None


@given(st.data())
def test_whatever_a_pattern_finds_holds_one_of_its_words_and_passes_its_test(data: st.DataObject) -> None:
    sign = sign_of(data.draw(patterns()))
    if sign is None:
        return
    alphabet = st.characters(codec="ascii", exclude_categories=["Cc"])
    line = data.draw(st.from_regex(sign.pattern, alphabet=alphabet))
    low = line.lower().encode()
    assert sign.pattern.search(line)
    assert any(word.encode() in low for word in sign.words)
    assert sign.may(low)


@given(st.data())
def test_to_a_blind_pattern_other_digits_do_not_matter_and_a_loose_one_finds_them_all(
    data: st.DataObject,
) -> None:
    sign = sign_of(data.draw(patterns()))
    if sign is None:
        return
    alphabet = st.characters(codec="ascii", exclude_categories=["Cc"])
    line = data.draw(st.from_regex(sign.pattern, alphabet=alphabet))
    other = re.sub(r"\d", lambda _: data.draw(st.sampled_from(string.digits)), line)
    if sign.blind:
        assert sign.pattern.search(other)
    elif sign.loose is not None:
        assert sign.loose.search(other)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"maximum pending requests exceeded", {"requests"}),
        (r"(?:Failed|refused) to initialize NVML", {"initialize"}),
        (r"driver version is insufficient|unsatisfied condition", {"insufficient", "unsatisfied"}),
        (r"Xid \(PCI:[0-9a-f:.]+\): 79", {"(pci:"}),
        (r"(?:a|bb) [Ss]omething(?:more)+", {"omething"}),
    ],
)
def test_the_rarest_word_is_chosen(pattern: str, words: set[str]) -> None:
    assert Sign(pattern).words == words


def test_common_words_are_taken_only_where_there_is_no_other() -> None:
    assert Sign(r"failed to unmap memory").words == {"unmap"}
    assert Sign(r"failed \S+ memory").words <= {"failed", "memory"}


def test_a_word_that_json_writers_escape_is_not_relied_on() -> None:
    assert Sign(r"unsatisfied condition: cuda>=13").may(b"unsatisfied condition: cuda\\u003e=13")


def test_a_pattern_without_any_word_is_refused() -> None:
    with pytest.raises(ValueError, match="give words="):
        Sign(r"\d+ \S+")


def test_words_are_lower_case() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        Sign(r"\d+ OOM", words=["OOM"])


def test_status_codes_matter_to_a_sign_and_any_figures_do_not() -> None:
    assert not Sign(r"status 50[03] came").blind
    assert not Sign(r"offloaded [1-9]\d*/\d+ layers").blind
    assert Sign(r"offloaded [0-9]+/\d+ layers").blind
    assert Sign(r"pid=[^,]+, name=\w+").blind
