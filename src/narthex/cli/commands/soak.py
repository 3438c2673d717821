"""``narthex soak``: go on proving a profile under a nearly full context."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from narthex import paths, settings
from narthex.cli.options import json_option, plain_option
from narthex.errors import ExitCode, ProfileError, UsageError
from narthex.outcomes import Outcome
from narthex.units import format_duration, parse_duration

if TYPE_CHECKING:
    from narthex.profiles.profile import Profile
    from narthex.trials.soak import SoakReport


@click.command()
@click.argument("profile")
@click.option("--for", "for_", metavar="T", help="How long, as 30m; the default is the setting «soak».")
@click.option("--engine-path", metavar="PATH", help="The llama-server to use.")
@plain_option
@json_option
def command(
    profile: str, for_: str | None, engine_path: str | None, plain: bool | None, as_json: bool
) -> int:
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
        report = _soak(stored, seconds, engine_path, plain)
        stored = add_soak(journal, stored, report)
    if as_json:
        data = {"profile": stored.name, "soak_s": stored.soak_s, "proven": stored.proven, "report": report}
        click.echo(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
    else:
        click.echo(_words(stored, report))
    return int(ExitCode.OK if report.outcome is Outcome.DONE else ExitCode.FAILURE)


def _soak(profile: Profile, seconds: float, engine_path: str | None, plain: bool | None) -> SoakReport:
    from narthex.engines.llama_loader import LlamaLoader
    from narthex.engines.llama_server import find_engine
    from narthex.host.collect import collect_host
    from narthex.models.gguf import inspect_file
    from narthex.profiles.drift import changes
    from narthex.profiles.verify import trial_for
    from narthex.trials.runner import EngineRunner
    from narthex.trials.soak import soak
    from narthex.views.progress import Progress

    path = Path(profile.model.path)
    inspection = inspect_file(path)
    if inspection.identity != profile.model.identity:
        raise ProfileError(
            f"The file {path} is another model than this profile was made for.",
            hint="«narthex tune» makes a profile for the new one.",
        )
    engine, host = find_engine(engine_path, profile.engine_args), collect_host()
    loader = LlamaLoader(engine, path, log_dir=paths.state_dir() / "engine")
    runner = EngineRunner(loader, inspection)
    trial = msgspec.structs.replace(trial_for(profile, engine, host), purpose="soak")
    title = f"{profile.name}: soak for {format_duration(seconds)}"
    with Progress(title, plain=plain) as progress:
        for change in changes(profile, engine, host, inspection):
            progress.note(f"changed since this profile was made: {change}")
        progress.eta(seconds)
        return soak(runner, trial, seconds=seconds, watch=progress.watch)


def _words(profile: Profile, report: SoakReport) -> str:
    from narthex.views.text import soak_words, wrap

    proof = "proven" if profile.proven else "not proven"
    total = f"{profile.name}: {proof}, {format_duration(profile.soak_s)} of soak in all."
    words = soak_words(report)
    return f"{wrap(words[:1].upper() + words[1:])}\n{total}"
