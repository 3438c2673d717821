"""A sign: a line that means something, written as a pattern, with the words by which it is found quickly.

100 MB of log are searched for all signs at once by the literal words that their patterns need (Aho-Corasick);
a pattern is tried only where one of its words stands. The words are worked out from the pattern itself, as
RE2's prefilter does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from narthex.doctor.needs import Needs


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
        needs = Needs(pattern)
        self.words = frozenset(words) or needs.words
        self.needed = needs.words  # those that were worked out, also where others were given
        self.may = needs.may  # whether a lower-case line holds all words that a match needs
        self.may_shape = needs.may_shape  # the same of a line that has a zero for every digit
        self.blind = needs.blind  # whether it does not matter to it which digits stand in a line
        self.loose = needs.loose  # where it does matter: the pattern with any digit for each
        self.kinds = frozenset(kinds)
        self.first, self.last = first, last
        if not self.words:
            raise ValueError(f"no word of three letters or more is needed by {pattern!r}: give words=")
        if any(word != word.lower() or not word.isascii() for word in self.words):
            raise ValueError(f"words are lower-case ASCII: {sorted(self.words)}")

    def __repr__(self) -> str:
        return f"Sign({self.pattern.pattern!r})"
