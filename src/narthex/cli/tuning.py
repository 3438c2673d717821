"""One live study from the command line: the question, the house's start point, the server's own ways."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from narthex.cli.bench import Bench

if TYPE_CHECKING:
    from narthex.engines.ollama.hand import Hand
    from narthex.journal.journal import Journal
    from narthex.knobs import KnobValues
    from narthex.studies.baselines import House
    from narthex.studies.live import ServerFacts
    from narthex.studies.proof import Soak
    from narthex.studies.records import Question, ServerProposal, StudyResult
    from narthex.tenants._base import Tenant
    from narthex.views.progress import Progress


class Tuning(NamedTuple):
    """What a study from the command line is made of, besides its bench."""

    journal: Journal
    question: Question
    screen: Progress
    tenant: Tenant | None = None
    fresh: bool = False


def study(tuning: Tuning, bench: Bench) -> StudyResult:
    """Answer the question on this bench; the answer is stored as a profile."""
    from narthex.studies.live import live_study

    target, journal = bench.target, tuning.journal
    return live_study(
        target.inspection,
        tuning.question,
        bench.runner,
        journal,
        engine=target.engine,
        host=bench.host,
        house=house_of(bench),
        current=current_of(tuning, bench),
        model=target.model,
        soak=_soak_of(tuning, bench),
        server=server_facts(bench),
        beside_bytes=_room_for(tuning),
        keep=lambda found: _keep(journal, found, bench),
        screen=tuning.screen,
        argv=sys.argv[1:],
        fresh=tuning.fresh,
    )


def house_of(bench: Bench) -> House:
    """The house defaults, and the policy's start point where it has one for this model."""
    from narthex.house import house_knobs
    from narthex.policy import load_policy
    from narthex.studies.baselines import House

    name = bench.target.model.served_as or bench.target.model.name
    start = house_knobs(name, layers=bench.target.inspection.layers)
    own = load_policy().for_model(name)
    return House(
        gpu_layers=start.gpu_layers or 0,
        batch=start.batch,
        num_ctx=start.num_ctx if own.num_ctx is not None else None,
        threads=start.threads,
    )


def current_of(tuning: Tuning, bench: Bench) -> KnobValues | None:
    """What the user has now: the newest profile of this model that can hold the turn, else what the model's
    own PARAMETERs make of it. A demo's profile counts in a demo only; in Ollama a profile is in use once it
    was applied, there and to this model."""
    from narthex.profiles.store import list_profiles

    target, question = bench.target, tuning.question
    need = question.turn.depth + question.turn.prompt_tokens + question.turn.generate
    for profile in list_profiles(tuning.journal):
        mine = (
            profile.model.identity == target.inspection.identity and profile.engine_kind == target.engine.kind
        )
        real = question.demo or not profile.demo
        used = target.server is None or (
            profile.applied_as is not None
            and profile.applied_to == target.server.url
            and profile.model.served_as == target.model.served_as
        )
        if mine and real and used and profile.knobs.num_ctx >= need:
            return profile.knobs
    return _parameters_of(bench) if target.server is not None else None


def _parameters_of(bench: Bench) -> KnobValues | None:
    """The user's own setting of a model in Ollama; None where it has no PARAMETER that a load depends on."""
    from narthex.cli.served_plan import own_parameters
    from narthex.engines.ollama.defaults import own_load
    from narthex.engines.ollama.logs import open_log
    from narthex.engines.ollama.options import NAMES

    target = bench.target
    assert target.server is not None
    parameters, _ = own_parameters(target)
    if not set(NAMES) & set(parameters):
        return None
    train = target.inspection.context_train
    log = open_log(target.server)
    return own_load(target.server, target.engine, parameters, context_train=train, log=log).knobs


