"""``narthex apply``: a profile as a tuned model in Ollama, proven by loading it without any option."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from narthex.cli.bench import ONE_TRIAL_S, bench, translated
from narthex.cli.card_lease import ending_in
from narthex.cli.options import json_option, ollama_option, plain_option
from narthex.errors import EngineError, ExitCode, ProfileError
from narthex.outcomes import Outcome

if TYPE_CHECKING:
    from narthex.cli.bench import Bench
    from narthex.cli.target import Target
    from narthex.engines.ollama.api import Api
    from narthex.journal.journal import Journal
    from narthex.profiles.express import Expressed
    from narthex.profiles.profile import Profile
    from narthex.profiles.tuned import Tuning
    from narthex.profiles.verify import Verification
    from narthex.trials.observation import Observation
    from narthex.views.progress import Progress


@click.command()
@click.argument("profile")
@click.option("--as", "name", metavar="NAME", help="The tuned model's name.  [default: MODEL-narthex]")
@click.option("--nearest", is_flag=True, help="Where Ollama can't say it all: apply the nearest that it can.")
@ollama_option
@plain_option
@json_option
def command(profile: str, name: str | None, nearest: bool, ollama: str | None, **show: Any) -> int:
    """Make the tuned model of a profile in Ollama, and prove it.

    PROFILE is its name, the beginning of it, or its model. Your own model is not changed: the tuned one
    shares its weights and adds parameters. It is loaded once without any option and measured; where it
    does not behave as the profile says, it is taken away again. Exit code 0: it stands; 1: it does not.
    """
    from narthex.journal.journal import Journal
    from narthex.profiles.store import load_profile
    from narthex.views.progress import Progress

    with Journal.open() as journal:
        journal.must_be_writable()
        stored = load_profile(journal, profile)
        job = _prepare(journal, stored, name, nearest, ollama)
        title = f"{job.profile.name}: the tuned model «{job.tuning.name}» in Ollama {job.api.url}"
        with Progress(title, 1, plain=show["plain"]) as progress:
            done = _apply(journal, job, progress)
    if show["as_json"]:
        click.echo(msgspec.json.format(msgspec.json.encode(_as_data(job, done)), indent=2).decode())
    else:
        click.echo(_as_text(job, done))
    return int(ExitCode.OK if done.holds else ExitCode.FAILURE)


class _Job(NamedTuple):
    """What shall be made."""

    profile: Profile  # with the setting that Ollama is given
    target: Target  # the user's model
    api: Api
    tuning: Tuning
    differences: tuple[str, ...]
    stood: str | None  # the digest of what an earlier «apply» made under that name


class _Done(NamedTuple):
    """How it went."""

    holds: bool
    text: str
    verification: Verification
    observation: Observation


def _prepare(journal: Journal, profile: Profile, name: str | None, nearest: bool, ollama: str | None) -> _Job:
    """Everything that can be refused is refused here, before anything is changed."""
    from narthex.cli.served_plan import own_parameters
    from narthex.engines.ollama.api import Api
    from narthex.engines.ollama.names import canonical, same
    from narthex.profiles.store import list_profiles
    from narthex.profiles.tuned import Tuning, must_be_free, parameters_for, tuned_name

    if name is not None:
        canonical(name)  # raises UsageError for one that no model can have
    target = _target(profile, ollama)
    assert target.server is not None
    source = target.model.served_as
    found = _expressed(profile, target)
    if found.differences and not nearest:
        raise ProfileError(
            f"This Ollama can't express the profile: {'; '.join(found.differences)}.",
            hint=f"The nearest that it can is {found.knobs.describe()}: --nearest applies and measures it; "
            f"«narthex tune {source}» finds the best one for this server.",
        )
    api = Api(target.server.url)
    tuning = Tuning(
        name=name or tuned_name(source),
        source=source,
        parameters=parameters_for(found.knobs, target.server.version, own_parameters(target)[0]),
    )
    with translated(api, "list its models"):
        tags = api.tags()
    must_be_free(tuning, profile, tags, list_profiles(journal))
    chosen = msgspec.structs.replace(
        profile, knobs=found.knobs, proven=profile.proven and not found.differences
    )
    stood = next((tag.digest for tag in tags if same(tag.name, tuning.name)), None)
    return _Job(chosen, target, api, tuning, found.differences, stood)


def _target(profile: Profile, ollama: str | None) -> Target:
    """The model in Ollama: by the name it was tuned under, else the one with the content of its file."""
    from narthex.cli.target import OLLAMA, find_profiled, find_target
    from narthex.models.gguf import inspect_file

    if profile.engine_kind == OLLAMA:
        return find_profiled(profile, ollama=ollama)
    if inspect_file(profile.model.path).identity != profile.model.identity:
        raise ProfileError(
            f"The file {profile.model.path} is another model than this profile was made for.",
            hint="«narthex tune» makes a profile for the new one.",
        )
    return find_target(profile.model.path, engine=OLLAMA, ollama=ollama)


def _expressed(profile: Profile, target: Target) -> Expressed:
    """As this server can have it; with fewer layers where what it can't say takes their room."""
    from narthex.memory.plan import Device
    from narthex.profiles.express import express, fitted

    found = express(profile, target.engine.limits)
    cards = [
        Device(name=card.name, kind="gpu", free_bytes=card.total_bytes, total_bytes=card.total_bytes)
        for card in target.engine.devices
        if card.total_bytes
    ]
    if not found.differences or not cards:
        return found
    return fitted(found, target.inspection, (*cards, Device(name="host", kind="host")))


