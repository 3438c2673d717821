"""A sign: a line that means something, written as a pattern, with the words by which it is found quickly.

100 MB of log are searched for all signs at once by the literal words that their patterns need (Aho-Corasick);
a pattern is tried only where one of its words stands. The words are worked out from the pattern itself, as
RE2's prefilter does it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from typing import Any

_SHORTEST = 4  # a shorter word stands everywhere
_BREAKS = frozenset(
    " \t\n\"'\\"
)  # white space and quotes may be written otherwise in the file than in Entry.plain
_sre: Any = importlib.import_module("re._parser")


class Sign:
    """A pattern over :attr:`narthex.doctor.evidence.Entry.plain`; case does not count.

    Plain text has single blanks, no colours, no escaped quotes and no carrier in front (journal, Docker,
    Compose, Kubernetes), so patterns are written with single blanks. ``words`` replace what is worked out
    from the pattern: lower case, one of them stands in every line that the pattern finds. ``kinds`` limits
    the kinds of sources; empty for all. ``first`` and ``last`` hits are kept of more.
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
        self.words = frozenset(words) or _words(_sre.parse(pattern, re.IGNORECASE))
        self.kinds = frozenset(kinds)
        self.first, self.last = first, last
        if not self.words:
            raise ValueError(f"no word of {_SHORTEST} letters is needed by {pattern!r}: give words=")
        if any(word != word.lower() or not word.isascii() for word in self.words):
            raise ValueError(f"words are lower-case ASCII: {sorted(self.words)}")

    def __repr__(self) -> str:
        return f"Sign({self.pattern.pattern!r})"


def _words(tree: Any) -> frozenset[str]:
    """The best set of words of which one must stand in a match; empty where there is none."""
    best: frozenset[str] = frozenset()
    run = ""
    for code, value in [*tree, ("end", None)]:
        name = str(code)
        if name == "LITERAL" and chr(value).isascii() and chr(value) not in _BREAKS:
            run += chr(value).lower()
            continue
        best = _better(best, frozenset({run}) if len(run) >= _SHORTEST else frozenset())
        run = ""
        if name == "SUBPATTERN":
            best = _better(best, _words(value[3]))
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] >= 1:
            best = _better(best, _words(value[2]))
        elif name == "BRANCH":
            sides = [_words(side) for side in value[1]]
            if all(sides):
                best = _better(best, frozenset().union(*sides))
    return best


def _better(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    """The set whose shortest word is longer."""
    return max(one, other, key=lambda words: min((len(word) for word in words), default=0))
