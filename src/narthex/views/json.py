"""``tune --json``: fields that others build on. They may be added to, never changed.

Described in ``docs/reference/json.md``; a test holds both together.
"""

from __future__ import annotations

from typing import Any

from narthex.knobs import KnobValues
from narthex.studies.records import Baseline, ServerProposal, StudyResult
from narthex.trials.trial import TrialRecord
from narthex.views.figures import (
    Speed,
    baseline_speed,
    chosen_speed,
    house_ratio,
    is_proven,
    server_proposals,
    soak_seconds,
)


def tune_json(result: StudyResult) -> dict[str, Any]:
    """A study's result as plain values. Seconds, tokens/s and bytes; unknown is null."""
    model = result.model
    return {
        "study": result.study,
        "goal": result.question.goal.value,
        "model": model.name if model else None,
        "model_path": model.path if model else None,
        "model_identity": model.identity if model else None,
        "engine": result.engine,
        "host": result.host,
        "engine_loads": result.engine_loads,
        "seconds": round(result.seconds, 3),
        "started_at": result.started_at,
        "finished": result.finished,
        "baselines": [_baseline(result, row) for row in result.baselines],
        "profile": _profile(result),
        "trials": [_trial(record) for record in result.trials],
        "decisions": [_decision(row) for row in result.decisions],
        "soaks": [_soak(index, result) for index in range(len(result.soaks))],
        "tie": result.tie,
        "verdict": result.verdict,
        "house_ratio": house_ratio(result),
        "server_level": [_server(row) for row in server_proposals(result)],
    }


def knobs_json(knobs: KnobValues) -> dict[str, Any]:
    """Knob values by name; null lets the engine decide."""
    return knobs.as_dict()


def _speed(speed: Speed) -> dict[str, Any]:
    return {
        "turn_s": _round(speed.turn_s, 4),
        "decode_tps": _round(speed.decode_tps, 3),
        "prompt_tps": _round(speed.prompt_tps, 3),
    }


def _baseline(result: StudyResult, row: Baseline) -> dict[str, Any]:
    observation = row.record.observation if row.record else None
    return {
        "name": row.name,
        "knobs": knobs_json(row.knobs),
        "outcome": observation.outcome.value if observation else None,
        "reason": (observation.reason if observation else "") or row.why,
        **_speed(baseline_speed(result, row)),
    }


def _profile(result: StudyResult) -> dict[str, Any] | None:
    if result.chosen is None:
        return None
    return {
        "name": result.profile,
        "knobs": knobs_json(result.chosen),
        **_speed(chosen_speed(result)),
        "soak_s": round(soak_seconds(result), 1),
        "proven": is_proven(result),
        "demo": result.question.demo,
    }


def _trial(record: TrialRecord) -> dict[str, Any]:
    observation = record.observation
    return {
        "sequence": record.sequence,
        "purpose": record.trial.purpose,
        "knobs": knobs_json(record.trial.knobs),
        "outcome": observation.outcome.value,
        "reason": observation.reason,
        "turn_s": _round(observation.turn_s, 4),
        "decode_tps": _round(observation.decode_tps, 3),
        "prompt_tps": _round(observation.prompt_tps, 3),
        "ttft_s": _round(observation.ttft_s, 4),
        "load_s": _round(observation.load_s, 3),
        "spread": _round(observation.spread, 4),
        "vram_bytes": observation.peaks.vram_bytes,
        "ram_bytes": observation.peaks.ram_bytes,
        "tokens_per_joule": observation.tokens_per_joule,
        "bandwidth_share": _round(observation.bandwidth_share, 4),
        "doubts": list(observation.doubts),
        "gaps": list(observation.gaps),
        "seconds": round(record.seconds, 3),
    }


def _decision(row: Any) -> dict[str, Any]:
    return {
        "sequence": row.sequence,
        "kind": row.kind,
        "text": row.text,
        "evidence": row.evidence,
        "knobs": knobs_json(row.knobs) if row.knobs else None,
    }


def _soak(index: int, result: StudyResult) -> dict[str, Any]:
    report = result.soaks[index]
    knobs = result.soaked_knobs[index] if index < len(result.soaked_knobs) else None
    return {
        "knobs": knobs_json(knobs) if knobs else None,
        "outcome": report.outcome.value,
        "reason": report.reason,
        "seconds": round(report.seconds, 1),
        "turns": report.turns,
        "errors": report.errors,
        "longest_stall_s": report.longest_stall_s,
        "fill_max": report.fill_max,
        "vram_growth_bytes": report.vram_growth_bytes,
        "ram_growth_bytes": report.ram_growth_bytes,
        "speed_drift": report.speed_drift,
        "broke": report.broke.value if report.broke else None,
        "beside": report.beside or None,
        "jobs": report.jobs,
        "doubts": list(report.doubts),
    }


def _server(row: ServerProposal) -> dict[str, Any]:
    return {
        "factor": row.factor,
        "env": row.env,
        "knobs": knobs_json(row.knobs) if row.knobs else None,
        "turn_s": _round(row.turn_s, 4),
        "over": row.over,
        "over_turn_s": _round(row.over_turn_s, 4),
        "over_ctx": row.over_ctx,
        "gain": _round(row.gain, 3),
        "gain_of": row.gain_of,
        "why": row.why,
        "cost": row.cost,
    }


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
