"""All words of all signs, searched at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import ahocorasick_rs

from narthex.doctor.sign import Sign

MASK = bytes(ord("0") if chr(code) in "0123456789" else code for code in range(256))
_LETTERS = 3
_PIECE = 256 << 10  # the matches of a piece are a list; this bounds it


class Words:
    """An Aho-Corasick automaton over the words that signs need. Words and texts have a zero for every digit:
    which signs are tried must be the same for all lines that differ in figures only."""

    def __init__(self, signs: Sequence[Sign]) -> None:
        owners: dict[str, list[int]] = {}
        for index, sign in enumerate(signs):
            for word in _sought(sign):
                owners.setdefault(word, []).append(index)
        self.signs = tuple(signs)
        self._owners = list(owners.values())
        self._search = (
            ahocorasick_rs.BytesAhoCorasick(
                [word.encode() for word in owners], implementation=ahocorasick_rs.Implementation.DFA
            )
            if owners
            else None
        )

    def find(self, text: bytes) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """The matches in lower-case, masked text, piece by piece: where a piece begins, and of each match the
        word, where it begins and ends in the piece. They are in the order of their ends."""
        start = 0
        while start < len(text) and self._search is not None:
            end = len(text) if len(text) - start <= _PIECE else text.rfind(b"\n", start, start + _PIECE) + 1
            end = end if end > start else len(text)
            yield start, self._search.find_matches_as_indexes(text[start:end], overlapping=True)
            start = end

    def of_line(self, line: bytes) -> list[tuple[int, int, int]]:
        """The matches in one lower-case, masked line."""
        return self._search.find_matches_as_indexes(line, overlapping=True) if self._search else []

    def signs_of(self, words: Iterable[int]) -> list[int]:
        """The signs that need one of these words, each once."""
        return list(dict.fromkeys(sign for word in dict.fromkeys(words) for sign in self._owners[word]))


def masked(low: bytes) -> bytes:
    """Every digit as a zero."""
    return low.translate(MASK)


def _sought(sign: Sign) -> frozenset[str]:
    """Its words, masked. Where hardly anything but figures is left of one, others are taken."""
    hollow = any(sum(not char.isdigit() for char in word) < _LETTERS for word in sign.words)
    words = sign.needed if hollow and sign.needed else sign.words
    return frozenset(masked(word.encode()).decode() for word in words)
