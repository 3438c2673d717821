"""What an engine said instead of an answer: its words, and whether the client hears them as they are."""

from __future__ import annotations

from narthex.gateway.known_errors import known_error
from narthex.gateway.translate import error_words
from narthex.gateway.trouble import Trouble

PLAIN = frozenset((400, 404, 405, 413, 422))
"""The client's own mistakes: nobody tells them better than the engine."""
_WORDS_BYTES = 16 * 1024
_SAID_LETTERS = 300


def is_plain(status: int, body: bytes) -> bool:
    """Whether the engine's own answer is passed on. A prompt that is too long is none of these: a larger
    profile may hold it."""
    if status not in PLAIN:
        return False
    known = known_error(words_of(body), status, model="", offer=None)
    return known is None or known.cause != "context_too_large"


def words_of(body: bytes) -> str:
    """An error as text, still as the engine wrote it: its JSON holds figures."""
    return body[:_WORDS_BYTES].decode("utf-8", "replace").strip()


def error_line_words(line: bytes) -> str:
    """The JSON of a stream's error line, without what its dialect has before it."""
    return words_of(line.removeprefix(b"data:").removeprefix(b"error:"))


def said(words: str) -> str:
    """The sentence in them, shortened."""
    return error_words(words.encode())[:_SAID_LETTERS]


def in_own_dialect(status: int, body: bytes, model: str) -> Trouble:
    """The same refusal for a client whose dialect the engine does not speak."""
    words = said(words_of(body)) or "it gave no reason"
    return Trouble(status, "engine_refused", f"The engine of «{model}» refused the request: {words}")


def redirected(status: int, model: str) -> Trouble:
    """An engine that sends its caller elsewhere is none."""
    return Trouble(
        502,
        "engine_redirects",
        f"The engine of «{model}» answered with a redirect ({status}), which is not followed.",
        remedy="Check the engine's address: another program may be at it.",
    )
