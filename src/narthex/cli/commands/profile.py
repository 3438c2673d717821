"""``narthex profile``: the settled answers."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from narthex.cli.options import json_option, ollama_option, plain_option
from narthex.errors import ExitCode, ModelFileError
from narthex.journal.journal import Journal
from narthex.outcomes import Outcome
from narthex.profiles.drift import changes, engine_for
from narthex.profiles.export import FORMATS, export
from narthex.profiles.profile import Profile
from narthex.profiles.store import list_profiles, load_profile, save_profile
from narthex.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from narthex.engines._base import Engine
    from narthex.host.facts import HostFacts
    from narthex.models.inspection import Inspection
    from narthex.profiles.express import Expressed
    from narthex.profiles.verify import Verification


@click.group()
def command() -> None:
    """The settled answers: list, show, verify, export."""


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All profiles, newest first, and what has changed under each."""
    with _open() as journal:
        profiles = list_profiles(journal)
    world = _World()
    rows = [(profile, world.changes(profile)) for profile in profiles]
    if as_json:
        _print_json([_as_json(profile, found) for profile, found in rows])
    elif not rows:
        click.echo("There is no profile yet. «narthex tune MODEL» makes one.", err=True)
    else:
        click.echo(_table(rows))


@command.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One profile. NAME is its name, the beginning of it, or its model."""
    with _open() as journal:
        profile = load_profile(journal, name)
    found = _World().changes(profile)
    if as_json:
        _print_json(_as_json(profile, found))
    else:
        click.echo(_page(profile, found))


@command.command("export")
@click.argument("name")
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="llama-server",
    show_default=True,
    help="A command line, an Ollama Modelfile, the whole record, or variables for llama-server.",
)
@click.option("--nearest", is_flag=True, help="modelfile: where Ollama can't say it all, the nearest it can.")
@click.option("--server-wide", is_flag=True, help="modelfile: the server's environment has the KV type etc.")
def export_(name: str, form: str, nearest: bool, server_wide: bool) -> None:
    """Print a profile in the words of the program that shall use it.

    A profile that Ollama can't express is refused with the nearest one that it can.
    """
    with _open() as journal:
        profile = load_profile(journal, name)
    if form == "modelfile" and (nearest or server_wide):
        click.echo(_modelfile(profile, nearest, server_wide), nl=False)
    else:
        click.echo(export(profile, form), nl=False)
    if not profile.proven:
        click.echo("narthex: this profile is not proven by a soak.", err=True)
    if form in ("llama-server", "env") and (path := _unlisted(profile)):
        click.echo(f"narthex: llama-server is not on your PATH. This one was found here: {path}", err=True)


@command.command()
@click.argument("name")
@click.option("--engine-path", metavar="FILE", help="The llama-server to use.")
@ollama_option
@plain_option
@json_option
def verify(name: str, as_json: bool, **given: Any) -> int:
    """Prove a profile again, in one load. Exit code 0: it holds; 1: it does not."""
    with _open() as journal:
        profile = load_profile(journal, name)
        journal.must_be_writable()
        verification = _verify(journal, profile, given)
    if as_json:
        _print_json({"profile": profile.name, **msgspec.to_builtins(verification)})
    else:
        click.echo(verification.text)
    return int(ExitCode.OK if verification.holds else ExitCode.FAILURE)


def _modelfile(profile: Profile, nearest: bool, server_wide: bool) -> str:
    """What Ollama can have of the profile: as its server is said to be, or the nearest."""
    from narthex.profiles.export import modelfile_text
    from narthex.profiles.express import UNSET, Expressed, express, own_limits

    limits = own_limits(profile.knobs) if server_wide or profile.engine_kind == "ollama" else UNSET
    found = express(profile, limits)
    if not nearest or not found.differences:
        return modelfile_text(profile, found)
    found = _fitted(found, profile)
    for difference in found.differences:
        click.echo(f"narthex: not as measured: {difference}.", err=True)
    unproven = msgspec.structs.replace(profile, proven=False)
    return modelfile_text(unproven, Expressed(knobs=found.knobs))


def _fitted(found: Expressed, profile: Profile) -> Expressed:
    """With fewer layers where the plan says that a larger cache leaves no room for all; unchanged where the
    model can't be read."""
    from narthex.host.collect import collect_host
    from narthex.memory.plan import Device
    from narthex.models.gguf import inspect_file
    from narthex.profiles.express import fitted

    try:
        inspection = inspect_file(profile.model.path)
    except ModelFileError:
        return found
    devices = tuple(
        Device(name=gpu.name, kind="gpu", free_bytes=gpu.total_bytes, total_bytes=gpu.total_bytes)
        for gpu in collect_host(processes=False).gpus[:1]
    )
    return fitted(found, inspection, (*devices, Device(name="host", kind="host")))


