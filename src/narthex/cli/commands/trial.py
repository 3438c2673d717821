"""``narthex trial``: the manual loop. One setting, one load, measured and journaled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from narthex import paths, settings
from narthex.cli.options import (
    check_threads,
    engine_option,
    json_option,
    model_argument,
    ollama_option,
    plain_option,
)
from narthex.errors import ExitCode, UsageError
from narthex.knobs import KnobValues
from narthex.outcomes import Outcome
from narthex.trials.manual import difference_words, fitted, read_settings, turned
from narthex.trials.trial import Trial, TrialRecord, Turn
from narthex.trials.verdict import TIE
from narthex.units import format_rate, format_size
from narthex.views.text import format_duration_fine, wrap

if TYPE_CHECKING:
    from narthex.cli.bench import Bench
    from narthex.cli.target import Target
    from narthex.journal.journal import Journal
    from narthex.memory.plan import MemoryPlan
    from narthex.profiles.profile import Profile
    from narthex.trials.workload import Prompts
    from narthex.views.progress import Progress


@click.command()
@model_argument
@click.option("--set", "words", multiple=True, metavar="KNOB=VALUE", help="Turn a knob, as gpu_layers=40.")
@click.option("--from", "start_from", metavar="PROFILE", help="Start from a profile, not the last trial.")
@click.option("--many", is_flag=True, help="Allow more than one turned knob.")
@click.option("--workload", metavar="W", help="What is asked: chat, document, code or agent.")
@click.option("--prompts", type=click.Path(path_type=Path), metavar="FILE", help="Your own prompts.")
@click.option("--depth", type=click.IntRange(min=0), metavar="N", help="Tokens in the context before a turn.")
@click.option("--prompt-tokens", type=click.IntRange(min=1), metavar="N", help="A turn's prompt.")
@click.option("--generate", type=click.IntRange(min=2), metavar="N", help="A turn's answer.")
@click.option("--repeats", type=click.IntRange(min=1), metavar="N", help="Timed turns.  [default: 3]")
@engine_option
@ollama_option
@click.option("--engine-path", metavar="PATH", help="The llama-server to use.")
@click.option("--engine-arg", "engine_args", multiple=True, metavar="ARG", help="Given to its start.")
@plain_option
@json_option
def command(
    model: str, words: tuple[str, ...], start_from: str | None, many: bool, as_json: bool, **given: Any
) -> int:
    """Measure one setting of MODEL: one load, a few timed turns, one row in the journal.

    It starts from the last trial of this model (or --from PROFILE, or the house defaults) and turns one
    knob. Exit code 0: it was measured; 1: it failed, and the line that proves it is shown.
    """
    from narthex.cli.bench import ONE_TRIAL_S, bench, cores_of
    from narthex.cli.card_lease import ending_in
    from narthex.journal.journal import Journal
    from narthex.views.progress import Progress

    with Journal.open() as journal:
        journal.must_be_writable()
        profile = _profile(journal, start_from) if start_from is not None else None
        target = _target(model, profile, given)
        start = _start(journal, target, profile)
        base, knobs = _knobs(target, start, read_settings(words, layers=target.inspection.layers), many)
        check_threads(knobs.threads, cores_of(target))
        prompts = _prompts(given["workload"], given["prompts"], start.workload)
        turn = _turn(given, start, prompts, knobs)
        repeats = given["repeats"] or settings.get("repeats")
        title = f"{target.inspection.name}: one trial of {knobs.describe()}"
        with (
            Progress(title, 1, plain=given["plain"]) as progress,
            bench(
                target,
                say=progress.note,
                who="narthex trial",
                left=ending_in(ONE_TRIAL_S),
                prompts=prompts,
            ) as ready,
        ):
            trial = Trial(
                model=target.model,
                engine_key=target.engine.key,
                host_key=ready.host.key,
                knobs=knobs,
                turn=turn,
                workload=prompts.label,
                repeats=repeats,
                purpose="manual",
            )
            plan, record = _measure(journal, ready, trial, progress)
        found = _Result(base=base, start=start, plan=plan, record=record)
        try:
            _keep(journal, ready, record)
        finally:  # what was measured is shown, also where the disk is full by now
            click.echo(_as_json(found) if as_json else _as_text(found))
    return int(ExitCode.OK if record.observation.outcome is Outcome.DONE else ExitCode.FAILURE)


class _Start(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trial starts from; ``knobs`` is None for the house defaults."""

    words: str
    knobs: KnobValues | None = None
    turn: Turn | None = None
    workload: str | None = None
    record: TrialRecord | None = None  # the last trial of the model


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the command shows."""

    base: KnobValues
    start: _Start
    plan: MemoryPlan
    record: TrialRecord


def _target(model: str, profile: Profile | None, given: dict[str, Any]) -> Target:
    """The model and its engine; a profile's own engine arguments where none are given. Raises UsageError."""
    from narthex.cli.target import find_target

    target = find_target(
        model,
        engine=given["engine"],
        engine_path=given["engine_path"],
        engine_args=given["engine_args"] or (profile.engine_args if profile else ()),
        ollama=given["ollama"],
    )
    if profile is not None and profile.model.identity != target.inspection.identity:
        raise UsageError(
            f"The profile «{profile.name}» is for another model: {profile.model.name}.",
            hint="Name a profile of this model; «narthex profile list» shows them.",
        )
    return target


