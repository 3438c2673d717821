"""``Observation``: what was measured in one trial, every repeat kept, with its doubts."""

from __future__ import annotations

from statistics import median

import msgspec

from narthex.engines._base import LoadReport
from narthex.outcomes import Outcome


class TurnTiming(msgspec.Struct, frozen=True, kw_only=True):
    """One timed turn, from the engine's own timings and our clock."""

    depth: int  # tokens in the context before the timed prompt
    prompt_tokens: int  # processed in this turn, those of the depth counted, none from a cache
    generated: int
    ttft_s: float | None
    prompt_tps: float | None
    decode_tps: float | None
    turn_s: float | None  # at the trial's Turn


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """Maxima while the trial ran. None: the probe could not tell (see ``Observation.gaps``)."""

    vram_bytes: int | None = None  # of the engine's own process
    vram_card_bytes: int | None = None  # of the whole card
    vram_free_min_bytes: int | None = None
    ram_bytes: int | None = None  # resident set of the engine
    temperature_c: float | None = None
    power_w: float | None = None
    sm_clock_min_mhz: int | None = None
    load_1m: float | None = None


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a trial. ``reason`` is the line that proves a failure, or one sentence on success."""

    outcome: Outcome
    reason: str = ""
    load_s: float | None = None
    turns: tuple[TurnTiming, ...] = ()
    end_turns: tuple[TurnTiming, ...] = ()  # near the context's end
    report: LoadReport | None = None
    peaks: Peaks = Peaks()
    joules: float | None = None
    tokens_per_joule: float | None = None
    bandwidth_share: float | None = None  # decode bytes a second over the memory bandwidth (roofline)
    requested_bytes: int | None = None  # the allocation that failed
    counts_as_load: bool = True  # False where a recording answers without a load
    doubts: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    def _median(self, name: str) -> float | None:
        values = [value for turn in self.turns if (value := getattr(turn, name)) is not None]
        return median(values) if values else None

    @property
    def turn_s(self) -> float | None:
        """Median seconds of a turn."""
        return self._median("turn_s")

    @property
    def decode_tps(self) -> float | None:
        """Median decode tokens/s."""
        return self._median("decode_tps")

    @property
    def prompt_tps(self) -> float | None:
        """Median prompt tokens/s."""
        return self._median("prompt_tps")

    @property
    def ttft_s(self) -> float | None:
        """Median time to first token in seconds."""
        return self._median("ttft_s")

    @property
    def spread(self) -> float | None:
        """(largest − smallest) / median of the turn times; None below two repeats."""
        values = [turn.turn_s for turn in self.turns if turn.turn_s is not None]
        return (max(values) - min(values)) / median(values) if len(values) > 1 else None
