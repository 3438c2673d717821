"""Rounds of a soak: every slot is asked at once, again and again, with prompts of changing size.

The first round fills more than 90 % of every slot. Later ones go through smaller fills and through sizes
whose answers cross the context's 8192-token steps, where engines grow their buffers.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from narthex.engines._base import Failure
from narthex.host.sampler import Sample, Sampler
from narthex.outcomes import Outcome
from narthex.trials.endurance import NEEDED_FILL
from narthex.trials.probes import others_busy
from narthex.trials.session import Answer, Session
from narthex.trials.soak import Seen, SoakSample, SoakTurn
from narthex.trials.trial import Watch
from narthex.trials.turns import loose_margin

FULL = 0.92
"""Fill of the fullest prompts; the answer comes on top. A proof needs 0.90."""
FILLS = (FULL, 0.25, 0.75, FULL, 0.5)
"""The rounds' fills in turn: two of five are full, since that is where settings break."""
STEP = 8192
GENERATE = 64
MARGIN = 8
"""Tokens that stay free at the context's end."""
FILL_TRIES = 3
"""Full rounds that are asked at most until one is full enough, where a prompt's size is only learned."""
FIRST_LOOK = 512
"""Tokens of the prompt that such an engine is asked first, to learn how it counts."""
ROUND_TIMEOUT_S = 900.0
SAMPLE_S = 1.0


Check = Callable[[], Failure | None]


class Rounds:
    """Keeps one engine busy and writes what it sees into ``seen``."""

    def __init__(self, session: Session, slots: int, seen: Seen, watch: Watch) -> None:
        self._session = session
        self._slots = slots
        self._seen = seen
        self._watch = watch
        self._began = time.monotonic()
        self._size = 0  # prompt tokens of the fullest slot in this round
        self._fills: list[tuple[float, float]] = []  # (at_s, fill)

    def run(self, seconds: float, check: Check = lambda: None) -> None:
        """Ask until the time is up or something fails; at least one round.

        ``check`` is asked after each round whether something beside the engine failed.
        """
        seen = self._seen
        exact, engine = self._session.exact, self._session.engine
        generate = max(1, min(GENERATE, seen.slot_ctx // (16 if exact else 32)))
        plan = sizes(seen.slot_ctx, generate, exact=exact)
        with Sampler(lambda: engine.pid, SAMPLE_S, engine.cards_before) as sampler:
            self._began = time.monotonic()
            if not exact:
                self._first_look()
            while seen.failure is None and (self._fills_up() or self._now() < seconds):
                self._watch("soaking", min(1.0, self._now() / seconds) if seconds > 0 else None)
                number = 0 if self._fills_up() else len(seen.turns)
                self._round(chosen(plan, number, self._slots), generate)
                seen.failure = seen.failure or check()
        self._keep(sampler)

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _fills_up(self) -> bool:
        """Whether the context still has to be filled: one round does it where sizes are exact."""
        tries = 1 if self._session.exact else FILL_TRIES
        return len(self._seen.turns) < tries and self._seen.fill_max < NEEDED_FILL

    def _first_look(self) -> None:
        """One short prompt, so that the first full one has about the right size."""
        self._watch("warm-up", None)
        size = max(1, min(FIRST_LOOK, self._seen.slot_ctx // 4))
        answer = self._session.ask([size], generate=1, timeout_s=ROUND_TIMEOUT_S)
        self._take(answer)

    def _take(self, answer: Answer) -> None:
        seen = self._seen
        seen.errors += sum(reply.outcome is not Outcome.DONE for reply in answer.replies)
        seen.doubts += (doubt for doubt in answer.doubts if doubt not in seen.doubts)
        seen.failure = answer.failure

    def _round(self, sizes: tuple[int, ...], generate: int) -> None:
        began, self._size = self._now(), max(sizes)
        answer = self._session.ask(
            sizes,
            generate=generate,
            timeout_s=ROUND_TIMEOUT_S,
            on_token=self._token,
            on_progress=self._progress,
        )
        seen = self._seen
        seen.seconds = self._now()
        seen.longest_stall_s = max(seen.longest_stall_s, answer.longest_gap_s)
        self._take(answer)
        if seen.failure is None:
            seen.turns.append(_turn(answer, sizes, began, seen.seconds))
            held = [reply.context_n or size for reply, size in zip(answer.replies, sizes, strict=True)]
            # What counts is a full slot: the smallest of a round that fills them all.
            fill = min(held) if len(set(sizes)) == 1 else max(held)
            seen.fill_max = max(seen.fill_max, fill / seen.slot_ctx)

    def _token(self, count: int) -> None:
        self._fills.append((self._now(), (self._size + count) / self._seen.slot_ctx))

    def _progress(self, share: float) -> None:
        self._fills.append((self._now(), share * self._size / self._seen.slot_ctx))

    def _keep(self, sampler: Sampler) -> None:
        from narthex.host.collect import read_memory

        seen, fills = self._seen, sorted(self._fills)
        seen.samples = samples(sampler.series(), seen.turns, fills)
        seen.vram_free_bytes = sampler.latest().vram_free_bytes
        seen.ram_free_bytes = read_memory()[1] or None
        seen.others_busy = bool(seen.beside) or others_busy(sampler.peaks())
        if seen.beside and sampler.vram_doubt:
            seen.samples = tuple(msgspec.structs.replace(row, vram_bytes=None) for row in seen.samples)
            seen.doubts.append(f"the engine's GPU memory can't be told from that of {seen.beside}")


def sizes(slot_ctx: int, generate: int, *, exact: bool = True) -> list[int]:
    """Prompt sizes of the rounds, in turn: fills of the context, and starts just below each 8192-token step.

    ``exact``: whether prompts will have these sizes to the token.

    >>> sizes(4096, 64)
    [3768, 1024, 3072, 3768, 2048]
    """
    last, full = slot_ctx - generate - MARGIN, int(slot_ctx * FULL)
    if not exact:
        last = full = slot_ctx - generate - loose_margin(slot_ctx)
    fills = [max(1, min(last, full if share == FULL else int(slot_ctx * share))) for share in FILLS]
    return fills + [step - generate // 2 for step in range(STEP, last, STEP)]


def chosen(plan: Sequence[int], number: int, slots: int) -> tuple[int, ...]:
    """Sizes of one round: all slots full in the first, different fills side by side afterwards."""
    return tuple(plan[(number + slot) % len(plan)] if number else plan[0] for slot in range(slots))


def samples(
    series: Sequence[Sample], turns: Sequence[SoakTurn], fills: Sequence[tuple[float, float]]
) -> tuple[SoakSample, ...]:
    """The sampler's readings with the fill and the round's speed at each moment."""
    times = [at for at, _ in fills]
    ends = [turn.ended_s for turn in turns]
    found = []
    for sample in series:
        place, number = bisect_right(times, sample.at_s), bisect_right(ends, sample.at_s)
        found.append(
            SoakSample(
                at_s=sample.at_s,
                vram_bytes=sample.vram_bytes,
                ram_bytes=sample.ram_bytes,
                decode_tps=turns[number].decode_tps if number < len(turns) else None,
                fill=fills[place - 1][1] if place else None,
            )
        )
    return tuple(found)


def _turn(answer: Answer, sizes: tuple[int, ...], began_s: float, ended_s: float) -> SoakTurn:
    return SoakTurn(
        began_s=began_s,
        ended_s=ended_s,
        sizes=sizes,
        generated=min(reply.predicted_n for reply in answer.replies),
        decode_tps=answer.decode_tps,
    )