def _start(journal: Journal, target: Target, profile: Profile | None) -> _Start:
    # Another engine's setting is no start for this one, and its speed no comparison.
    last = journal.last_trial(target.inspection.identity, target.engine.kind)
    if profile is not None:
        other = _as_here(profile.knobs, target) != profile.knobs
        return _Start(
            words=f"profile {profile.name}{', as this server can have it' if other else ''}",
            knobs=profile.knobs,
            turn=profile.turn,
            workload=profile.workload,
            record=last,
        )
    if last is None:
        return _Start(words="the house defaults")
    trial = last.trial
    return _Start(
        words="the last trial", knobs=trial.knobs, turn=trial.turn, workload=trial.workload, record=last
    )


def _profile(journal: Journal, name: str) -> Profile:
    from narthex.profiles.store import load_profile

    return load_profile(journal, name)


def _knobs(
    target: Target, start: _Start, changes: dict[str, Any], many: bool
) -> tuple[KnobValues, KnobValues]:
    """Where the trial starts from, and its setting; both as this engine can have them."""
    from narthex.studies.limits import check_settings

    limits = target.engine.limits
    check_settings(changes, limits)
    base = _as_here(start.knobs or _house(target), target)
    if limits.one_batch and "ubatch" in changes:  # they are one knob here, by either name
        changes = {"batch": changes["ubatch"], **{k: v for k, v in changes.items() if k != "ubatch"}}
    knobs = turned(base, changes, many=many)
    return base, knobs.with_(ubatch=knobs.batch) if limits.one_batch else knobs


def _as_here(knobs: KnobValues, target: Target) -> KnobValues:
    """A setting with the server's own values where it leaves no choice."""
    from narthex.engines.ollama.eras import automatic_batch
    from narthex.studies.limits import within

    server = target.server
    if server is None:
        return within(knobs, target.engine.limits)
    return within(knobs, target.engine.limits, lambda total_ctx: automatic_batch(server.version, total_ctx))


def _house(target: Target) -> KnobValues:
    from narthex.cli.bench import host_of
    from narthex.house import house_knobs

    return house_knobs(
        target.model.served_as or target.model.name,
        layers=target.inspection.layers,
        has_gpu=bool(target.engine.devices),
        threads=host_of(target).physical_cores,
    )


def _prompts(workload: str | None, file: Path | None, before: str | None) -> Prompts:
    from narthex.trials.workload import WORKLOADS, Prompts, read_prompts

    if file is not None:
        return Prompts(own=read_prompts(file))
    return Prompts(workload or (before if before in WORKLOADS else None) or "chat")


def _turn(given: dict[str, Any], start: _Start, prompts: Prompts, knobs: KnobValues) -> Turn:
    """The turn of the last trial, so that the two can be compared; the workload's own where it is another."""
    from narthex.trials.workload import WORKLOADS

    usual = start.turn
    if usual is None or (given["workload"] and given["workload"] != start.workload):
        usual = WORKLOADS[prompts.label].turn if prompts.label in WORKLOADS else Turn()
    asked = {name: given[name] for name in ("depth", "prompt_tokens", "generate") if given[name] is not None}
    turn = msgspec.structs.replace(usual, **asked)
    need = turn.depth + turn.prompt_tokens + turn.generate
    if asked and need > knobs.num_ctx and "depth" in asked:
        raise UsageError(
            f"A turn of {need} tokens does not fit a context of {knobs.num_ctx}.",
            hint="Give a smaller --depth, --prompt-tokens or --generate, or turn num_ctx up.",
        )
    return fitted(turn, knobs.num_ctx)


def _measure(
    journal: Journal, bench: Bench, trial: Trial, progress: Progress
) -> tuple[MemoryPlan, TrialRecord]:
    """What the plan says, and what it is."""
    from narthex.memory.calibrate import calibrate
    from narthex.memory.plan import plan_memory
    from narthex.studies.live import devices_of
    from narthex.views.text import observation_words

    inspection, engine = bench.target.inspection, bench.target.engine
    learned = calibrate(journal.predictions(inspection.identity, engine.key), engine.outputs)
    devices = devices_of(engine, bench.host, learned)
    plan = plan_memory(inspection, trial.knobs, devices, calibration=learned if learned.tells else None)
    progress.trial(1, trial.knobs.describe(), f"planned: {_plan_words(plan)}")
    began, clock = time.time(), time.monotonic()
    observation = bench.runner.run(trial, progress.watch)
    record = TrialRecord(
        trial=trial, observation=observation, started_at=began, seconds=time.monotonic() - clock
    )
    progress.done(observation_words(observation))
    return plan, record


