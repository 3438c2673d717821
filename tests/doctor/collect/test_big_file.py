"""A file of any size, searched in pieces while somebody else writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.doctor.collect import big_file
from narthex.doctor.collect.big_file import BigFile


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> object:
    """So that words stand on the border of two."""
    before, big_file._PIECE = big_file._PIECE, 5
    yield
    big_file._PIECE = before


@given(
    data=st.text("ab\n", max_size=40).map(str.encode),
    word=st.text("ab\n", min_size=1, max_size=4).map(str.encode),
    start=st.integers(0, 45),
    end=st.integers(0, 45),
)
def test_it_finds_what_a_search_through_all_bytes_finds(
    data: bytes, word: bytes, start: int, end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "big.log"
    path.write_bytes(data)
    with path.open("rb") as file:
        whole = BigFile(file)
        assert whole.part(start, end) == data[start:end]
        assert whole.find(word, start, min(end, len(data))) == data.find(word, start, end)
        assert whole.rfind(word, start, min(end, len(data))) == data.rfind(word, start, end)
        assert whole.lines_before(end) == data[:end].count(b"\n")


def test_a_file_that_is_cut_meanwhile_just_ends(tmp_path: Path) -> None:
    path = tmp_path / "rotated.log"
    path.write_bytes(b"line\n" * 2000)
    with path.open("rb") as file:
        whole = BigFile(file)
        path.write_bytes(b"")
        assert whole.part(0, whole.size) == b""
        assert whole.find(b"line", 0, whole.size) == whole.rfind(b"line", 0, whole.size) == -1
        assert whole.lines_before(whole.size) == 0
