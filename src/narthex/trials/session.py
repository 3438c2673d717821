"""A loaded engine, asked: unique prompts go in, timings come out, and a failure is traced to its line."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from narthex.engines._base import Failure, RunningEngine
from narthex.outcomes import Outcome
from narthex.trials.reply import OnProgress, OnToken, Reply, Request
from narthex.trials.wires import WIRES
from narthex.trials.workload import Prompts

STALL_FLOOR_S = 30.0
"""No engine that works is silent for longer between two tokens; prompts get more, by their size."""
STALL_FACTOR = 4.0
"""Silence may last so many times what the prompt should take: some builds are silent until it is read."""
FIRST_STALL_S = 180.0
"""The same while no speed is known yet."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What all slots answered to one round of questions; rates are medians over the streams."""

    replies: tuple[Reply, ...]
    failure: Failure | None = None

    def _median(self, name: str) -> float | None:
        values = [value for reply in self.replies if (value := getattr(reply, name)) is not None]
        return median(values) if values else None

    @property
    def prompt_tps(self) -> float | None:
        """Prompt tokens/s of one stream."""
        return self._median("prompt_tps")

    @property
    def decode_tps(self) -> float | None:
        """Decoded tokens/s of one stream."""
        return self._median("decode_tps")

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token of one stream."""
        return self._median("ttft_s")

    @property
    def seconds(self) -> float:
        """The slowest stream's wall time."""
        return max(reply.seconds for reply in self.replies)

    @property
    def longest_gap_s(self) -> float:
        """The longest silence of a stream."""
        return max(reply.longest_gap_s for reply in self.replies)

    @property
    def cached(self) -> int:
        """Prompt tokens that a cache answered; more than 0 spoils the figures."""
        return max(reply.cache_n for reply in self.replies)

    @property
    def doubts(self) -> tuple[str, ...]:
        """What the wire found odd, each once."""
        return tuple(dict.fromkeys(doubt for reply in self.replies for doubt in reply.doubts))


class Session:
    """One running engine with a source of prompts."""

    def __init__(self, engine: RunningEngine, prompts: Prompts) -> None:
        self.engine = engine
        self._prompts = prompts
        self._wire = WIRES[engine.wire]
        self._prompt_tps: float | None = None

    def ask(
        self,
        sizes: Sequence[int],
        *,
        generate: int,
        timeout_s: float,
        on_token: OnToken | None = None,
        on_progress: OnProgress | None = None,
    ) -> Answer:
        """One fresh prompt a slot, of the given sizes in tokens, all at once."""
        request = Request(
            generate=generate,
            stall_s=self.stall_s(sum(sizes)),
            timeout_s=timeout_s,
            on_token=on_token,
            on_progress=on_progress,
        )
        replies = self._wire.ask(self.engine, self._prompts, sizes, request)
        failed = min(
            (reply for reply in replies if reply.outcome is not Outcome.DONE), key=_rank, default=None
        )
        answer = Answer(replies=tuple(replies), failure=self.explain(failed) if failed else None)
        self._prompt_tps = answer.prompt_tps or self._prompt_tps
        return answer

    @property
    def exact(self) -> bool:
        """Whether prompts have exactly the size asked for, and answers too."""
        return self._wire.exact

    def stall_s(self, prompt_tokens: int) -> float:
        """Silence that counts as a stall while so many prompt tokens are read."""
        if self._prompt_tps is None:
            return FIRST_STALL_S
        return max(STALL_FLOOR_S, STALL_FACTOR * prompt_tokens / self._prompt_tps)

    def explain(self, reply: Reply) -> Failure:
        """Why a completion failed, by the engine's log where that knows better than the answer."""
        return self.engine.explain(reply.outcome, reply.error, lost=reply.lost)


def _rank(reply: Reply) -> int:
    """Which of several failures tells the most: a lost connection, then whatever the engine said itself."""
    if reply.lost:
        return 0
    return 2 if reply.outcome is Outcome.PROMPT_TRUNCATED else 1