def _keep(journal: Journal, bench: Bench, record: TrialRecord) -> None:
    """Write it down, with prediction and reality side by side."""
    from narthex.memory.calibrate import Calibration
    from narthex.studies.live import devices_of
    from narthex.trials.ledger import predictions

    journal.append_trial(None, record)
    devices = devices_of(bench.target.engine, bench.host, Calibration(engine_key=None))
    for row in predictions(bench.target.inspection, devices, record.trial, record.observation):
        journal.append_prediction(None, row)


def _as_json(found: _Result) -> str:
    seen, before = found.record.observation, found.start.record
    data = {
        "start": found.start.words,
        "difference": {
            name: list(pair) for name, pair in found.base.difference(found.record.trial.knobs).items()
        },
        "before": before and _figures(before),
        **_figures(found.record),
        "trial": found.record.trial,
        "seconds": found.record.seconds,
        "plan": {
            "fits": found.plan.fits,
            "margin_bytes": found.plan.margin_bytes,
            "devices": found.plan.devices,
            "gaps": found.plan.gaps,
        },
        "observation": seen,
    }
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def _figures(record: TrialRecord) -> dict[str, Any]:
    seen = record.observation
    return {
        "knobs": record.trial.knobs,
        "turn": record.trial.turn,
        "outcome": seen.outcome,
        "reason": seen.reason,
        "turn_s": seen.turn_s,
        "decode_tps": seen.decode_tps,
        "prompt_tps": seen.prompt_tps,
        "spread": seen.spread,
    }


def _as_text(found: _Result) -> str:
    """The setting, the difference, the prediction, the answer: one fact a line."""
    trial, seen = found.record.trial, found.record.observation
    changes = difference_words(trial.knobs.difference(found.base))
    rows = [
        ("setting", trial.knobs.describe()),
        ("turned", f"{', '.join(changes) or 'nothing'} (from {found.start.words})"),
        ("plan", _plan_words(found.plan)),
        ("outcome", f"{seen.outcome.value.replace('_', ' ')}: {seen.reason}"),
        *_measured(found),
        *(("doubt", text) for text in dict.fromkeys(seen.doubts)),
        *(("gap", text) for text in seen.gaps),
    ]
    if seen.outcome is not Outcome.DONE:
        rows.append(("log", f"the engine's own words: the newest file in {paths.state_dir() / 'engine'}"))
    lines = [found.record.trial.model.name]
    lines += [wrap(f"  {name:<8} {text}", indent=11) for name, text in rows]
    return "\n".join(lines)


def _plan_words(plan: MemoryPlan) -> str:
    parts = [f"{row.name} {format_size(row.need_bytes)}" for row in plan.devices]
    if plan.margin_bytes is not None and plan.fits is not None:
        left = format_size(abs(plan.margin_bytes))
        parts.append(f"fits, {left} to spare" if plan.margin_bytes >= 0 else f"does not fit by {left}")
    return " · ".join(parts)


def _measured(found: _Result) -> list[tuple[str, str]]:
    trial, seen = found.record.trial, found.record.observation
    turn, rows = trial.turn, []
    if seen.turn_s is not None:
        shape = f"{turn.prompt_tokens} prompt tokens at depth {turn.depth}, then {turn.generate} tokens"
        rows.append(("turn", f"{format_duration_fine(seen.turn_s)}: {shape}{_compared(found)}"))
        rows.append(
            ("speed", f"decode {format_rate(seen.decode_tps)} · prompt {format_rate(seen.prompt_tps)}")
        )
    if seen.end_turns:
        end = seen.end_turns[-1]
        speed = f"decode {format_rate(end.decode_tps)} · prompt {format_rate(end.prompt_tps)}"
        rows.append(("full", f"{speed} with {end.prompt_tokens + end.generated} tokens in the context"))
    if seen.report is not None and seen.report.processor is not None:
        rows.append(("place", f"{seen.report.processor}, as the server lists it"))
    peaks = seen.peaks
    memory = [
        f"VRAM {format_size(peaks.vram_bytes)}" if peaks.vram_bytes is not None else "",
        f"RAM {format_size(peaks.ram_bytes)}" if peaks.ram_bytes is not None else "",
    ]
    if any(memory):
        rows.append(("memory", "peak " + " · ".join(word for word in memory if word)))
    if seen.bandwidth_share is not None:
        rows.append(("limit", f"decoding reaches {seen.bandwidth_share:.0%} of what memory bandwidth allows"))
    if seen.load_s is not None:
        rows.append(("load", format_duration_fine(seen.load_s)))
    return rows


def _compared(found: _Result) -> str:
    """«, 12 % faster than the last trial», where the two asked the same turn."""
    before, now = found.start.record, found.record.observation.turn_s
    then = before.observation.turn_s if before else None
    if before is None or then is None or now is None:
        return ""
    if before.trial.turn != found.record.trial.turn or before.trial.workload != found.record.trial.workload:
        return " (the last trial asked another turn: not comparable)"
    change = 1 - now / then
    if abs(change) <= TIE:
        return ", the same as the last trial within 2 %"
    if now > 2 * then:
        return f", {now / then:.1f} times as long as in the last trial"
    return f", {abs(change):.0%} {'faster' if change > 0 else 'slower'} than the last trial"