def _unlisted(profile: Profile) -> str | None:
    """Where the profile's engine lies, if a shell would not find it by its name."""
    if shutil.which(profile.engine_kind):
        return None
    engine = engine_for(profile, _World().engines(profile.engine_args))
    return engine.path if engine else None


def _verify(journal: Journal, profile: Profile, given: dict[str, Any]) -> Verification:
    from narthex.cli.bench import ONE_TRIAL_S, bench
    from narthex.cli.card_lease import ending_in
    from narthex.cli.target import find_profiled
    from narthex.profiles.verify import after_verify, judge, trial_for
    from narthex.trials.trial import TrialRecord
    from narthex.views.progress import Progress

    target = find_profiled(profile, engine_path=given["engine_path"], ollama=given["ollama"])
    title = f"{profile.name}: one trial of {profile.knobs.describe()}"
    progress = Progress(title, 1, plain=given["plain"])
    with (
        progress,
        bench(target, say=progress.note, who="narthex profile verify", left=ending_in(ONE_TRIAL_S)) as ready,
    ):
        started = time.time()
        trial = trial_for(profile, target.engine, ready.host)
        observation = ready.runner.run(trial, progress.watch)
    record = TrialRecord(
        trial=trial, observation=observation, started_at=started, seconds=time.time() - started
    )
    journal.append_trial(None, record)
    verification = judge(profile, observation)
    if observation.outcome is not Outcome.INTERRUPTED:  # says nothing about the profile
        save_profile(journal, after_verify(profile, verification, target.engine, ready.host, at=started))
    return verification


class _World:
    """What profiles are compared with; each part is looked up once, and only when a profile needs it."""

    def __init__(self) -> None:
        self._host: HostFacts | None = None
        self._engines: dict[tuple[str, ...], list[Engine]] = {}
        self._models: dict[str, Inspection | None] = {}
        self._silent: dict[str | None, str] = {}  # address of an Ollama that can't be used → why

    def changes(self, profile: Profile) -> tuple[str, ...]:
        """What is not as it was when the profile was made."""
        if profile.engine_kind == "ollama":
            return self._served(profile)
        engine = engine_for(profile, self.engines(profile.engine_args))
        return changes(profile, engine, self._machine(), self._model(profile.model.path))

    def _served(self, profile: Profile) -> tuple[str, ...]:
        """The same for a model in Ollama, which is asked."""
        from narthex.cli.bench import host_of
        from narthex.cli.target import find_profiled
        from narthex.errors import EngineError, NarthexError

        if words := self._silent.get(profile.server_url):
            return (words,)
        try:
            target = find_profiled(profile)
        except NarthexError as error:
            words = error.message.rstrip(".")
            if isinstance(error, EngineError):  # it would be the same for its other profiles, and as slow
                self._silent[profile.server_url] = words
            return (words,)
        return changes(profile, target.engine, host_of(target), target.inspection)

    def _machine(self) -> HostFacts:
        from narthex.host.collect import collect_host

        self._host = self._host or collect_host(processes=False)
        return self._host

    def engines(self, extra_args: tuple[str, ...]) -> list[Engine]:
        """Those on this machine."""
        from narthex.engines.llama_server import find_engines

        if extra_args not in self._engines:
            self._engines[extra_args] = find_engines(None, extra_args)
        return self._engines[extra_args]

    def _model(self, path: str) -> Inspection | None:
        from narthex.models.gguf import inspect_file

        if path not in self._models:
            try:
                self._models[path] = inspect_file(path)
            except ModelFileError:
                self._models[path] = None
        return self._models[path]


