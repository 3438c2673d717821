"""What settings of the whole server would bring: predicted by the plan and the study's own cost model. Pure.

A load can't change them: they are environment variables, read when the server starts, and count for all of
its models. So they are proposals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from narthex.engines._base import Limits
from narthex.engines.ollama import eras, variables
from narthex.models.inspection import Inspection
from narthex.studies.live_space import Machine
from narthex.studies.outlook import EVERYONE, WORTH, Known, Outlook
from narthex.studies.records import Goal, Question, ServerProposal
from narthex.studies.server_habits import habit_proposals
from narthex.studies.space import Space
from narthex.trials.trial import TrialRecord

_QUALITY = {
    "f16": "The cache takes its full size.",
    "q8_0": "Answers change very little; decoding takes a few per cent longer where all fits anyway.",
    "q4_0": "Answers get worse, the more so in long contexts.",
}


class _Change(msgspec.Struct, frozen=True, kw_only=True):
    """A server-wide knob turned."""

    factor: str
    env: dict[str, str]
    fixed: dict[str, Any]
    cost: str


def proposals(  # noqa: PLR0917 - what is known, from the model outwards
    inspection: Inspection,
    machine: Machine,
    question: Question,
    history: Sequence[TrialRecord],
    limits: Limits,
    env: Mapping[str, str] | None,
    *,
    version: str | None = None,
    space: Space | None = None,
) -> tuple[ServerProposal, ...]:
    """Server-wide settings that should bring more than 5 %, the best first; none that holds already.

    ``machine`` with the calibration that the study has learned. ``env``: the server's variables as far as
    they are set; None where they are not known, and then only what ``limits`` tell is used. ``version``: of
    an Ollama, since what reaches the engine depends on it. ``space``: the study's own, where it is made.
    """
    known = Known(inspection, msgspec.structs.replace(machine, limits=limits), question, history, space)
    found: list[ServerProposal] = []
    if version is None or eras.has(version, "kv_cache_type"):
        found += _knob_proposals(known)
    if env is not None and version is not None:
        found += habit_proposals(known, env, version)
    return tuple(sorted(found, key=lambda row: (row.gain_of not in {"turn", "context"}, -(row.gain or 0.0))))


def _knob_proposals(known: Known) -> Iterator[ServerProposal]:
    """KV type, flash attention and slots: the same search space with another value.

    What could be had without a restart is no gain of one, even where it was not tried; nor is what the
    prediction itself doubts.
    """
    changes = list(_changes(known.machine.limits, known.question))
    if not changes or (here := known.measured) is None:
        return
    untried = known.predicted
    least = max(here.utility, untried.utility if untried else here.utility) + WORTH
    for change in changes:
        there = known.under(change.fixed).predicted
        if there is None:
            continue
        # under «longest» utility is context, which is planned and not timed
        doubt = 0.0 if known.question.goal is Goal.LONGEST else there.sigma
        if there.utility - doubt > least:
            yield _proposal(known.question, change, here, there)


def _changes(limits: Limits, question: Question) -> Iterator[_Change]:
    fixed = limits.fixed
    flash = fixed.get("flash_attn", "auto")
    if flash == "off":
        yield _Change(
            factor="flash_attn",
            env={variables.FLASH_ATTENTION: "1"},
            fixed={"flash_attn": "on"},
            cost=f"{EVERYONE} On some older cards it is slower.",
        )
    for kv_type in question.allow_kv if "kv_type" in fixed else ():
        if kv_type == fixed["kv_type"]:
            continue
        env, turned = {variables.KV_CACHE_TYPE: kv_type}, {"kv_type": kv_type}
        if kv_type != "f16" and flash != "on":
            env[variables.FLASH_ATTENTION], turned["flash_attn"] = "1", "on"  # it refuses to load without
        yield _Change(factor="kv_type", env=env, fixed=turned, cost=f"{EVERYONE} {_QUALITY[kv_type]}")
    if fixed.get("parallel", 1) > 1:
        yield _Change(
            factor="parallel",
            env={variables.NUM_PARALLEL: "1"},
            fixed={"parallel": 1},
            cost=f"{EVERYONE} Each answers one request at a time then, and the others wait.",
        )


def _proposal(question: Question, change: _Change, here: Outlook, there: Outlook) -> ServerProposal:
    faster, longer = here.turn_s / there.turn_s, there.knobs.num_ctx / here.knobs.num_ctx
    by_context = longer > 1 and (question.goal is Goal.LONGEST or faster <= 1 + WORTH)
    return ServerProposal(
        factor=change.factor,
        env=change.env,
        fixed=change.fixed,
        knobs=there.knobs,
        turn_s=there.turn_s,
        over="the best that was measured",
        over_turn_s=here.turn_s,
        over_ctx=here.knobs.num_ctx,
        gain=longer if by_context else faster,
        gain_of="context" if by_context else "turn",
        why=_why(here, there),
        cost=change.cost,
    )


def _why(here: Outlook, there: Outlook) -> str:
    room = []
    if there.layers is not None and there.layers > (here.layers or 0):
        before = "what was placed" if here.layers is None else str(here.layers)
        room.append(f"{there.layers} GPU layers instead of {before}")
    if there.knobs.num_ctx > here.knobs.num_ctx:
        room.append(f"a context of {there.knobs.num_ctx} instead of {here.knobs.num_ctx}")
    return f"It makes room for {' and '.join(room)}." if room else "The model computes faster with it."
