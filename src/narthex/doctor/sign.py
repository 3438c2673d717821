"""A sign: a line that means something, written as a pattern, with the words by which it is found quickly.

100 MB of log are searched for all signs at once by the literal words that their patterns need (Aho-Corasick);
a pattern is tried only where one of its words stands. The words are worked out from the pattern itself, as
RE2's prefilter does it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

_SHORTEST = 3  # letters; a shorter word stands everywhere
# White space, quotes and the signs that JSON writers escape stand otherwise in the file than in Entry.plain.
_BREAKS = frozenset(" \t\n\r\f\v\"'\\<>&")
# They stand in a good part of all lines: the pattern is found more quickly by any other word of it.
_COMMON = frozenset(
    [
        *("ollama", "llama", "ggml_", "gguf", "cuda", "http", "model", "server", "library", "device"),
        *("error", "failed", "load", "layers", "memory", "size", "buffer", "level=", "source=", "msg="),
    ]
)
_sre: Any = importlib.import_module("re._parser")

Words = frozenset[str]  # of which one stands in every match


class Sign:
    """A pattern over :attr:`narthex.doctor.evidence.Entry.plain`; case does not count.

    Plain text has single blanks, no colours, no escaped quotes and no carrier in front (journal, Docker,
    Compose, Kubernetes), so patterns are written with single blanks. ``words`` replace what is worked out
    from the pattern: lower case, one of them stands in every line that the pattern finds. ``kinds`` limits
    the kinds of sources; empty for all. ``first`` and ``last`` hits are kept of more, in each source.
    """

    def __init__(
        self,
        pattern: str,
        *,
        words: Iterable[str] = (),
        kinds: Iterable[str] = (),
        first: int = 60,
        last: int = 240,
    ) -> None:
        self.pattern = re.compile(pattern, re.IGNORECASE)
        needed = _needed(_sre.parse(pattern, re.IGNORECASE))
        self.words: Words = frozenset(words) or max(needed, key=_worth, default=frozenset())
        self.also: tuple[Words, ...] = tuple(dict.fromkeys(one for one in needed if one != self.words))
        self.kinds = frozenset(kinds)
        self.first, self.last = first, last
        if not self.words:
            raise ValueError(f"no word of {_SHORTEST} letters or more is needed by {pattern!r}: give words=")
        if any(word != word.lower() or not word.isascii() for word in self.words):
            raise ValueError(f"words are lower-case ASCII: {sorted(self.words)}")

    def __repr__(self) -> str:
        return f"Sign({self.pattern.pattern!r})"


def _worth(words: Words) -> tuple[bool, int]:
    """Longer words are rarer."""
    return not words & _COMMON, min(map(len, words))


def _needed(tree: Any) -> list[Words]:
    """Sets of words; of each set one word stands in every match."""
    found: list[Words] = []
    run = ""
    for code, value in [*tree, ("end", None)]:
        name = str(code)
        if name == "LITERAL" and chr(value).isascii() and chr(value) not in _BREAKS:
            run += chr(value).lower()
            continue
        if len(run) >= _SHORTEST:
            found.append(frozenset({run}))
        run = ""
        found.extend(_inside(name, value))
    return found


def _inside(name: str, value: Any) -> Iterator[Words]:
    """Of a group, a repetition or an alternation."""
    if name == "SUBPATTERN":
        yield from _needed(value[3])
    elif name == "ATOMIC_GROUP":
        yield from _needed(value)
    elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] >= 1:
        yield from _needed(value[2])
    elif name == "BRANCH":
        sides = [_needed(side) for side in value[1]]
        if all(sides):
            yield frozenset().union(*(max(side, key=_worth) for side in sides))
