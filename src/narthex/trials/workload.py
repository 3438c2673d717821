"""Workloads: what is asked during a trial, as unique prompts of an exact number of tokens."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

import msgspec

from narthex.errors import UsageError
from narthex.trials import phrases
from narthex.trials.trial import Turn

Writer = Callable[[Random], Iterator[str]]
Tokenize = Callable[[str], list[int]]
"""Text → token ids as the engine counts them, a leading begin-of-text token included."""


_HEAD_CHARACTERS = 13
_HEAD_TOKENS = 10
"""The unique word with its line end: 12 hex digits are one to two characters a token."""
_FEW_CHARACTERS = 3
"""Characters a token before anything is known: less than most texts have, so that no prompt is too long."""
_TELLING_TOKENS = 24
"""Fewer tokens than this tell nothing about the text behind the head."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of use: its text, and the shape of one turn that is usual for it."""

    name: str
    help: str
    writer: Writer
    turn: Turn


_ROWS = (
    Workload(
        name="chat",
        help="A conversation: a question on top of what was said before, an answer of middle length.",
        writer=phrases.talk,
        turn=Turn(),
    ),
    Workload(
        name="document",
        help="A long text to read, a short answer about it.",
        writer=phrases.prose,
        turn=Turn(prompt_tokens=2048, generate=192),
    ),
    Workload(
        name="code",
        help="Source code to read, much new code to write.",
        writer=phrases.code,
        turn=Turn(prompt_tokens=1024, generate=512),
    ),
    Workload(
        name="agent",
        help="Tool results to read, a short call to write.",
        writer=phrases.tool_calls,
        turn=Turn(prompt_tokens=1024, generate=96),
    ),
)
WORKLOADS: dict[str, Workload] = {row.name: row for row in _ROWS}


class Prompts:
    """A source of prompts that no prefix cache can know.

    Every prompt starts with a word that was never used before, so it shares no more than the begin-of-text
    token (and by chance a few letters) with any other. What follows is the workload's text, or
    the user's own prompts in changing order.
    """

    def __init__(self, workload: str = "chat", *, own: Sequence[str] = (), run: str | None = None) -> None:
        """``own``: the user's prompts (:func:`read_prompts`); ``run`` makes the unique words repeatable."""
        if not own and workload not in WORKLOADS:
            raise UsageError(f"There is no workload «{workload}».", hint="Use " + ", ".join(WORKLOADS) + ".")
        self._own = tuple(own)
        self._workload = workload
        self._run = run or secrets.token_hex(8)
        self._count = 0
        self._characters_a_token = 3.0
        self._told = (0, 0)  # characters and tokens of prompts that an engine has counted, heads left out
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        """What a trial keeps as its workload: the name, or ``own:`` and a hash of the user's prompts."""
        if not self._own:
            return self._workload
        return "own:" + hashlib.sha256("\x00".join(self._own).encode()).hexdigest()[:12]

    def text(self, characters: int) -> str:
        """The next prompt, with at least so many characters."""
        with self._lock:
            self._count += 1
            count = self._count
        word = hashlib.sha256(f"{self._run}/{count}".encode()).hexdigest()[:12]
        parts, length = [f"{word}\n"], len(word)
        for part in self._parts(Random(count)):
            parts.append(part)
            length += len(part)
            if length >= characters:
                break
        return "".join(parts)

    def tokens(self, count: int, tokenize: Tokenize) -> list[int]:
        """The next prompt, as exactly ``count`` token ids (1 or more)."""
        characters = int(count * self._characters_a_token) + 64
        while True:
            text = self.text(characters)
            ids = tokenize(text)
            if len(ids) >= count:
                self._characters_a_token = 1.05 * len(text) / len(ids)
                return ids[:count]
            characters = characters * 3 // 2 + (count - len(ids)) * 4

    def text_of(self, size: int) -> str:
        """The next prompt, with about ``size`` tokens by what :meth:`learn` was told; before that with fewer.

        It ends in mid-sentence, which no model takes for the end of a text.
        """
        characters, tokens = self._told if self._told[1] else (_FEW_CHARACTERS, 1)
        length = _HEAD_CHARACTERS + max(1, (size - _HEAD_TOKENS) * characters // tokens)
        return self.text(length)[:length]

    def expected(self, text: str) -> float | None:
        """Tokens of a text, by what :meth:`learn` was told; None before."""
        characters, tokens = self._told
        return _HEAD_TOKENS + (len(text) - _HEAD_CHARACTERS) * tokens / characters if characters else None

    def learn(self, text: str, tokens: int) -> None:
        """What an engine counted for a text of this source. Longer and newer texts count for more."""
        if tokens >= _TELLING_TOKENS:
            characters, before = self._told
            self._told = (
                characters // 2 + len(text) - _HEAD_CHARACTERS,
                before // 2 + tokens - _HEAD_TOKENS,
            )

    def _parts(self, rng: Random) -> Iterator[str]:
        if not self._own:
            yield from WORKLOADS[self._workload].writer(rng)
        while True:
            for text in rng.sample(self._own, len(self._own)):
                yield text + "\n\n"


class _Line(msgspec.Struct):
    prompt: str


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """The user's prompts: JSON lines with a field ``prompt``, or text with lines of ``---`` between prompts.

    Raises UsageError where the file can't be read, or holds no prompt.
    """
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(
            f"The prompts in «{path}» can't be read: {why}.",
            hint="Give a text file in UTF-8, or JSON lines.",
        ) from error
    first = content.lstrip()[:1]
    found = _from_json_lines(path, content) if first == "{" else _from_text(content)
    prompts = tuple(text for text in found if text.strip())
    if not prompts:
        raise UsageError(
            f"There is no prompt in «{path}».",
            hint="Write prompts with lines of --- between them, or JSON lines with a field «prompt».",
        )
    return prompts


def _from_json_lines(path: str | Path, content: str) -> list[str]:
    prompts = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            prompts.append(msgspec.json.decode(line, type=_Line).prompt)
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"Line {number} of «{path}» is no prompt: {error}.",
                hint='Every line must be JSON like {"prompt": "…"}.',
            ) from error
    return prompts


def _from_text(content: str) -> list[str]:
    prompts: list[list[str]] = [[]]
    for line in content.splitlines():
        if line.rstrip() == "---":
            prompts.append([])
        else:
            prompts[-1].append(line)
    return ["\n".join(lines).strip() for lines in prompts]