def _open() -> Journal:
    journal = Journal.open()
    for gap in journal.gaps:
        click.echo(f"narthex: {gap}", err=True)
    return journal


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _as_json(profile: Profile, found: tuple[str, ...]) -> dict[str, Any]:
    """The record's own fields, its age in seconds, and what has changed under it."""
    return {**msgspec.structs.asdict(profile), "age_s": time.time() - profile.created_at, "changes": found}


def _proof(profile: Profile) -> str:
    words = f"proven, soak {format_duration(profile.soak_s)}" if profile.proven else "not proven"
    if profile.demo:
        words += ", demo"
    if profile.verified is False:
        words += ", last check failed"
    return words


def _age(at: float) -> str:
    """«3 days», «2 hours», «5 minutes», «just now»."""
    seconds = max(0.0, time.time() - at)
    for name, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // size)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''}"
    return "just now"


def _table(rows: list[tuple[Profile, tuple[str, ...]]]) -> str:
    from narthex.views.table import table
    from narthex.views.text import wrap

    cells = [
        (
            profile.name,
            _proof(profile),
            format_duration(profile.turn_s),
            format_rate(profile.decode_tps),
            f"{profile.engine_kind} {profile.engine_build}",
            profile.gpu or "CPU",
            _age(profile.created_at),
            "changed" if found else "",
        )
        for profile, found in rows
    ]
    head = ("profile", "proof", "turn", "decode", "engine", "device", "age", "world")
    lines = [table(head, cells, right="llrr")]
    lines += [
        wrap(f"{profile.name}: the world has changed under it: {'; '.join(found)}.", indent=2)
        for profile, found in rows
        if found
    ]
    return "\n".join(lines)


def _page(profile: Profile, found: tuple[str, ...]) -> str:
    from narthex.views.text import wrap

    turn = profile.turn
    peak = f" · VRAM peak {format_size(profile.vram_peak_bytes)}" if profile.vram_peak_bytes else ""
    facts = [
        ("verdict", profile.verdict),
        ("model", f"{profile.model.name} ({profile.model.path})"),
        ("goal", profile.goal),
        ("setting", profile.knobs.describe()),
        (
            "turn",
            f"{format_duration(profile.turn_s)}: {turn.prompt_tokens} prompt tokens at depth {turn.depth}, "
            f"then {turn.generate} tokens",
        ),
        (
            "speed",
            f"decode {format_rate(profile.decode_tps)} · prompt {format_rate(profile.prompt_tps)}{peak}",
        ),
        ("proof", _proof(profile)),
        ("engine", f"{profile.engine_kind} {profile.engine_build}"),
        ("device", profile.gpu or "CPU"),
        ("driver", profile.driver or "none"),
        ("age", f"{_age(profile.created_at)} (study {profile.study or 'none'})"),
    ]
    if profile.verified_at is not None:
        facts.append(
            ("checked", f"{_age(profile.verified_at)}: {'it holds' if profile.verified else 'it failed'}")
        )
    lines = [profile.name, *(wrap(f"  {name:<8} {text}", indent=11) for name, text in facts)]
    if found:
        lines += ["  the world has changed under it:", *(wrap(f"  - {text}", indent=4) for text in found)]
        if Path(profile.model.path).exists():
            lines.append(f"  «narthex profile verify {profile.name}» proves it again in one load.")
    return "\n".join(lines)