def _apply(journal: Journal, job: _Job, progress: Progress) -> _Done:
    """Make it, load it bare, measure. What does not hold is taken away again, also after Ctrl-C."""
    from narthex.profiles.store import load_profile, save_profile
    from narthex.profiles.tuned import make

    before = load_profile(journal, job.profile.name)
    if before.applied_as and before.applied_to != job.api.url:
        progress.note(
            f"It was applied at {before.applied_to} as «{before.applied_as}»; narthex forgets that one now"
        )
    digest: str | None = None
    done: _Done | None = None
    try:
        with translated(job.api, f"create «{job.tuning.name}»"):
            digest = make(job.api, job.tuning)
        # Noted before the proof: what a killed run leaves behind is known, and «unapply» takes it back.
        applied = msgspec.structs.replace(
            before, applied_as=job.tuning.name, applied_to=job.api.url, applied_digest=digest
        )
        save_profile(journal, applied)
        done = _prove(journal, job, progress)
    finally:
        if done is None and job.stood is not None and digest in (None, job.stood):
            progress.note(f"«{job.tuning.name}» stays: an earlier «apply» made the very same")
        elif done is None or not done.holds:
            _take_away(journal, job, before)
    return done


def _take_away(journal: Journal, job: _Job, profile: Profile) -> None:
    from narthex.engines.ollama.records import ApiError
    from narthex.profiles.store import save_profile
    from narthex.profiles.tuned import remove

    try:
        remove(job.api, job.tuning.name)
    except ApiError as error:
        raise EngineError(
            f"«{job.tuning.name}» is not proven, and it can't be taken away: {error.text}.",
            hint=f"Once Ollama at {job.api.url} answers again: narthex unapply {profile.name}",
        ) from error
    save_profile(
        journal, msgspec.structs.replace(profile, applied_as=None, applied_to=None, applied_digest=None)
    )


def _prove(journal: Journal, job: _Job, progress: Progress) -> _Done:
    """One trial of the tuned model, loaded by its name alone; a second one where a turn of the first took too
    long and nothing else is wrong."""
    from narthex.profiles.tuned import not_as_measured
    from narthex.profiles.verify import is_only_slower, judge, quicker
    from narthex.units import format_duration

    knobs = job.profile.knobs
    with bench(
        job.target,
        say=progress.note,
        who="narthex apply",
        left=ending_in(ONE_TRIAL_S),
        bare_as=job.tuning.name,
    ) as ready:
        found = [_trial(journal, job, ready, progress)]
        slow = is_only_slower(job.profile, found[0]) and not job.differences
        if slow and not not_as_measured(knobs, found[0]):
            progress.note(f"a turn took {format_duration(found[0].turn_s)}: measured once more")
            found.append(_trial(journal, job, ready, progress))
    observation = quicker(found[0], found[-1])
    verification = judge(job.profile, observation)
    wrong = not_as_measured(knobs, observation)
    measured = observation.outcome is Outcome.DONE and (verification.holds or bool(job.differences))
    words = f"{_verdict(job, verification, wrong)}{_both(found)}"
    return _Done(measured and not wrong, words, verification, observation)


def _trial(journal: Journal, job: _Job, ready: Bench, progress: Progress) -> Observation:
    from narthex.profiles.verify import trial_for
    from narthex.trials.trial import TrialRecord

    trial = trial_for(job.profile, job.target.engine, ready.host)
    trial = msgspec.structs.replace(trial, purpose="apply")
    started = time.time()
    observation = ready.runner.run(trial, progress.watch)
    record = TrialRecord(
        trial=trial, observation=observation, started_at=started, seconds=time.time() - started
    )
    if observation.outcome is not Outcome.INTERRUPTED:
        journal.append_trial(None, record)
    return observation


def _both(found: Sequence[Observation]) -> str:
    """The figures of two trials; "" where there was one."""
    from narthex.units import format_duration

    if len(found) < 2:
        return ""
    first, again = (
        f"a turn of {format_duration(seen.turn_s)}" if seen.turn_s is not None else seen.outcome.value
        for seen in found
    )
    return f" It was measured twice: {first}, then {again}."


def _verdict(job: _Job, verification: Verification, wrong: tuple[str, ...]) -> str:
    from narthex.units import format_duration

    if wrong:
        return f"It does not load as measured: {'; '.join(wrong)}. It was taken away again."
    if job.differences and verification.turn_s is not None:
        return (
            f"It stands: a turn takes {format_duration(verification.turn_s)}; the profile's own setting took "
            f"{format_duration(verification.turn_s_then)}. This setting was not soaked."
        )
    if verification.holds and verification.turn_s is not None:
        return (
            f"It behaves as measured, loaded without any option: a turn took "
            f"{format_duration(verification.turn_s)}; it was {format_duration(verification.turn_s_then)}."
        )
    return f"{verification.text} It was taken away again."


def _as_data(job: _Job, done: _Done) -> dict[str, Any]:
    """What ``--json`` prints; fields may be added, never changed."""
    return {
        "profile": job.profile.name,
        "server": job.api.url,
        "source": job.tuning.source,
        "model": job.tuning.name,
        "parameters": job.tuning.parameters,
        "modelfile": job.tuning.modelfile,
        "applied": done.holds,
        "differences": list(job.differences),
        "text": done.text,
        "turn_s": done.verification.turn_s,
        "turn_s_then": done.verification.turn_s_then,
        "observation": done.observation,
    }


def _as_text(job: _Job, done: _Done) -> str:
    from narthex.views.text import wrap

    lines = [job.tuning.modelfile.rstrip(), "", wrap(done.text)]
    lines += [wrap(f"Not as in the profile: {difference}.") for difference in job.differences]
    if done.holds:
        lines.append(wrap(f"Use it: ollama run {job.tuning.name}"))
        lines.append(wrap(f"Take it back: narthex unapply {job.profile.name}"))
    return "\n".join(lines)
