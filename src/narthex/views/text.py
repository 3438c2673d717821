"""A study, a trial and a soak as plain text for a terminal or a pipe. Every function returns a string."""

from __future__ import annotations

import textwrap

from narthex.outcomes import Outcome
from narthex.studies.records import Baseline, ServerProposal, StudyResult
from narthex.trials.observation import Observation
from narthex.trials.soak import SoakReport
from narthex.trials.verdict import TIE
from narthex.units import (
    format_count,
    format_duration,
    format_loads,
    format_rate,
    format_size,
    sentence,
)
from narthex.views.figures import (
    Speed,
    baseline_speed,
    chosen_speed,
    is_proven,
    is_stored,
    limits,
    ratio,
    server_proposals,
    soak_seconds,
    soaks_of,
)
from narthex.views.table import table

WIDTH = 100
BASELINE_WORDS = {
    "current": "what you have now",
    "house": "house defaults",
    "engine": "engine's own placement",
}
OUTCOME_WORDS = {
    Outcome.DONE: "done",
    Outcome.OUT_OF_MEMORY: "out of memory while loading",
    Outcome.OUT_OF_MEMORY_COMPUTE: "out of memory while computing",
    Outcome.KILLED_BY_KERNEL: "killed by the kernel: main memory ran out",
    Outcome.HOST_OUT_OF_MEMORY: "main memory is too small for the model",
    Outcome.UNSUPPORTED_FLAG: "the engine does not know a flag",
    Outcome.UNSUPPORTED_SETTING: "the engine can't combine these settings",
    Outcome.UNSUPPORTED_ARCHITECTURE: "the engine does not know this kind of model",
    Outcome.CORRUPT_FILE: "the model file is damaged",
    Outcome.FILE_MISSING: "the model file is gone",
    Outcome.MODEL_UNKNOWN: "the server has no such model",
    Outcome.DISK_FULL: "the disk is full",
    Outcome.PORT_IN_USE: "the port was taken",
    Outcome.CRASHED: "the engine crashed",
    Outcome.RUNNER_DIED: "the server's runner died",
    Outcome.SERVER_DOWN: "the server went down",
    Outcome.QUEUE_FULL: "the server has too many requests waiting",
    Outcome.CLIENT_GONE: "the load was cut off: the client left",
    Outcome.LOAD_TIMEOUT: "the server gave up waiting for its load",
    Outcome.STALLED: "no progress",
    Outcome.TIMEOUT: "took too long",
    Outcome.UNSTABLE: "did not stay stable",
    Outcome.PROMPT_TRUNCATED: "the engine cut the prompt",
    Outcome.REQUEST_FAILED: "the engine refused a request",
    Outcome.INTERRUPTED: "interrupted",
    Outcome.FAILED: "failed",
}


def study_table(result: StudyResult) -> str:
    """The end of ``narthex tune``: before and after, why, what limits it, and whether it is proven."""
    parts = [_head(result), _before_after(result), _why(result), _server(result), _next_steps(result)]
    return "\n\n".join(part for part in parts if part)


def turn_words(result: StudyResult) -> str:
    """What one «turn» in the tables is."""
    turn = result.question.turn
    return (
        f"A turn is {turn.prompt_tokens} prompt tokens on top of {turn.depth} tokens of context, "
        f"then {turn.generate} tokens of answer."
    )


def observation_words(observation: Observation) -> str:
    """One line about an answer: figures when it is done, else the outcome with its proof."""
    if observation.outcome is not Outcome.DONE:
        proof = f": {observation.reason}" if observation.reason else ""
        return OUTCOME_WORDS[observation.outcome] + proof
    parts = [f"turn {format_duration_fine(observation.turn_s)}"]
    parts += [
        f"prompt {format_rate(observation.prompt_tps)}",
        f"decode {format_rate(observation.decode_tps)}",
    ]
    if observation.load_s is not None:
        parts.append(f"load {format_duration_fine(observation.load_s)}")
    if observation.peaks.vram_bytes is not None:
        parts.append(f"VRAM {format_size(observation.peaks.vram_bytes)}")
    if observation.doubts:
        parts.append("doubts: " + "; ".join(observation.doubts))
    return " · ".join(parts)


def soak_words(report: SoakReport) -> str:
    """One sentence about a soak."""
    parts = [
        f"{format_duration(report.seconds)}, {format_count(report.turns, 'turn')}, "
        f"context filled to {report.fill_max:.0%}, {format_count(report.errors, 'error')}"
    ]
    if report.vram_growth_bytes is not None:
        parts.append(f"VRAM grew by {format_size(report.vram_growth_bytes)}")
    if report.ram_growth_bytes is not None:
        parts.append(f"RAM grew by {format_size(report.ram_growth_bytes)}")
    if report.speed_drift is not None:
        parts.append(f"speed drifted by {report.speed_drift:+.1%}")
    if report.jobs is not None:
        parts.append(f"beside {format_count(report.jobs, 'finished job')} of {report.beside}")
    text = ", ".join(parts)
    doubts = f" {sentence('In doubt: ' + '; '.join(report.doubts))}" if report.doubts else ""
    if report.outcome is Outcome.DONE:
        return f"survived {text}.{doubts}"
    return f"{OUTCOME_WORDS[report.outcome]} after {text}: {sentence(report.reason)}{doubts}"


def format_duration_fine(seconds: float | None) -> str:
    """Like ``format_duration``, with three significant digits below ten seconds: ``4.52 s``."""
    if seconds is None or seconds >= 10:
        return format_duration(seconds)
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds:.3f} s"


def compared(turn_s: float | None, chosen_s: float | None) -> str:
    """How a baseline's turn compares with the winner's: «3.3× as long», «the same»."""
    share = ratio(turn_s, chosen_s)
    if share is None:
        return ""
    if abs(share - 1) <= TIE:
        return f"the same (±{TIE:.0%})"
    return f"{share:.2f}× as long" if share < 10 else f"{share:.0f}× as long"


