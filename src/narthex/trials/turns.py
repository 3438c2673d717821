"""Timed turns of a loaded engine: warm-up, repeats at one depth, and one near the context's end."""

from __future__ import annotations

from math import isqrt

from narthex.engines._base import Failure
from narthex.knobs import KnobValues
from narthex.trials.observation import TurnTiming
from narthex.trials.session import Answer, Session
from narthex.trials.trial import Trial, Turn, Watch

WARM_PROMPT = 512
"""Prompt tokens of the warm-up: enough for one full micro-batch, which loads kernels and touches weights."""
WARM_GENERATE = 8
DECODE_BUDGET_S = 20.0
"""Decoding is timed for about this long at most: a rate needs no more, and slow settings take minutes."""
MIN_GENERATE = 32
"""…but never over fewer tokens than this (or the turn's own, where that is less)."""
FEW_TOKENS = 16
"""A decode rate over fewer tokens is worth a doubt."""
REPEATS_BUDGET_S = 90.0
"""No further repeat starts that would end later than this after the first one began."""
TURN_TIMEOUT_S = 900.0
END_GENERATE = 32
END_MARGIN = 8
"""Tokens left free at the context's end: chat templates and special tokens are not counted to the token."""
END_CHEAP_S = 20.0
END_LONGEST_S = 180.0
END_FILL = 0.9
"""A timed turn that fills so much of the context is itself the turn near its end."""
THOROUGH = ("baseline:engine", "baseline:current", "verify", "manual")
"""Purposes that pay for a turn near the context's end even where it is slow; a winner is soaked there."""


class Turns:
    """The timed part of one trial. Keeps what was measured when something fails half-way."""

    def __init__(self, session: Session, trial: Trial, slot_ctx: int, watch: Watch) -> None:
        self.timings: list[TurnTiming] = []
        self.end_timings: list[TurnTiming] = []
        self.doubts: list[str] = []
        self.gaps: list[str] = []
        self.generated = 0  # by all streams of the timed turns
        self._session = session
        self._trial = trial
        self._slot_ctx = slot_ctx
        self._watch = watch
        self._decode_tps: float | None = None

    def warm_up(self) -> Failure | None:
        """One short turn that counts for nothing but the first guess of the speed."""
        self._watch("warm-up", None)
        turn, knobs = self._trial.turn, self._trial.knobs
        size = max(1, min(WARM_PROMPT, knobs.ubatch, turn.depth + turn.prompt_tokens))
        answer = self._ask(size, min(WARM_GENERATE, turn.generate), None)
        self._decode_tps = answer.decode_tps
        return answer.failure

    def repeat(self) -> Failure | None:
        """The timed turns: as many as asked for, fewer where they are slow."""
        turn, spent = self._trial.turn, 0.0
        for number in range(max(1, self._trial.repeats)):
            generate = affordable(turn.generate, self._decode_tps)
            answer = self._ask(self._room(turn.depth + turn.prompt_tokens, generate), generate, number)
            if answer.failure:
                return answer.failure
            self._note(answer)
            self.timings.append(timing(answer, turn, depth=turn.depth))
            self.generated += sum(reply.predicted_n for reply in answer.replies)
            self._decode_tps = answer.decode_tps or self._decode_tps
            spent += answer.seconds
            if spent + answer.seconds > REPEATS_BUDGET_S and number + 1 < self._trial.repeats:
                of = f"{number + 1} of {self._trial.repeats}"
                self.gaps.append(f"Repeats: {of}, since one turn takes {answer.seconds:.0f} s.")
                break
        return None

    def near_end(self) -> Failure | None:
        """One turn whose prompt nearly fills the context: its speed, and proof that a full context holds.

        A confirming repeat does without: the setting had its full context before, and the winner is soaked.
        """
        if self._trial.purpose.startswith("confirm"):
            return None
        size = self._room(self._slot_ctx - END_GENERATE - END_MARGIN, END_GENERATE)
        turn, last = self._trial.turn, self.timings[-1]
        if turn.depth + turn.prompt_tokens + last.generated >= END_FILL * self._slot_ctx:
            self.end_timings.append(last)
            return None
        seconds = (size / last.prompt_tps if last.prompt_tps else 0) + (
            END_GENERATE / last.decode_tps if last.decode_tps else 0
        )
        limit = END_LONGEST_S if self._trial.purpose.startswith(THOROUGH) else END_CHEAP_S
        if seconds > limit:
            self.gaps.append(
                f"Speed at the context's end: not measured, a full context takes about {seconds:.0f} s."
            )
            return None
        self._watch("full context", 0.0)
        answer = self._ask(size, END_GENERATE, None)
        if answer.failure:
            return answer.failure
        read = answer.replies[0].prompt_n or size
        self.end_timings.append(timing(answer, turn, depth=max(0, read - turn.prompt_tokens)))
        return None

    def _room(self, size: int, generate: int) -> int:
        """The size of a prompt, less where its answer might run over the context's end."""
        if self._session.exact:
            return size
        return max(1, min(size, self._slot_ctx - generate - loose_margin(self._slot_ctx)))

    def _ask(self, size: int, generate: int, number: int | None) -> Answer:
        repeats = max(1, self._trial.repeats)

        def progress(share: float) -> None:
            if number is not None:  # reading the prompt counts as half of a turn
                self._watch("prompt", (number + 0.5 * share) / repeats)

        def token(count: int) -> None:
            if number is not None:
                self._watch("decode", (number + 0.5 + 0.5 * min(1.0, count / generate)) / repeats)

        answer = self._session.ask(
            [size] * self._trial.knobs.parallel,
            generate=generate,
            timeout_s=TURN_TIMEOUT_S,
            on_token=token,
            on_progress=progress,
        )
        self.doubts += (doubt for doubt in answer.doubts if doubt not in self.doubts)
        return answer

    def _note(self, answer: Answer) -> None:
        if answer.cached:
            self.doubts.append(f"the engine took {answer.cached} prompt tokens from a cache")
        generated = min(reply.predicted_n for reply in answer.replies)
        if generated < FEW_TOKENS:
            self.doubts.append(f"the decoding speed rests on {generated} tokens only")
        if any(reply.truncated for reply in answer.replies):
            self.doubts.append("the engine cut the prompt")


