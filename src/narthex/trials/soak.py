"""The soak: minutes at a nearly full context before a setting counts as proven."""

from __future__ import annotations

import msgspec

from narthex.outcomes import Outcome


class SoakSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading while it soaks."""

    at_s: float
    vram_bytes: int | None
    ram_bytes: int | None
    decode_tps: float | None
    fill: float | None  # share of the slot's context in use, 0…1


class SoakReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a soak went. ``outcome`` is DONE when every limit held."""

    outcome: Outcome
    reason: str
    seconds: float
    turns: int
    errors: int
    longest_stall_s: float
    fill_max: float
    vram_growth_bytes: int | None
    ram_growth_bytes: int | None
    vram_slope_bytes_s: float | None
    ram_slope_bytes_s: float | None
    speed_drift: float | None  # last quarter's decode tokens/s over the first quarter's, −1
    samples: tuple[SoakSample, ...] = ()
