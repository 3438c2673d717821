"""The soak: minutes at a nearly full context before a setting counts as proven.

:mod:`narthex.trials.rounds` keeps the engine busy, :mod:`narthex.trials.endurance` judges what was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from narthex.engines._base import Failure, LaunchFailed
from narthex.outcomes import Outcome
from narthex.trials.trial import Trial, Watch

if TYPE_CHECKING:
    from narthex.trials.runner import EngineRunner


class SoakSample(msgspec.Struct, frozen=True, kw_only=True):
    """One reading while it soaks."""

    at_s: float
    vram_bytes: int | None
    ram_bytes: int | None
    decode_tps: float | None  # of one stream, in the round that ran then
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
    speed_drift: float | None  # last quarter's decode tokens/s over the first quarter's at equal fill, −1
    samples: tuple[SoakSample, ...] = ()
    beside: str = ""  # the tenant whose jobs ran meanwhile
    jobs: int | None = None  # of it, that ended well; None where there was no tenant
    doubts: tuple[str, ...] = ()


class SoakTurn(msgspec.Struct, frozen=True, kw_only=True):
    """One finished round: its prompt tokens for each slot, and the speed of one stream."""

    began_s: float
    ended_s: float
    sizes: tuple[int, ...]
    generated: int
    decode_tps: float | None


class Seen(msgspec.Struct, kw_only=True):
    """All that a soak has seen; grows while it runs."""

    slot_ctx: int
    seconds: float = 0.0
    turns: list[SoakTurn] = []
    doubts: list[str] = []
    beside: str = ""
    jobs: int | None = None
    samples: tuple[SoakSample, ...] = ()
    failure: Failure | None = None
    errors: int = 0
    longest_stall_s: float = 0.0
    fill_max: float = 0.0
    vram_free_bytes: int | None = None  # at the end, on the fullest card
    ram_free_bytes: int | None = None  # at the end
    others_busy: bool = False  # other programs worked enough to slow the engine


def soak(runner: EngineRunner, trial: Trial, *, seconds: float, watch: Watch) -> SoakReport:
    """Load the setting and keep it busy for ``seconds``, all slots at once.

    Failures are data; only KeyboardInterrupt gets out. It may take longer than asked: the first round, which
    fills the context, is always waited for, up to 15 minutes.
    """
    from narthex.trials.endurance import conclude
    from narthex.trials.rounds import Rounds
    from narthex.trials.runner import slot_ctx
    from narthex.trials.session import Session

    seen = Seen(slot_ctx=trial.knobs.num_ctx)
    watch("loading", None)
    try:
        with runner.launch(trial, watch) as engine:
            seen.slot_ctx = slot_ctx(engine, trial.knobs)
            Rounds(Session(engine, runner.prompts_for(trial)), trial.knobs.parallel, seen, watch).run(seconds)
    except LaunchFailed as failed:
        seen.failure, seen.errors = failed.failure, 1
    return conclude(seen)