def loose_margin(slot_ctx: int) -> int:
    """Tokens to leave free where a prompt's size is only learned: an answer must not run over the end.

    Measured with Gemma's tokenizer: a text has up to 3 in a hundred tokens more than the texts before it
    told, with some 1000 tokens up to 5; fewer by as much.
    """
    return END_MARGIN + slot_ctx // 32 + isqrt(slot_ctx)


def affordable(wanted: int, decode_tps: float | None) -> int:
    """Tokens to generate in a timed turn: the turn's own number, or what about 20 s bring."""
    if decode_tps is None:
        return wanted
    return min(wanted, max(MIN_GENERATE, int(DECODE_BUDGET_S * decode_tps)))


def timing(answer: Answer, turn: Turn, *, depth: int) -> TurnTiming:
    """The timing of one answer, its turn time by the rates that were measured."""
    first = answer.replies[0]
    prompt_tps, decode_tps = answer.prompt_tps, answer.decode_tps
    turn_s = (
        turn.prompt_tokens / prompt_tps + turn.generate / decode_tps if prompt_tps and decode_tps else None
    )
    return TurnTiming(
        depth=depth,
        prompt_tokens=first.prompt_n,
        generated=min(reply.predicted_n for reply in answer.replies),
        ttft_s=answer.ttft_s,
        prompt_tps=prompt_tps,
        decode_tps=decode_tps,
        turn_s=turn_s,
    )


def too_long(turn: Turn, knobs: KnobValues) -> str | None:
    """Why the turn can't be run with this context; None where it can."""
    need = turn.depth + turn.prompt_tokens + turn.generate
    if need <= knobs.num_ctx:
        return None
    return (
        f"A turn of {need} tokens (depth, prompt and answer) is longer than the context of {knobs.num_ctx}."
    )
