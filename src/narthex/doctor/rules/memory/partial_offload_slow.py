"""A model that is simply larger than the card: some of its layers stay in main memory."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence, Hit
from narthex.doctor.finding import Finding, Remedy, RuledOut, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import placement, remedies, tenants
from narthex.doctor.rules.memory.placement import Placement, Reason
from narthex.doctor.rules.memory.tenants import Resident
from narthex.doctor.sign import Sign
from narthex.units import format_size

REMEDY = Remedy(
    text="Take a smaller quantisation or a smaller model, or accept the speed. Less context helps a little.",
    commands=remedies.lighter(),
    verify="All layers are on the GPU: «offloaded N/N layers to GPU», and «ollama ps» says «100% GPU».",
    verify_commands=(remedies.SHOW_RESIDENTS,),
)


NONE_FIT = Sign(r"not enough vram available|insufficient VRAM to load any model layers")
_MINE = (Reason.WEIGHTS, Reason.UNKNOWN, Reason.ASKED)


def check(evidence: Evidence) -> Iterator[Finding]:
    """From loads of the log; else from what is in memory now, or in «ollama ps»."""
    rows = [one for one in placement.placements(evidence) if one.reason in _MINE]
    if rows:
        yield _of_load(max(rows, key=lambda one: one.load.entry.line))
        return
    if placement.placements(evidence):
        return  # another reason is known
    for resident in tenants.residents(evidence):
        if resident.share is not None and 0 < resident.share < 0.99:
            yield _of_resident(resident)
            return
    hit = evidence.last(NONE_FIT)
    if hit is not None:
        yield _none_fits(hit)


def _of_load(found: Placement) -> Finding:
    load = found.load
    layers = f"{load.layers_on} of {load.layers_of} layers are on the GPU. " if load.layers_of else ""
    ruled_out = []
    if found.reason is Reason.WEIGHTS:
        why = (
            f"{layers}The weights take {format_size(found.weights_bytes)}, the cache "
            f"{format_size(found.kv_bytes)}, working buffers {format_size(found.graph_bytes)}; "
            f"{format_size(found.available_bytes)} were free."
        )
        ruled_out.append(
            RuledOut(
                cause="context_too_large",
                why=f"Even with {placement.LEAST_CTX} tokens of context it would not fit.",
            )
        )
    elif found.reason is Reason.ASKED:
        why = (
            f"{layers}{format_size(found.available_bytes)} were free, and all of it would have fitted: "
            "num_gpu asks for fewer layers, or Ollama reckoned too carefully."
        )
    else:
        free = f" {format_size(found.available_bytes)} were free." if found.available_bytes else ""
        why = f"{layers}The rest is computed by the CPU, many times slower.{free}"
    return Finding(
        cause="partial_offload_slow",
        title="A part of the model runs on the CPU: it is larger than the GPU's free memory",
        severity=Severity.WARNING,
        confidence={Reason.WEIGHTS: 0.85, Reason.ASKED: 0.5}.get(found.reason, 0.6),
        evidence=found.quotes,
        why=why,
        remedy=Remedy(
            text=REMEDY.text,
            commands=remedies.lighter(ctx=load.num_ctx),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        ruled_out=tuple(ruled_out),
        about=load.model,
    )


def _of_resident(resident: Resident) -> Finding:
    on = round(100 * (resident.share or 0))
    return Finding(
        cause="partial_offload_slow",
        title=f"{resident.model} runs partly on the CPU",
        severity=Severity.WARNING,
        confidence=0.6,
        evidence=(resident.quote,),
        why=(
            f"{on} % of its {format_size(resident.size_bytes)} are on the GPU; the rest is computed by the"
            " CPU."
        ),
        remedy=Remedy(
            text=REMEDY.text,
            commands=remedies.lighter(resident.model, resident.num_ctx),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        about=resident.model,
    )


def _none_fits(hit: Hit) -> Finding:
    return Finding(
        cause="partial_offload_slow",
        title="Not one layer fits on the GPU; the model runs on the CPU",
        severity=Severity.WARNING,
        confidence=0.6,
        evidence=(hit.quote(),),
        why="Ollama says that there is not enough free memory on the card for any layer.",
        remedy=REMEDY,
    )


RULE = Rule(
    slug="partial_offload_slow",
    title="The model is larger than the GPU's memory",
    area="memory",
    meaning=(
        "Only some layers fit on the GPU. The others are computed by the CPU, and every token waits for them."
    ),
    signature=("offloaded 20/33 layers to GPU", "PROCESSOR 35%/65% CPU/GPU"),
    certain="The weights alone are more than what was free on the card when it was loaded.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="context_too_large",
            how="The weights would fit; the cache for the context pushes layers off.",
        ),
        LookAlike(cause="num_parallel_multiplies_kv", how="With one slot it would fit."),
        LookAlike(
            cause="vram_contention_other_process",
            how="On the empty card it would fit; somebody else holds it.",
        ),
        LookAlike(
            cause="healthy", how="A host without a GPU says «offloaded 0/33» as well. That is no fault."
        ),
    ),
    signs=(NONE_FIT, *placement.SIGNS, *tenants.SIGNS),
    check=check,
    readings=("ollama.resident",),
)