def wrap(text: str, *, indent: int = 0) -> str:
    """Paragraph of at most :data:`WIDTH` columns; further lines are indented."""
    return textwrap.fill(
        text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def _head(result: StudyResult) -> str:
    name = result.model.name if result.model else "recorded measurements"
    facts = [f"goal {result.question.goal.value}", format_loads(result.engine_loads)]
    facts.append(f"{format_duration(result.seconds)}")
    facts.append(f"study {result.study}")
    lines = [f"{name} · {' · '.join(facts)}", f"engine {result.engine}"]
    if result.question.demo:
        lines.append(
            "This is a demo: a short workload and a short soak. Tune your own model for a real answer."
        )
    if not result.finished:
        lines.append("The study was cut off; this is what is known so far. Start it again to go on.")
    return "\n".join(lines)


def _before_after(result: StudyResult) -> str:
    chosen = chosen_speed(result)
    rows = [_baseline_row(result, row, chosen) for row in result.baselines]
    settings = [(_baseline_words(row), row.knobs.describe()) for row in result.baselines]
    if result.chosen is not None:
        rows.append(("» narthex", *_speed_cells(chosen), ""))
        settings.append(("» narthex", result.chosen.describe()))
    if not rows:
        return ""
    lines = [table(("setting of", "turn", "decode", "prompt", "compared"), rows, right="lrrr")]
    lines += [wrap(turn_words(result)), "", table(("setting of", "knobs"), settings)]
    return "\n".join(lines)


def _baseline_row(result: StudyResult, row: Baseline, chosen: Speed) -> tuple[str, ...]:
    speed = baseline_speed(result, row)
    if speed.turn_s is None:
        why = OUTCOME_WORDS[row.record.observation.outcome] if row.record else (row.why or "not measured")
        return (_baseline_words(row), "–", "–", "–", why)
    words = row.why or compared(speed.turn_s, chosen.turn_s)
    return (_baseline_words(row), *_speed_cells(speed), words)


def _baseline_words(row: Baseline) -> str:
    return BASELINE_WORDS.get(row.name, row.name)


def _speed_cells(speed: Speed) -> tuple[str, str, str]:
    return (
        format_duration_fine(speed.turn_s),
        format_rate(speed.decode_tps),
        format_rate(speed.prompt_tps),
    )


def _why(result: StudyResult) -> str:
    label = "Why this setting" if result.chosen is not None else "No recommendation"
    lines = [wrap(f"{label}: {result.verdict}", indent=2)]
    if result.tie:
        lines.append(wrap("It is a tie with the best setting you could have had without tuning."))
    limit = limits(result)
    if limit:
        lines.append(wrap(f"What limits it: {limit}", indent=2))
    if result.chosen is not None:
        lines.append(wrap(proof_words(result), indent=2))
    lines += [wrap(f"Doubt: {doubt}", indent=2) for doubt in doubts(result)]
    return "\n".join(lines)


def doubts(result: StudyResult) -> list[str]:
    """What may be wrong with the winner's measurements, each once."""
    seen: dict[str, None] = {}
    for record in result.trials:
        if record.trial.knobs == result.chosen:
            seen.update(dict.fromkeys(record.observation.doubts))
    return list(seen)


def proof_words(result: StudyResult) -> str:
    """Whether the winner is proven, and by what."""
    mine = soaks_of(result, result.chosen)
    if is_proven(result):
        total = f" ({format_duration(soak_seconds(result))} in all)" if len(mine) > 1 else ""
        return f"Proven: in its soak{total} it {soak_words(mine[-1])}"
    if mine:
        return f"Not proven: the soak ended badly; it {soak_words(mine[-1])}"
    return "Not proven: it was not soaked."


def server_words(proposal: ServerProposal) -> str:
    """A setting of the whole server, what it should bring, why, and what it costs: one paragraph."""
    return f"{proposal.words}: {gain_words(proposal)}{proposal.why} {proposal.cost}"


def gain_words(proposal: ServerProposal) -> str:
    """What a proposal should bring, in one sentence; empty where it is no matter of speed."""
    if proposal.gain is None:
        return ""
    turns = f"{format_duration_fine(proposal.turn_s)} instead of {format_duration_fine(proposal.over_turn_s)}"
    if proposal.gain_of == "context" and proposal.knobs is not None:
        much = (
            f"{proposal.gain:.2f} times the context, {proposal.knobs.num_ctx} instead of {proposal.over_ctx}"
        )
        return f"{much}, with a turn of {turns} ({proposal.over}). "
    what = "the first turn" if proposal.gain_of == "first turn" else "a turn"
    return f"{what} {proposal.gain:.2f} times as fast, {turns} ({proposal.over}). "


def _server(result: StudyResult) -> str:
    rows = server_proposals(result)
    if not rows:
        return ""
    lines = ["What settings of the whole server should bring (predicted; each needs a restart of it):"]
    return "\n".join([*lines, *(wrap(f"  {server_words(row)}", indent=4) for row in rows)])


def _next_steps(result: StudyResult) -> str:
    rows = []
    if result.profile:
        rows.append(("profile", result.profile))
        served = result.model is not None and result.model.served_as
        export = f"profile export {result.profile} --format llama-server"
        words = f"apply {result.profile}" if served else export
        rows.append(("use it", "narthex " + words))
        if not is_proven(result):
            rows.append(("prove it", f"narthex soak {result.profile} --for 150s"))
    if is_stored(result):
        rows.append(("report", f"narthex report {result.study} -o report.html"))
    return "\n".join(f"{name:<9}{text}" for name, text in rows)
