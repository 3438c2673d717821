"""How a model in an Ollama is asked: with text, whose size in tokens is learned, and with second tries.

Ollama counts tokens only in its answers. So a prompt's length comes from what earlier answers told, a prompt
that was too long is asked again shorter, and, since nothing can forbid the model to end early, so is one
whose answer was too short to be timed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import partial

import msgspec

from narthex.engines._base import RunningEngine
from narthex.outcomes import Outcome
from narthex.trials.ollama_client import OllamaClient
from narthex.trials.reply import Reply, Request, together
from narthex.trials.workload import Prompts

TRIES = 3
"""Rounds that are asked at most for answers that are long enough."""
ENOUGH = 16
"""Tokens of an answer that make it long enough, or half of what was asked for where that is less."""
AGAIN_S = 120.0
"""After so long no further round is asked for longer answers."""
CUTS = 2
"""How often a prompt that is too long is asked again shorter."""
SHORTER = 0.85
"""By how much where the server does not tell its size."""
WAITED_S = 1.0
"""A request that waited longer than this, and longer than our own others took to be read, is a doubt."""
FAR_BELOW = 0.6
"""Share of the tokens expected below which a prompt was cut, or taken from a cache."""
_TRUNCATING = re.compile(r'msg="truncating input prompt".* prompt=(\d+) .*new=(\d+)')


class OllamaWire:
    """``/api/generate`` with raw text. Prompts have about the size asked for."""

    exact = False

    def ask(
        self, engine: RunningEngine, prompts: Prompts, sizes: Sequence[int], request: Request
    ) -> list[Reply]:
        """One fresh prompt a stream, all at once; the round whose shortest answer is the longest."""
        enough = min(ENOUGH, (request.generate + 1) // 2)
        best: list[Reply] = []
        tries, began = 0, time.monotonic()
        while tries < TRIES and time.monotonic() - began < AGAIN_S:
            tries += 1
            replies = _Round(engine, prompts, sizes, request).fitting()
            if any(reply.outcome is not Outcome.DONE for reply in replies):
                return replies
            best = max(best, replies, key=_shortest)
            if _shortest(best) >= enough:
                return _with(best, *_together(best))
        return _with(best, _short(best, tries), *_together(best))


class _Round:
    """One prompt a stream, asked at the same time until none of them is too long."""

    def __init__(
        self, engine: RunningEngine, prompts: Prompts, sizes: Sequence[int], request: Request
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._sizes = list(sizes)
        self._request = request
        told = [size for size in (engine.options.get("num_ctx"), engine.report.num_ctx) if size]
        self._limit: int | None = min(told, default=None)  # Ollama may have cut what was asked for

    def fitting(self) -> list[Reply]:
        """The replies; PROMPT_TRUNCATED where a prompt was too long to the last."""
        for _ in range(1 + CUTS):
            texts = [self._prompts.text_of(size) for size in self._sizes]
            replies = [
                self._checked(text, reply) for text, reply in zip(texts, self._ask(texts), strict=True)
            ]
            cut = [index for index, reply in enumerate(replies) if _too_long(reply)]
            if not cut or any(_failed(reply) for reply in replies):
                break
            for index in cut:
                known = replies[index].refused_n is not None  # then the next text is measured better
                self._sizes[index] = max(1, int(self._sizes[index] * (0.97 if known else SHORTER)))
        return [_refused(reply) if _too_long(reply) else reply for reply in replies]

    def _ask(self, texts: Sequence[str]) -> list[Reply]:
        client = OllamaClient(self._engine.url, self._engine.served_as, self._engine.options)
        return together([partial(client.generate, text, self._request) for text in texts], client.leave)

    def _checked(self, text: str, reply: Reply) -> Reply:
        """The reply with what its counts give away; what they teach about the text's size is kept."""
        count, expected = reply.refused_n or reply.prompt_n, self._prompts.expected(text)
        if reply.outcome is not Outcome.DONE or not count:
            if reply.refused_n:
                self._prompts.learn(text, reply.refused_n)
            return reply
        if self._limit and count >= self._limit:
            return msgspec.structs.replace(reply, truncated=True)
        if expected and count < FAR_BELOW * expected:
            return self._far_below(text, reply, round(expected))
        self._prompts.learn(text, count)
        if self._limit and reply.context_n > self._limit:
            return _doubted(reply, "an answer ran over the context's end: the engine dropped old tokens")
        return reply

    def _far_below(self, text: str, reply: Reply, expected: int) -> Reply:
        """Cut without a word, by the log or where it hardly fitted; else taken from a cache."""
        for line in reversed(self._engine.tail(200)):
            found = _TRUNCATING.search(line)
            if found and int(found.group(2)) == reply.prompt_n:
                self._prompts.learn(text, int(found.group(1)))
                return msgspec.structs.replace(reply, truncated=True, refused_n=int(found.group(1)))
        if self._limit and expected > 0.8 * self._limit:
            return msgspec.structs.replace(reply, truncated=True)
        return msgspec.structs.replace(reply, cache_n=expected - reply.prompt_n)


def _too_long(reply: Reply) -> bool:
    return reply.truncated or reply.outcome is Outcome.PROMPT_TRUNCATED


def _failed(reply: Reply) -> bool:
    return reply.outcome not in {Outcome.DONE, Outcome.PROMPT_TRUNCATED}


def _refused(reply: Reply) -> Reply:
    words = reply.error or f"the engine cut the prompt to {reply.prompt_n} tokens"
    return msgspec.structs.replace(reply, outcome=Outcome.PROMPT_TRUNCATED, error=words)


def _shortest(replies: Sequence[Reply]) -> int:
    """Tokens of the shortest answer; one without figures counts as none, no round at all as less."""
    return min((reply.predicted_n if reply.ended else 0 for reply in replies), default=-1)


def _short(replies: Sequence[Reply], tries: int) -> str:
    times = "in the one try that was made" if tries == 1 else f"in each of {tries} tries"
    if any(not reply.ended for reply in replies):
        return f"Ollama broke an answer off {times}, as it does with 30 equal tokens in a row"
    return f"the model ended its answer early {times}, at best after {_shortest(replies)} tokens"


def _together(replies: Sequence[Reply]) -> list[str]:
    """What the answers of one round tell beside each other."""
    found = []
    counts = [reply.predicted_n for reply in replies]
    if 2 * min(counts) < max(counts):
        ends = f"{min(counts)} to {max(counts)} tokens"
        found.append(f"the answers ended after {ends}: they shared the engine only partly")
    # Prompts of several slots are read one after the other, and only its own reading counts as a slot's.
    reading = sum(reply.reading_s for reply in replies)
    waited = max(reply.waited_s - (reading - reply.reading_s) for reply in replies)
    if waited > WAITED_S:
        found.append(f"a request waited {waited:.1f} s behind other requests")
    return found


def _with(replies: Sequence[Reply], *doubts: str) -> list[Reply]:
    first, *others = replies
    return [_doubted(first, *doubts), *others]


def _doubted(reply: Reply, *doubts: str) -> Reply:
    return msgspec.structs.replace(reply, doubts=(*reply.doubts, *doubts))
