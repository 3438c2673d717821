"""All words of all signs, searched at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import ahocorasick_rs

from narthex.doctor.sign import Sign

_PIECE = 256 << 10  # the matches of a piece are a list; this bounds it


class Words:
    """An Aho-Corasick automaton over the words that signs need."""

    def __init__(self, signs: Sequence[Sign]) -> None:
        owners: dict[str, list[int]] = {}
        for index, sign in enumerate(signs):
            for word in sign.words:
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

    def find(self, low: bytes) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """The matches in lower-case text, piece by piece: where the piece begins, and of each match the
        word, where it begins and ends in the piece. They are in the order of their ends."""
        start = 0
        while start < len(low) and self._search is not None:
            end = len(low) if len(low) - start <= _PIECE else low.rfind(b"\n", start, start + _PIECE) + 1
            end = end if end > start else len(low)
            yield start, self._search.find_matches_as_indexes(low[start:end], overlapping=True)
            start = end

    def signs_of(self, words: Iterable[int]) -> list[int]:
        """The signs that need one of these words, each once."""
        return list(dict.fromkeys(sign for word in dict.fromkeys(words) for sign in self._owners[word]))
