"""The soak: minutes at a nearly full context before a setting counts as proven.

:mod:`narthex.trials.rounds` keeps the engine busy, :mod:`narthex.trials.endurance` judges what was seen.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from narthex.engines._base import Failure, LaunchFailed
from narthex.outcomes import Outcome
from narthex.trials.trial import Trial, Watch

if TYPE_CHECKING:
    from narthex.tenants._base import JobsReport, Tenant
    from narthex.trials.rounds import Rounds
    from narthex.trials.runner import EngineRunner


class SoakLimit(StrEnum):
    """What a soak broke, so that it is known what may help."""

    ENGINE = "engine"  # it failed, or a request did: the outcome says how
    TENANT = "tenant"  # a job beside it failed
    GPU_MEMORY = "gpu_memory"  # kept growing
    MAIN_MEMORY = "main_memory"  # kept growing
    SPEED = "speed"  # decoding became slower
    FILL = "fill"  # the context was never full


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
    broke: SoakLimit | None = None  # None: every limit held, or it is from before this was kept


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
    tenant_failed: bool = False  # the failure is that of a job beside the engine
    errors: int = 0
    longest_stall_s: float = 0.0
    fill_max: float = 0.0
    vram_free_bytes: int | None = None  # at the end, on the fullest card
    ram_free_bytes: int | None = None  # at the end
    ram_cache_bytes: int = 0  # that the engine may fill with old prompts
    others_busy: bool = False  # other programs worked enough to slow the engine


def soak(
    runner: EngineRunner, trial: Trial, *, seconds: float, watch: Watch, beside: Tenant | None = None
) -> SoakReport:
    """Load the setting and keep it busy for ``seconds``, all slots at once.

    ``beside``: another program on the card whose jobs run meanwhile, one after the other; it must not fail
    either. Failures are data; only KeyboardInterrupt gets out, and TenantError where none of its jobs ever
    ran, which says nothing of the setting. It may take longer than asked: the first round, which fills the
    context, is always waited for, up to 15 minutes. Where the server goes down and comes back, the soak
    begins anew.
    """
    from narthex.trials.endurance import conclude
    from narthex.trials.runner import RETURNS

    downs = 0
    while True:
        seen = _once(runner, trial, seconds, watch, beside)
        down = seen.failure is not None and seen.failure.outcome is Outcome.SERVER_DOWN
        if not down or downs == RETURNS or not runner.came_back(watch):
            break
        downs += 1
    if downs:
        seen.doubts.append("the server went down under way, and the soak began anew")
    return conclude(seen)


def _once(runner: EngineRunner, trial: Trial, seconds: float, watch: Watch, beside: Tenant | None) -> Seen:
    from narthex.trials.rounds import Rounds
    from narthex.trials.runner import slot_ctx
    from narthex.trials.session import Session

    seen = Seen(slot_ctx=trial.knobs.num_ctx)
    try:
        with runner.launch(trial, watch) as engine:
            seen.slot_ctx = slot_ctx(engine, trial.knobs)
            seen.ram_cache_bytes = engine.ram_cache_bytes
            session = Session(engine, runner.prompts_for(trial))
            rounds = Rounds(session, trial.knobs.parallel, seen, watch)
            if beside is None:
                rounds.run(seconds)
            else:
                _run_beside(beside, rounds, seen, seconds)
            if words := engine.disturbed():
                seen.doubts.append(words)
    except LaunchFailed as failed:
        seen.failure, seen.errors = failed.failure, 1
    return seen


def _run_beside(tenant: Tenant, rounds: Rounds, seen: Seen, seconds: float) -> None:
    """The rounds, while the tenant's jobs run. The first of its failures ends them. Raises TenantError where
    no job ran at all: then nothing is known of the setting."""
    seen.beside, seen.jobs = tenant.name, 0
    with tenant.job() as work:
        rounds.run(seconds, check=lambda: _failed_job(tenant, work.report()))
    report = work.report()
    seen.jobs = report.done
    failed = _failed_job(tenant, report)
    seen.failure = seen.failure or failed
    seen.tenant_failed = failed is not None and seen.failure == failed


def _failed_job(tenant: Tenant, report: JobsReport) -> Failure | None:
    if not report.failed and not report.ended:
        return None
    words = report.ended or "; ".join(report.words)
    return Failure(
        outcome=Outcome.UNSTABLE, line=f"A job of {tenant.name} beside it failed: {words.rstrip('.')}."
    )