def server_facts(bench: Bench) -> ServerFacts | None:
    """What a study has to know of an Ollama; None for an engine that narthex starts itself."""
    from narthex.studies.live import ServerFacts

    server = bench.target.server
    if server is None:
        return None
    from narthex.engines.ollama.defaults import server_ctx
    from narthex.engines.ollama.eras import automatic_batch
    from narthex.engines.ollama.logs import open_log

    version = server.version
    return ServerFacts(
        version=version,
        env=server.env if server.env_source else None,
        automatic_batch=lambda total_ctx: automatic_batch(version, total_ctx),
        default_ctx=server_ctx(server, bench.target.engine, open_log(server))[0],
    )


def _soak_of(tuning: Tuning, bench: Bench) -> Soak | None:
    tenant = tuning.tenant
    if tenant is None:
        return None
    from narthex.trials.soak import soak

    return lambda trial, seconds, watch: soak(
        bench.runner, trial, seconds=seconds, watch=watch, beside=tenant
    )


def _room_for(tuning: Tuning) -> int:
    """VRAM that the tenant takes at its most, beyond what it holds anyway: measured in one of its jobs."""
    tenant = tuning.tenant
    if tenant is None:
        return 0
    from narthex.units import format_size

    tuning.screen.note(f"measuring what {tenant.describe()} needs")
    held = tenant.held_bytes() or 0
    peak = tenant.measure(tuning.screen.watch)
    for gap in peak.gaps:
        tuning.screen.note(gap)
    if peak.bytes is None:
        return 0
    tuning.screen.note(f"{tenant.name} takes up to {format_size(peak.bytes)} ({peak.source}): kept free")
    return max(0, peak.bytes - held)


def _keep(journal: Journal, result: StudyResult, bench: Bench) -> str:
    """Store the answer as a profile; returns its name. It takes the place of an older one of that name, whose
    tuned model in Ollama it goes on to know."""
    from narthex.cli.served_plan import own_parameters
    from narthex.profiles.choose import profile_from
    from narthex.profiles.store import list_profiles, save_profile, with_own_name

    target = bench.target
    profile = with_own_name(journal, profile_from(result, engine=target.engine, host=bench.host))
    if (server := target.server) is not None:
        profile = msgspec.structs.replace(
            profile,
            server_url=server.url if server.source == "flag" else None,
            base_parameters=own_parameters(target)[0],
        )
    for older in list_profiles(journal):
        if older.name == profile.name:
            made = {name: getattr(older, name) for name in ("applied_as", "applied_to", "applied_digest")}
            profile = msgspec.structs.replace(profile, **made)
    return save_profile(journal, profile).name


# Settings of the whole server, where it may be started anew.


def with_server_settings(
    tuning: Tuning, bench: Bench, result: StudyResult, hand: Hand, anew: Callable[[Any], Bench]
) -> StudyResult | None:
    """The same question on the server with the best proposed setting; None where none is worth a restart.

    ``anew`` makes a bench of the server as it is after the restart. Afterwards the server is as it was: its
    settings are the user's to change.
    """
    proposal = best_proposal(result)
    if proposal is None or not result.finished:
        return None
    screen = tuning.screen
    screen.note(f"starting {hand.words} anew with {proposal.words}: {proposal.why}")
    try:
        server = hand.set_env(proposal.env)
        return study(tuning._replace(question=_under(tuning.question, proposal)), anew(server))
    finally:
        screen.note(f"starting {hand.words} anew as it was")
        hand.restore()


def best_proposal(result: StudyResult) -> ServerProposal | None:
    """The best one that a study can measure: it fixes a knob, and promises a faster turn or more context."""
    from narthex.views.figures import server_proposals

    rows = server_proposals(result)
    return next((row for row in rows if row.fixed and row.gain_of in ("turn", "context")), None)


def _under(question: Question, proposal: ServerProposal) -> Question:
    """The question as it is asked of the restarted server: its KV type is allowed."""
    kv_type = proposal.fixed.get("kv_type")
    if kv_type is None or kv_type in question.allow_kv:
        return question
    return msgspec.structs.replace(question, allow_kv=(*question.allow_kv, kv_type))
