"""What a pattern needs: words without which it can't match, worked out from the pattern itself."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_SHORTEST = 3  # letters; a shorter word stands everywhere
# White space, quotes and the signs that JSON writers escape stand otherwise in the file than in Entry.plain.
_BREAKS = frozenset(" \t\n\r\f\v\"'\\<>&")
# They stand in a good part of all lines: the pattern is found more quickly by any other word of it.
_COMMON = frozenset(
    [
        *("ollama", "llama", "ggml_", "gguf", "cuda", "http", "model", "server", "library", "device"),
        *("error", "failed", "load", "layers", "memory", "size", "buffer", "level=", "source=", "msg="),
        *("available", "loading", "detected", "runner", "process", "waiting", "exceeds", "create", "vram"),
    ]
)
_DIGITS = frozenset(map(ord, "0123456789"))
_sre: Any = importlib.import_module("re._parser")
_compiler: Any = importlib.import_module("re._compiler")
_op: Any = importlib.import_module("re._constants")
_HASH = re.compile(r"(?=\d*[a-f]\d*[a-f])(?=[a-f]*\d)[0-9a-f]{6,}")

_INNER = {  # where the inner pattern of a node stands
    "SUBPATTERN": 3,
    "MAX_REPEAT": 2,
    "MIN_REPEAT": 2,
    "POSSESSIVE_REPEAT": 2,
    "ASSERT": 1,
    "ASSERT_NOT": 1,
}

Words = frozenset[str]  # of which one stands in every match
Test = Callable[[bytes], bool]


class Needs:
    """Of one pattern. ``words``: one of them stands in every match; empty where there is none. ``blind``:
    whether it matches a line does not depend on which digits stand in it, only on where digits stand. Where
    it does depend, ``loose`` is the same pattern with any digit for each, if that can be made. ``may`` tells
    whether a lower-case line holds all words, ``may_shape`` whether it would with other digits: the line has
    a zero for each."""

    def __init__(self, pattern: str) -> None:
        tree = _sre.parse(pattern, re.IGNORECASE)
        needs = _needed(tree)
        self.words = _best(needs)
        self.blind = _blind(tree)
        self.loose = None if self.blind else _loose(pattern)
        self.may: Test = _all(needs)
        self.may_shape: Test = _all(_masked(needs))


def _needed(tree: Any) -> list[Any]:
    """All that a sequence needs: words, and of an alternation what each of its sides needs."""
    found: list[Any] = []
    run = ""
    for code, value in [*tree, ("end", None)]:
        name = str(code)
        if name == "LITERAL" and chr(value).isascii() and chr(value) not in _BREAKS:
            run += chr(value).lower()
            continue
        if len(run) >= _SHORTEST:
            found.append(run)
        run = ""
        found.extend(_inside(name, value))
    return found


def _inside(name: str, value: Any) -> Iterator[Any]:
    """Of a group, a repetition or an alternation."""
    if name == "SUBPATTERN":
        yield from _needed(value[3])
    elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT") and value[0] >= 1:
        yield from _needed(value[2])
    elif name == "BRANCH":
        sides = tuple(_needed(side) for side in value[1])
        if all(sides):
            yield sides


def _best(needs: Sequence[Any]) -> Words:
    """The set of words that is rarest: its worst word is long and uncommon."""
    sets = (
        frozenset({need}) if isinstance(need, str) else frozenset().union(*(_best(side) for side in need))
        for need in needs
    )
    return max(sets, key=_worth, default=frozenset())


def _worth(words: Words) -> tuple[int, int]:
    shortest = min(map(len, words))
    digits = any(word.isdigit() for word in words)
    return 0 if digits or shortest == _SHORTEST else 1 if words & _COMMON else 2, shortest


def _masked(needs: Sequence[Any]) -> list[Any]:
    """A zero for every digit."""
    return [
        re.sub("[0-9]", "0", need) if isinstance(need, str) else tuple(_masked(side) for side in need)
        for need in needs
    ]


def _all(needs: Sequence[Any]) -> Test:
    """Whether a lower-case line holds everything."""
    words = tuple(need.encode() for need in needs if isinstance(need, str))
    ways = tuple(_any(need) for need in needs if not isinstance(need, str))

    def test(low: bytes) -> bool:
        for word in words:
            if word not in low:
                return False
        return all(way(low) for way in ways)

    return test


def _any(sides: Sequence[Sequence[Any]]) -> Test:
    if all(len(side) == 1 and isinstance(side[0], str) for side in sides):
        words = tuple(side[0].encode() for side in sides)
        return lambda low: any(word in low for word in words)
    tests = tuple(_all(side) for side in sides)
    return lambda low: any(test(low) for test in tests)


def _blind(tree: Any) -> bool:
    return all(_blind_node(str(code), value) for code, value in tree)


def _blind_node(name: str, value: Any) -> bool:
    if name in ("LITERAL", "NOT_LITERAL"):
        return value not in _DIGITS
    if name == "IN":
        return _blind_set(value)
    if name == "BRANCH":
        return all(_blind(side) for side in value[1])
    if name.startswith("GROUPREF"):
        return False
    return name not in _INNER or _blind(value[_INNER[name]])


def _blind_set(members: Any) -> bool:
    """A set of characters that holds all digits or none."""
    held: set[int] = set()
    for code, value in members:
        name = str(code)
        if name == "LITERAL" and value in _DIGITS:
            held.add(value)
        elif name == "RANGE":
            held |= {digit for digit in _DIGITS if value[0] <= digit <= value[1]}
        elif str(value) in ("CATEGORY_DIGIT", "CATEGORY_WORD", "CATEGORY_NOT_SPACE"):
            return True
    return not held or held == _DIGITS


def _loose(pattern: str) -> re.Pattern[str] | None:
    """Finds whatever the pattern finds, and the same lines with other figures."""
    tree = _sre.parse(pattern, re.IGNORECASE)
    if _HASH.search(pattern) or not _loosen(tree):
        return None
    loose: re.Pattern[str] = _compiler.compile(tree)
    return loose


def _loosen(tree: Any) -> bool:
    """In place; False where it can't be done."""
    rows: list[Any] = []
    for code, value in list(tree):
        name = str(code)
        if name.startswith("GROUPREF"):
            return False
        if name == "ASSERT_NOT" and not _blind(value[1]):
            continue  # what must not follow may be anything
        if name in ("LITERAL", "NOT_LITERAL") and value in _DIGITS:
            rows.append(
                (_op.IN, [(_op.CATEGORY, _op.CATEGORY_DIGIT)]) if name == "LITERAL" else (_op.ANY, None)
            )
        elif name == "IN" and not _blind_set(value):
            rows.append((_op.IN, _loose_set(value)))
        else:
            inner = value[1] if name == "BRANCH" else [value[_INNER[name]]] if name in _INNER else []
            if not all(_loosen(one) for one in inner):
                return False
            rows.append((code, value))
    tree.data[:] = rows
    return True


def _loose_set(members: Any) -> list[Any]:
    if str(members[0][0]) != "NEGATE":
        return [*members, (_op.CATEGORY, _op.CATEGORY_DIGIT)]
    rows = [
        (code, value)
        for code, value in members
        if not (str(code) == "LITERAL" and value in _DIGITS)
        and not (str(code) == "RANGE" and any(value[0] <= digit <= value[1] for digit in _DIGITS))
    ]
    return rows if len(rows) > 1 else [*rows, (_op.LITERAL, ord("\n"))]
