"""``narthex soak``: go on proving a profile under a nearly full context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import msgspec

from narthex import settings
from narthex.cli.options import json_option, ollama_option, plain_option
from narthex.errors import ExitCode, UsageError
from narthex.outcomes import Outcome
from narthex.units import format_duration, parse_duration

if TYPE_CHECKING:
    from narthex.profiles.profile import Profile
    from narthex.trials.soak import SoakReport


@click.command()
@click.argument("profile")
@click.option("--for", "for_", metavar="T", help="How long, as 30m; the default is the setting «soak».")
@click.option("--beside", metavar="NAME", help="Soak while a tenant of the card works, as comfyui.")
@ollama_option
@click.option("--engine-path", metavar="PATH", help="The llama-server to use.")
@plain_option
@json_option
def command(profile: str, for_: str | None, as_json: bool, **given: Any) -> int:
    """Soak a profile's setting; the time adds to what it has survived before.

    PROFILE is its name, the beginning of it, or its model. Exit code 0: it survived; 1: it did not, and is
    no longer proven.
    """
    from narthex.journal.journal import Journal
    from narthex.profiles.store import add_soak, load_profile

    seconds = parse_duration(for_) if for_ is not None else settings.get("soak")
    if seconds <= 0:
        raise UsageError("A soak of no length proves nothing.", hint="Give a time, as --for 30m.")
    with Journal.open() as journal:
        journal.must_be_writable()
        stored = load_profile(journal, profile)
        report = _soak(stored, seconds, given)
        stored = add_soak(journal, stored, report)
    if as_json:
        data = {"profile": stored.name, "soak_s": stored.soak_s, "proven": stored.proven, "report": report}
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
    else:
        click.echo(_words(stored, report))
    return int(ExitCode.OK if report.outcome is Outcome.DONE else ExitCode.FAILURE)


def _soak(profile: Profile, seconds: float, given: dict[str, Any]) -> SoakReport:
    from narthex.cli.bench import ONE_TRIAL_S, bench
    from narthex.cli.card_lease import ending_in
    from narthex.cli.target import find_profiled
    from narthex.policy import load_policy
    from narthex.profiles.drift import changes
    from narthex.profiles.verify import trial_for
    from narthex.tenants.find import find_tenant
    from narthex.trials.soak import soak
    from narthex.views.progress import Progress

    tenant = find_tenant(given["beside"], load_policy()) if given["beside"] else None
    if tenant is not None:
        tenant.must_be_ready()
    target = find_profiled(profile, engine_path=given["engine_path"], ollama=given["ollama"])
    title = f"{profile.name}: soak for {format_duration(seconds)}"
    left = ending_in(ONE_TRIAL_S + seconds)
    with (
        Progress(title, plain=given["plain"]) as progress,
        bench(target, say=progress.note, who="narthex soak", left=left) as ready,
    ):
        trial = trial_for(profile, target.engine, ready.host)
        trial = msgspec.structs.replace(trial, purpose="soak")
        for change in changes(profile, target.engine, ready.host, target.inspection):
            progress.note(f"changed since this profile was made: {change}")
        if tenant is not None:
            # One that fails by itself would say nothing of the setting.
            progress.note(f"one job by itself first, to see that it works: {tenant.describe()}")
            tenant.measure(progress.watch)
        progress.eta(seconds)
        return soak(ready.runner, trial, seconds=seconds, watch=progress.watch, beside=tenant)


def _words(profile: Profile, report: SoakReport) -> str:
    from narthex.views.text import soak_words, wrap

    proof = "proven" if profile.proven else "not proven"
    total = f"{profile.name}: {proof}, {format_duration(profile.soak_s)} of soak in all."
    words = soak_words(report)
    return f"{wrap(words[:1].upper() + words[1:])}\n{total}"
