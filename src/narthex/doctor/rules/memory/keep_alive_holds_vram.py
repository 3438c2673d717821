"""A big model is kept for long, and something else lacks the room."""

from __future__ import annotations

from collections.abc import Iterator

from narthex.doctor.evidence import Evidence
from narthex.doctor.finding import Command, Finding, Quote, Remedy, Severity
from narthex.doctor.rule import LookAlike, Rule
from narthex.doctor.rules.memory import failures, oom_signs, placement, remedies, tenants, torch_oom
from narthex.doctor.rules.memory.placement import Reason
from narthex.doctor.rules.memory.tenants import Resident
from narthex.doctor.sign import Sign
from narthex.units import GIB, format_size

FOR_EVER = Sign(r"OLLAMA_KEEP_ALIVE[:=]\"?(?P<span>-\d+\w*|2562047h\S*)", words=["ollama_keep_alive"])
_LONG_S = 1800.0

REMEDY = Remedy(
    text="Let the model go, and keep it for less time from now on.",
    commands=(
        Command(text="ollama stop MODEL", safe=False),
        Command(
            text="Set OLLAMA_KEEP_ALIVE=5m for the service and restart it",
            safe=False,
            note="a «keep_alive» in a client's request beats it, until another one is sent",
        ),
    ),
    verify="«ollama ps» does not list the model any more, and the card has its memory back.",
    verify_commands=(remedies.SHOW_RESIDENTS, remedies.SHOW_CARD),
)


def check(evidence: Evidence) -> Iterator[Finding]:
    """A model that stays, and somebody who lacks its room."""
    trouble = _trouble(evidence)
    staying = [
        one
        for one in tenants.residents(evidence)
        if (one.vram_bytes or 0) > GIB and (one.forever or (one.seconds_left or 0) > _LONG_S)
    ]
    starved = [
        one
        for one in tenants.residents(evidence)
        if one.share is not None and one.share < 0.99 and one.model not in {row.model for row in staying}
    ]
    if staying and (trouble or starved):
        needy = starved[0].quote if starved else trouble[0]
        yield _finding(evidence, staying, needy)
        return
    hit = evidence.last(FOR_EVER)
    if hit is not None and trouble and not evidence.has_kind("host"):
        yield Finding(
            cause="keep_alive_holds_vram",
            title="Ollama is told to keep models for ever, and memory runs out",
            severity=Severity.WARNING,
            confidence=0.4,
            evidence=(hit.quote(), trouble[0]),
            why="OLLAMA_KEEP_ALIVE is without end, so a model never leaves the card by itself.",
            remedy=REMEDY,
        )


def _trouble(evidence: Evidence) -> tuple[Quote, ...]:
    """Where another program, or another model, did not get its memory."""
    reports = [one for one in torch_oom.torch_ooms(evidence) if not one.is_empty]
    if reports:
        return reports[-1].quotes
    rows = [one for one in placement.placements(evidence) if one.reason is Reason.NEIGHBOURS]
    if rows:
        return rows[-1].quotes
    failed = [one for one in failures.failures(evidence) if not (one.recovered or one.over or one.single)]
    return failed[-1].quotes if failed and (failed[-1].asked_bytes or 0) < failures.ABSURD else ()


def _finding(evidence: Evidence, staying: list[Resident], needy: Quote) -> Finding:
    names = ", ".join(f"{one.model} ({format_size(one.vram_bytes)})" for one in staying)
    return Finding(
        cause="keep_alive_holds_vram",
        title=f"{staying[0].model} stays on the GPU for long, and others lack the room",
        severity=Severity.WARNING,
        confidence=0.6,
        evidence=(*(one.quote for one in staying[:2]), needy),
        why=f"Kept {'for ever' if staying[0].forever else 'for more than half an hour'}: {names}.",
        remedy=Remedy(
            text=REMEDY.text,
            commands=(*(remedies.unload(evidence, one) for one in staying), REMEDY.commands[1]),
            verify=REMEDY.verify,
            verify_commands=REMEDY.verify_commands,
        ),
        about=staying[0].model,
    )


RULE = Rule(
    slug="keep_alive_holds_vram",
    title="A model is kept, and holds the card",
    area="memory",
    meaning=(
        "A keep-alive of −1 or of hours keeps a model on the card though nobody asks it. Other programs, such"
        " as ComfyUI, can not push it off."
    ),
    signature=("«ollama ps» says Forever", "OLLAMA_KEEP_ALIVE:2562047h47m16.854775807s"),
    certain="The model is idle, and what failed would have fitted into its room.",
    remedy=REMEDY,
    look_alikes=(
        LookAlike(
            cause="vram_contention_comfyui_ollama", how="That is the quarrel; this is why it does not end."
        ),
        LookAlike(cause="keep_alive_unload_reload", how="The contrary: the model leaves too early."),
    ),
    signs=(FOR_EVER, *oom_signs.ALL, *placement.SIGNS, *tenants.SIGNS, *torch_oom.SIGNS),
    check=check,
    readings=("ollama.resident",),
)
