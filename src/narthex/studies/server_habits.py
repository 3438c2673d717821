"""How a server behaves beside the knobs: what it leaves free, how much context it takes unasked, how long it
keeps a model, how much main memory it keeps prompts in. Each is a proposal where it should help. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from statistics import median

from narthex.engines.ollama import eras, variables
from narthex.engines.ollama.durations import default_keep_alive
from narthex.knobs import KnobValues
from narthex.memory import overhead
from narthex.memory.frontier import most_layers
from narthex.memory.plan import plan_memory
from narthex.outcomes import Outcome
from narthex.studies.limits import engines_own
from narthex.studies.live_space import cpu_share
from narthex.studies.outlook import EVERYONE, WORTH, Known, Outlook
from narthex.studies.records import ServerProposal
from narthex.studies.space import Candidate
from narthex.units import GIB, MIB, format_duration, format_size

CACHE_STEPS = (4096, 2048, 1024, 512, 256, 0)  # MiB
HOST_ROOM = GIB  # main memory that stays free beside all of it
KEPT_LONG_S = 12 * 3600.0  # kept for half a day is as good as kept for ever
_FIT_STEP = 64 * MIB
_OWN = "Ollama's own placement"


def habit_proposals(known: Known, env: Mapping[str, str], version: str) -> Iterator[ServerProposal]:
    """What of these should help. ``env``: the server's variables; ``version``: of Ollama."""
    if known.measured is None:
        return
    if eras.has(version, "fit"):
        yield from _fit_target(known, env)
        yield from _cache_ram(known, known.measured, env)
    if eras.has(version, "context_length"):
        yield from _default_context(known, known.measured, env)
    yield from _keep_alive(known, known.measured, env)


def own_turn(known: Known, num_ctx: int, target: int) -> tuple[float, int] | None:
    """(seconds a turn, layers) of the engine's own placement at a context, with ``target`` bytes left free.

    None where that can't be told: no GPU, or a mixture of experts, which the engine splits in its own way.
    """
    machine, inspection = known.machine, known.inspection
    if machine.gpu is None or inspection.experts or not known.model.samples:
        return None
    knobs = _own(known, num_ctx)
    layers = most_layers(
        inspection,
        knobs,
        machine.devices,
        # what the engine takes once it computes is not there yet when it chooses
        reserve_bytes=target - overhead.CUDA_RUNTIME,
        calibration=machine.calibration,
    )
    if layers is None:
        return None
    placed = knobs.with_(gpu_layers=layers, threads=machine.cores)
    share = cpu_share(inspection, placed, known.question)
    return known.model.predict(Candidate(knobs=placed, cpu_share=share)).turn_s, layers


def _own(known: Known, num_ctx: int) -> KnobValues:
    machine = known.machine
    return engines_own(num_ctx, known.question.parallel, machine.limits, machine.automatic_batch)


def _fit_target(known: Known, env: Mapping[str, str]) -> Iterator[ServerProposal]:
    """Ollama's own placement leaves 1 GiB free: more than is needed costs layers."""
    now = variables.fit_target(env)
    wanted = ceil((known.machine.reserve + overhead.CUDA_RUNTIME) / _FIT_STEP) * _FIT_STEP
    if now is None or wanted >= now:
        return
    num_ctx = known.space.min_ctx
    before, after = own_turn(known, num_ctx, now), own_turn(known, num_ctx, wanted)
    if before is None or after is None or before[0] / after[0] <= 1 + WORTH:
        return
    yield ServerProposal(
        factor="fit_target",
        env={variables.FIT_TARGET: str(wanted // MIB)},
        knobs=_own(known, num_ctx),
        turn_s=after[0],
        over=_OWN,
        over_turn_s=before[0],
        over_ctx=num_ctx,
        gain=before[0] / after[0],
        why=f"It leaves {format_size(now)} of the card free, and {format_size(wanted)} are enough: "
        f"GPU layers {before[1]} → {after[1]}. It helps models that run without num_gpu.",
        cost=f"{EVERYONE} A program that takes GPU memory later has less left.",
    )


def _default_context(known: Known, here: Outlook, env: Mapping[str, str]) -> Iterator[ServerProposal]:
    """Clients that ask for no context get the server's, which may be far more than the card has room for."""
    now = variables.context_length(env) or known.machine.default_ctx
    target = variables.fit_target(env)
    if now is None or target is None:
        return
    now, wanted = min(now, known.inspection.context_train or now), here.knobs.num_ctx
    before, after = own_turn(known, now, target), own_turn(known, wanted, target)
    if wanted >= now or before is None or after is None or before[0] / after[0] <= 1 + WORTH:
        return
    yield ServerProposal(
        factor="num_ctx",
        env={variables.CONTEXT_LENGTH: str(wanted)},
        knobs=_own(known, wanted),
        turn_s=after[0],
        over=f"{_OWN} with the server's context of {now}",
        over_turn_s=before[0],
        over_ctx=now,
        gain=before[0] / after[0],
        why=f"A client that asks for no context gets {now} tokens, and {before[1]} layers fit beside them; "
        f"beside {wanted} it is {after[1]}.",
        cost=f"{EVERYONE} Those that set no num_ctx get this context.",
    )


def _keep_alive(known: Known, here: Outlook, env: Mapping[str, str]) -> Iterator[ServerProposal]:
    """After a pause the model is gone, and the next turn waits for a load."""
    kept = default_keep_alive(env.get(variables.KEEP_ALIVE, ""))
    done = [row.observation for row in known.history if row.observation.outcome is Outcome.DONE]
    loads = [seen.load_s for seen in done if seen.load_s]
    if kept is None or kept >= KEPT_LONG_S or not loads or known.question.beside:
        return
    load_s = median(loads)
    if load_s / here.turn_s <= WORTH:
        return
    held = max((seen.peaks.vram_bytes or 0 for seen in done), default=0)
    yield ServerProposal(
        factor="keep_alive",
        env={variables.KEEP_ALIVE: "-1"},
        knobs=here.knobs,
        turn_s=here.turn_s,
        over=f"the first turn after {format_duration(kept)} without one",
        over_turn_s=here.turn_s + load_s,
        over_ctx=here.knobs.num_ctx,
        gain=(here.turn_s + load_s) / here.turn_s,
        gain_of="first turn",
        why=f"A load takes {format_duration(load_s)}, and is needed again after each such pause.",
        cost=f"{EVERYONE} Each stays loaded until another needs its place"
        + (f", this one with up to {format_size(held)} of the card." if held else "."),
    )


def _cache_ram(known: Known, here: Outlook, env: Mapping[str, str]) -> Iterator[ServerProposal]:
    """Each runner may keep up to 8 GiB of prompts in main memory, whatever there is."""
    now, machine = variables.cache_ram(env), known.machine
    free = machine.devices[-1].free_bytes
    if now is None or free is None:
        return
    plan = plan_memory(known.inspection, here.knobs, machine.devices, calibration=machine.calibration)
    left = free - plan.devices[-1].need_bytes - HOST_ROOM
    wanted = next((step for step in CACHE_STEPS if step * MIB <= left), 0)
    if now <= left or wanted * MIB >= now:
        return
    yield ServerProposal(
        factor="cache_ram",
        env={variables.CACHE_RAM: str(wanted)},
        knobs=here.knobs,
        over="what it may take now",
        gain_of="memory",
        why=f"Beside the model {format_size(max(left, 0))} of main memory can be spared, and its store of "
        f"old prompts may grow to {format_size(now)}: then the kernel ends a process.",
        cost=f"{EVERYONE} Prompts that are not kept are read again.",
    )
