"""All words of all signs, searched at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
        self._words = list(owners)
        self._owners = list(owners.values())
        self._needs = [
            tuple(tuple(word.encode() for word in one) for one in sign.also) for sign in self.signs
        ]
        self._search = (
            ahocorasick_rs.BytesAhoCorasick(
                [word.encode() for word in self._words], implementation=ahocorasick_rs.Implementation.DFA
            )
            if self._words
            else None
        )

    def find(self, low: bytes) -> Iterator[tuple[int, list[int]]]:
        """Of each sign whose words stand in lower-case text the places where they do, in order."""
        places: list[list[int]] = [[] for _ in self._words]
        if self._search is None:
            return
        add = [row.append for row in places]
        start = 0
        while start < len(low):
            end = len(low) if len(low) - start <= _PIECE else low.rfind(b"\n", start, start + _PIECE) + 1
            end = end if end > start else len(low)
            for word, place, _ in self._search.find_matches_as_indexes(low[start:end], overlapping=True):
                add[word](start + place)
            start = end
        found: dict[int, list[int]] = {}
        several = set()
        for word, rows in enumerate(places):
            if rows:
                for sign in self._owners[word]:
                    if sign in found:
                        several.add(sign)
                        found[sign] = found[sign] + rows
                    else:
                        found[sign] = rows
        for sign, rows in found.items():
            yield sign, sorted(rows) if sign in several else rows

    def may(self, sign: int, low: bytes) -> bool:
        """Whether a lower-case line holds every other word that the sign's pattern needs."""
        return all(any(word in low for word in words) for words in self._needs[sign])
